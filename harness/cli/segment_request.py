"""What ``bench segment`` was asked for, judged before torch or a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.beside import PICTURES, is_plain
from ...methods import UserError
from ..use.pairs import check_methods, options_of, parts_of
from ..use.photo_request import Classes, PhotoRequest, photo_request, split_texts
from .early import check_folder, check_png, check_request
from .name_value import names_of, parse_changes, parse_options

_FOLDER = Path("results/segments")
"""Where the pictures of several photos go, unless ``--output`` says."""


@dataclass(frozen=True)
class Sheet:
    """A picture to write: what methods say of one photo."""

    requests: tuple[PhotoRequest, ...]
    picture: Path

    @property
    def photo(self) -> Path:
        """The photo."""
        return self.requests[0].photo

    def beside(self, request: PhotoRequest, ending: str) -> Path:
        """A file of one method beside the picture."""
        return self.picture.with_name(f"{self.photo.stem}_{_plain(request.method)}{ending}")


def segment_sheets(
    *,
    photos: Sequence[Path],
    classes: str | None,
    classes_file: Path | None,
    methods: str,
    output: Path | None,
    protocol: str,
    backbone: str | None,
    weights: Path | None,
    device: str,
    allow_download: bool,
    changes: list[str],
    options: list[str],
    heat: str,
) -> list[Sheet]:
    """A sheet for every photo.  Raises ``UserError`` or ``DataError`` for what can be seen now."""
    given = parse_options(options, "--option")
    names = check_methods(names_of(methods))
    for name in names:
        check_request(name, backbone, weights, device)
    files = _files(photos)
    targets = _targets(files, [_plain(name) for name in names], output)
    words, changed = _classes(classes, classes_file), parse_changes(changes)
    chosen_options = options_of(names, given)
    parts = parts_of(names, backbone, weights)

    def asked(photo: Path, name: str) -> PhotoRequest:
        own: dict[str, Any] = dict(zip(("backbone", "weights"), parts[name], strict=True))
        return photo_request(
            photo,
            words,
            method=name,
            protocol=protocol,
            changes=changed,
            options=chosen_options[name],
            device=device,
            allow_download=allow_download,
            heat=heat,
            **own,
        )

    return [
        Sheet(tuple(asked(file, name) for name in names), target) for file, target in zip(files, targets, strict=True)
    ]


def _files(photos: Sequence[Path]) -> list[Path]:
    """Photos as they are named, and all pictures of a folder that is named instead."""
    found: list[Path] = []
    for photo in photos:
        inside = sorted(p for p in photo.iterdir() if _is_picture(p)) if photo.is_dir() else [photo]
        if not inside:
            raise UserError(f"folder {photo} has no pictures ({', '.join(PICTURES)})")
        found += inside
    doubled = sorted({str(p) for p in found if found.count(p) > 1})
    if doubled:
        raise UserError(f"{doubled[0]} is named twice: name every photo once")
    return found


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and is_plain(path) and path.is_file() and not path.name.startswith(".")


def _targets(photos: Sequence[Path], methods: Sequence[str], output: Path | None) -> list[Path]:
    """Where the pictures go: never beside a photo, where a data set would take them for its images."""
    names = [f"{photo.stem}_{'+'.join(methods)}.png" for photo in photos]
    if len(photos) == 1 and (output is None or output.suffix or not output.is_dir()):
        return [_target(photos[0], names[0], output)]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise UserError(f"two photos would both become {doubled[0]}: segment them one after the other")
    folder = _FOLDER if output is None else output
    if output is not None and output.suffix:
        raise UserError(f"--output {output}: {len(photos)} photos need a folder, not one file")
    check_folder(folder, "--output")
    if any(photo.resolve().parent == folder.resolve() for photo in photos):
        raise UserError(f"--output {folder} has the photos in it: name another folder")
    return [folder / name for name in names]


def _target(photo: Path, name: str, output: Path | None) -> Path:
    if output is None:
        output = Path("results") / name if photo.resolve().parent == Path.cwd() else Path(name)
        check_png(output, "the picture", make_folder=True)
    else:
        check_png(output, "--output")
    if output.exists() and photo.exists() and output.samefile(photo):
        raise UserError(f"the picture would overwrite the photo {photo}: name another file with --output")
    return output


def _plain(method: str) -> str:
    """A method's name as a part of a file's name."""
    return method.replace(":", ".").replace("/", ".")


def _classes(classes: str | None, classes_file: Path | None) -> Classes:
    """``"cat, sofa"``, with synonyms ``"cat; sofa, couch"``; or the file."""
    if classes is None and classes_file is not None:
        return classes_file
    if classes is None or classes_file is not None:
        raise UserError('name the classes with --classes "cat, sofa, wall" or with --classes-file FILE, one of both')
    if ";" in classes:
        return [split_texts(one, ",") for one in classes.split(";") if one.strip()]
    return split_texts(classes, ",")
