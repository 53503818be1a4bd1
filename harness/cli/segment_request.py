"""What ``bench segment`` was asked for, judged before torch or a model is loaded."""

from pathlib import Path

from ...methods import UserError
from ..use.photo_request import Classes, PhotoRequest, photo_request, split_texts
from .early import check_png, check_request
from .name_value import parse_options


def segment_request(
    *,
    photo: Path,
    classes: str | None,
    classes_file: Path | None,
    method: str,
    output: Path | None,
    protocol: str,
    backbone: str | None,
    weights: Path | None,
    device: str,
    allow_download: bool,
    changes: list[str],
    options: list[str],
) -> tuple[PhotoRequest, Path]:
    """The request, and where the picture goes.  Raises ``UserError`` or ``DataError`` for what can be seen now."""
    chosen_options = parse_options(options, "--option")
    check_request(method, backbone, weights, device)
    target = _output(output, photo, method)
    request = photo_request(
        photo,
        _classes(classes, classes_file),
        method=method,
        protocol=protocol,
        changes=parse_options(changes, "--set"),
        options=chosen_options,
        backbone=backbone,
        weights=weights,
        device=device,
        allow_download=allow_download,
    )
    return request, target


def _output(output: Path | None, photo: Path, method: str) -> Path:
    """Where the picture goes: never beside the photo, where a data set would take it for one of its images."""
    if output is None:
        name = f"{photo.stem}_{method.replace(':', '.').replace('/', '.')}.png"
        beside = photo.resolve().parent == Path.cwd()
        output = Path("results") / name if beside else Path(name)
        check_png(output, "the picture", make_folder=True)
    else:
        check_png(output, "--output")
    if output.exists() and photo.exists() and output.samefile(photo):
        raise UserError(f"the picture would overwrite the photo {photo}: name another file with --output")
    return output


def _classes(classes: str | None, classes_file: Path | None) -> Classes:
    """``"cat, sofa"``, with synonyms ``"cat; sofa, couch"``; or the file."""
    if classes is None and classes_file is not None:
        return classes_file
    if classes is None or classes_file is not None:
        raise UserError('name the classes with --classes "cat, sofa, wall" or with --classes-file FILE, one of both')
    if ";" in classes:
        return [split_texts(one, ",") for one in classes.split(";") if one.strip()]
    return split_texts(classes, ",")
