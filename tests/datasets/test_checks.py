"""Checks before a run: every problem at once, with names; and a memory of what was found good."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError, DatasetRecord, Sample, check_samples, open_dataset
from ovss.datasets.dataset import FolderDataset

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
    check_samples(data, data.ids[:2])
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
    reads: list[str] = []
    load = FolderDataset.load

    def counted(self: FolderDataset, image_id: str) -> Sample:
        reads.append(image_id)
        return load(self, image_id)

    monkeypatch.setattr(FolderDataset, "load", counted)
    return reads


def test_good_files_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, memory = make(tmp_path / "data", ["a", "b", "c"]), tmp_path / "memory"
    reads = count_reads(monkeypatch)
    check_samples(data, data.ids[:2], memory)
    assert sorted(reads) == ["a", "b"]
    reads.clear()
    check_samples(data, data.ids, memory)
    assert reads == ["c"]
    reads.clear()
    check_samples(data, data.ids, memory)
    assert reads == []
    check_samples(data, data.ids)  # without a memory everything is read
    assert sorted(reads) == ["a", "b", "c"]


def test_changed_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, memory = make(tmp_path / "data", ["a", "b", "c"]), tmp_path / "memory"
    check_samples(data, data.ids, memory)
    reads = count_reads(monkeypatch)
    label = tmp_path / "data/l/b.png"
    Image.fromarray(np.full((20, 24), 77, np.uint8)).save(label)
    with pytest.raises(DataError, match=r"b\.png: label values 77"):
        check_samples(data, data.ids, memory)
    assert reads == ["b"]
    with pytest.raises(DataError, match=r"b\.png: label values 77"):  # bad verdicts are not remembered
        check_samples(data, data.ids, memory)
    image = tmp_path / "data/i/c.jpg"
    os.utime(image, ns=(1, 1))  # the same size at another time
    label.unlink()
    reads.clear()
    with pytest.raises(DataError, match=r"b\.png: the file does not exist"):
        check_samples(data, data.ids, memory)
    assert sorted(reads) == ["b", "c"]


def test_another_record_does_not_inherit_verdicts(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    data = make(tmp_path / "data", ["a", "b"])
    check_samples(data, data.ids, memory)
    stricter = DatasetRecord.model_validate({**data.record.model_dump(), "classes": ("a", "b")})
    with pytest.raises(DataError, match="label values 2"):
        check_samples(FolderDataset(stricter, tmp_path / "data"), data.ids, memory)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null"])
def test_a_damaged_memory_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    data, memory = make(tmp_path / "data", ["a", "b"]), tmp_path / "memory"
    check_samples(data, data.ids, memory)
    (file,) = memory.glob("*.json")
    assert set(json.loads(file.read_text())) == {"a", "b"}
    file.write_text(content)
    reads = count_reads(monkeypatch)
    check_samples(data, data.ids, memory)
    assert sorted(reads) == ["a", "b"]


def test_an_unwritable_memory_does_not_stop_a_run(tmp_path: Path) -> None:
    """The memory only saves time."""
    data, memory = make(tmp_path / "data", ["a", "b"]), tmp_path / "memory"
    memory.write_text("a file where the folder should be")
    check_samples(data, data.ids, memory)


def test_procedural_data_needs_no_files() -> None:
    data = open_dataset("shapes")
    check_samples(data, data.ids[:3], Path("never-made"))
    assert not Path("never-made").exists()
