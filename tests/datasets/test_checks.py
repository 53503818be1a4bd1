"""Checks before a run: every problem at once, with names; and a memory of what was found good."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError, DatasetRecord, check_samples, checks, open_dataset, set_digest
from ovss.datasets.dataset import FolderDataset
from ovss.datasets.examine import ImageFacts, LabelFacts
from ovss.datasets.loader import label_digest
from ovss.datasets.memory import head_of

MINI = Path(__file__).parents[1] / "data" / "mini"


def make(root: Path, names: list[str], **fields: object) -> FolderDataset:
    """A folder data set of three classes whose samples are all good."""
    rng = np.random.default_rng(1)
    for folder in ("i", "l"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(root / "i" / f"{name}.jpg")
        Image.fromarray(rng.integers(0, 3, (20, 24), np.uint8)).save(root / "l" / f"{name}.png")
    values = {"key": "made_up", "title": "made up", "images": "i", "labels": "l", "classes": ("a", "b", "c"), **fields}
    return FolderDataset(DatasetRecord.model_validate(values), root)


def test_good_data_passes(tmp_path: Path) -> None:
    done: list[int] = []
    data = make(tmp_path, ["one", "two", "three"])
    check_samples(data, data.ids, advance=done.append)
    assert sum(done) == 3
    mini = open_dataset(str(MINI / "mini.toml"))
    check_samples(mini, mini.ids)
    assert len(mini.ids) == mini.record.expected_images == 6


def test_problems_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"n{k}\n" for k in range(7)) + "gone\nn3\n")
    data = make(tmp_path, [f"n{k}" for k in range(7)], list_file="list.txt")
    (tmp_path / "l/n0.png").unlink()
    whole = (tmp_path / "i/n1.jpg").read_bytes()
    (tmp_path / "i/n1.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((20, 24), 9, np.uint8)).save(tmp_path / "l/n2.png")
    Image.fromarray(np.zeros((24, 20), np.uint8)).save(tmp_path / "l/n4.png")
    Image.new("RGB", (24, 20)).save(tmp_path / "l/n5.png")
    with pytest.raises(DataError) as caught:
        check_samples(data, data.ids)
    text = str(caught.value)
    assert "'made_up' has 8 problem(s); nothing was run" in text
    for words in (
        f"{tmp_path}/l/n0.png: the file does not exist",
        f"{tmp_path}/i/n1.jpg: the file cannot be decoded",
        f"{tmp_path}/l/n2.png: label values 9 are neither a class (0 to 2) nor 255",
        f"{tmp_path}/l/n4.png: the label is 20x24, its image 24x20",
        f"{tmp_path}/l/n5.png: the label has mode RGB",
        f"{tmp_path}/i/gone.jpg: the file does not exist",
        f"{tmp_path}/l/gone.png: the file does not exist",
        f"{tmp_path}/list.txt: lines 4 and 9 both name n3",
    ):
        assert words in text
    assert "n6" not in text and len(caught.value.problems) == 8


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    data = make(tmp_path, ["a", "b", "c"])
    (tmp_path / "l/c.png").unlink()
    done: list[int] = []
    checked = check_samples(data, data.ids[:2], advance=done.append)
    assert checked.digests["c"] == "unreadable" and sum(done) == 3
    (warning,) = checked.warnings
    assert warning.startswith(f"{tmp_path}/l/c.png: the file does not exist (not asked for this time)")
    with pytest.raises(DataError, match=r"c\.png"):
        check_samples(data, data.ids)


def test_long_reports_are_cut(tmp_path: Path) -> None:
    data = make(tmp_path, [f"n{k:02d}" for k in range(25)])
    shutil.rmtree(tmp_path / "l")
    (tmp_path / "l").mkdir()
    with pytest.raises(DataError) as caught:
        check_samples(data, data.ids)
    assert len(caught.value.problems) == 25
    assert "... and 5 more" in str(caught.value) and str(caught.value).count("does not exist") == 20


def test_list_file_with_blank_lines_and_foreign_prefixes(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("/SegNet/CamVid/test/b.jpg /SegNet/CamVid/testannot/b.png\n\n  \na\n\n")
    data = make(tmp_path, ["b", "a", "c"], list_file="list.txt")
    assert data.ids == ("a", "b")  # c is not listed
    check_samples(data, data.ids)
    (tmp_path / "list.txt").unlink()
    with pytest.raises(DataError, match=r"list file .*list\.txt does not exist"):
        _ = FolderDataset(data.record, tmp_path).ids


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    reads: list[str] = []
    image, label = checks.image_facts, checks.label_facts

    def counted_image(path: Path, decode: bool) -> ImageFacts:
        reads.append(path.name if decode else f"{path.name} hashed")
        return image(path, decode)

    def counted_label(path: Path, record: DatasetRecord) -> LabelFacts:
        reads.append(path.name)
        return label(path, record)

    monkeypatch.setattr(checks, "image_facts", counted_image)
    monkeypatch.setattr(checks, "label_facts", counted_label)
    return reads


ALL = ["a.jpg", "a.png", "b.jpg", "b.png", "c.jpg", "c.png"]


def test_good_files_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, memory = make(tmp_path / "data", ["a", "b", "c"]), tmp_path / "memory"
    reads = count_reads(monkeypatch)
    first = check_samples(data, data.ids[:2], memory)
    assert sorted(reads) == ["a.jpg", "a.png", "b.jpg", "b.png", "c.jpg hashed", "c.png"]
    reads.clear()
    second = check_samples(data, data.ids, memory)
    assert reads == ["c.jpg"]  # decoded now
    reads.clear()
    assert check_samples(data, data.ids, memory) == second and reads == []
    assert check_samples(data, data.ids[:1], memory).digest == first.digest == second.digest and reads == []
    check_samples(data, data.ids)  # without a memory everything is read
    assert sorted(reads) == ALL


def test_changed_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, memory = make(tmp_path / "data", ["a", "b", "c"]), tmp_path / "memory"
    check_samples(data, data.ids, memory)
    reads = count_reads(monkeypatch)
    label = tmp_path / "data/l/b.png"
    Image.fromarray(np.full((20, 24), 77, np.uint8)).save(label)
    with pytest.raises(DataError, match=r"b\.png: label values 77"):
        check_samples(data, data.ids, memory)
    assert reads == ["b.png"]
    with pytest.raises(DataError, match=r"b\.png: label values 77"):  # bad verdicts are not remembered
        check_samples(data, data.ids, memory)
    image = tmp_path / "data/i/c.jpg"
    os.utime(image, ns=(1, 1))  # the same size at another time
    label.unlink()
    reads.clear()
    with pytest.raises(DataError, match=r"b\.png: the file does not exist"):
        check_samples(data, data.ids, memory)
    assert sorted(reads) == ["b.png", "c.jpg"]


def test_a_file_that_takes_the_place_of_another_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same name, size and time, another inode: what `cp -p` and some synchronisers leave."""
    data, memory = make(tmp_path / "data", ["a", "b"]), tmp_path / "memory"
    before = check_samples(data, data.ids, memory)
    label, other = tmp_path / "data/l/a.png", tmp_path / "other.png"
    pixels = np.asarray(Image.open(label)).copy()
    other.write_bytes(label.read_bytes())
    pixels[0, 0] = (pixels[0, 0] + 1) % 3
    Image.fromarray(pixels).save(other)
    with other.open("r+b") as file:
        file.truncate(label.stat().st_size)
    os.utime(other, ns=(label.stat().st_atime_ns, label.stat().st_mtime_ns))
    other.replace(label)
    reads = count_reads(monkeypatch)
    after = check_samples(data, data.ids, memory)
    assert reads == ["a.png"] and after.digests["a"] != before.digests["a"] and after.digest != before.digest


def test_another_record_does_not_inherit_verdicts(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    data = make(tmp_path / "data", ["a", "b"])
    check_samples(data, data.ids, memory)
    stricter = DatasetRecord.model_validate({**data.record.model_dump(), "classes": ("a", "b")})
    with pytest.raises(DataError, match="label values 2"):
        check_samples(FolderDataset(stricter, tmp_path / "data"), data.ids, memory)


def flipped(content: bytes, position: int) -> bytes:
    """One bit changed; a position below zero counts from the end."""
    return bytes(b ^ 1 if k == position % len(content) else b for k, b in enumerate(content))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "brace": lambda content: b"{",
    "list": lambda content: b"[1, 2]",
    "no utf-8": lambda content: b"\xff\xfe\n" + content,
    "cut": lambda content: content[:-9],
    "another format": lambda content: content.replace(b"ovss-checked 2", b"ovss-checked 1", 1),
    "other rules": lambda content: content[:15] + (b"0" * 16) + content[31:],
    "the first format": lambda content: b'{"a": ["1@2 3@4", [0, 1, 2]]}',
    **{f"bit {k}": (lambda content, k=k: flipped(content, k)) for k in (0, 20, 90, 200, 400, -1)},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    data, memory = make(tmp_path / "data", ["a", "b"]), tmp_path / "memory"
    first = check_samples(data, data.ids, memory)
    (file,) = memory.iterdir()
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    reads = count_reads(monkeypatch)
    assert check_samples(data, data.ids, memory) == first
    assert sorted(reads) == ALL[:4]


def test_a_memory_with_a_right_sum_and_a_wrong_content_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, memory = make(tmp_path / "data", ["a", "b"]), tmp_path / "memory"
    check_samples(data, data.ids, memory)
    (file,) = memory.iterdir()
    for body in (b"[]", b'{"samples": {"a": {"image": {"sha256": "zz"}}}}', b"\xff"):
        file.write_bytes(head_of(body) + b"\n" + body)
        reads = count_reads(monkeypatch)
        check_samples(data, data.ids, memory)
        assert sorted(reads) == ALL[:4]
        monkeypatch.undo()


def test_an_unwritable_memory_does_not_stop_a_run(tmp_path: Path) -> None:
    """The memory only saves time."""
    data, memory = make(tmp_path / "data", ["a", "b"]), tmp_path / "memory"
    memory.write_text("a file where the folder should be")
    check_samples(data, data.ids, memory)


def test_procedural_data_needs_no_files() -> None:
    data = open_dataset("shapes")
    check_samples(data, data.ids[:3], Path("never-made"))
    assert not Path("never-made").exists()
    checked = check_samples(data, data.ids[:3])
    assert set(checked.digests) == set(data.ids) and set(checked.digests.values()) == {""}


# Digests


def test_a_digest_covers_the_bytes_of_the_image_and_the_meaning_of_the_label(tmp_path: Path) -> None:
    data = make(tmp_path, ["a", "b"])
    label = np.asarray(Image.open(tmp_path / "l/a.png"))
    image_sum = hashlib.sha256((tmp_path / "i/a.jpg").read_bytes()).hexdigest()
    label_sum = hashlib.sha256(b"20x24\n" + label.astype("<u2").tobytes()).hexdigest()
    checked, sample = check_samples(data, data.ids), data.load("a")
    assert (sample.image_sha256, sample.label_sha256) == (image_sum, label_sum)
    assert checked.digests["a"] == sample.digest == f"{image_sum[:32]}:{label_sum[:32]}"
    lines = "".join(f"{i} {data.load(i).digest}\n" for i in ("a", "b"))[:-1]
    assert checked.digest == hashlib.sha256(lines.encode()).hexdigest()
    once: dict[object, object] = {}
    shared = data.load("a", lambda key, read: once.setdefault(key, read()))  # type: ignore[arg-type]
    assert shared.digest == sample.digest and len(once) == 2
    assert check_samples(data, ["b"]).digests == checked.digests  # whoever is asked for


def test_two_forms_of_the_same_labels_agree(tmp_path: Path) -> None:
    one = make(tmp_path / "one", ["a"])
    two = make(tmp_path / "two", ["a"], label_suffix=".tif", first_label=7, label_map={300: 8}, ignore_index=65535)
    label = np.asarray(Image.open(tmp_path / "one/l/a.png")).astype(np.uint16) + 7
    label[label == 8] = 300
    Image.fromarray(label).save(tmp_path / "two/l/a.tif")
    assert two.load("a").label.dtype != one.load("a").label.dtype
    assert check_samples(one, one.ids).digest == check_samples(two, two.ids).digest


def test_digests_tell_contents_apart(tmp_path: Path) -> None:
    flat, tall = np.zeros((2, 6), np.uint8), np.zeros((6, 2), np.uint8)
    assert label_digest(flat) != label_digest(tall) != label_digest(tall + 1)
    assert label_digest(flat) == label_digest(flat.astype(np.uint16)) == label_digest(flat.astype(">u2"))
    large = np.arange(700 * 3, dtype=np.uint16).reshape(700, 3)  # several portions of rows
    assert label_digest(large) == hashlib.sha256(b"700x3\n" + large.tobytes()).hexdigest()
    assert set_digest({"a": "1", "b": "2"}) == set_digest({"b": "2", "a": "1"}) != set_digest({"a": "2", "b": "1"})


def test_one_changed_pixel_is_another_digest_and_another_place_is_not(tmp_path: Path) -> None:
    first = make(tmp_path / "first", ["a", "b"])
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    second = FolderDataset(first.record, tmp_path / "second")
    assert check_samples(first, first.ids).digest == check_samples(second, second.ids).digest
    pixels = np.asarray(Image.open(tmp_path / "second/i/b.jpg")).copy()
    pixels[3, 3] ^= 255
    Image.fromarray(pixels).save(tmp_path / "second/i/b.jpg", quality=100)
    checked = check_samples(second, second.ids)
    assert checked.digests["a"] == check_samples(first, first.ids).digests["a"]
    assert checked.digest != check_samples(first, first.ids).digest
