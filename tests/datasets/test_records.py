"""Records, the catalogue and the CamVid layout."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError, list_datasets, open_dataset, read_record
from ovss.datasets.dataset import FolderDataset

GOOD = {
    "key": '"attic"',
    "title": '"Photos of my attic"',
    "images": '"photos"',
    "labels": '"masks"',
    "classes": '["box", "chair", "wall"]',
}


def write(folder: Path, **changes: str | None) -> Path:
    path = folder / "attic.toml"
    fields = {**GOOD, **changes}
    path.write_text("".join(f"{k} = {v}\n" for k, v in fields.items() if v is not None))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    record = read_record(write(tmp_path))
    assert record.classes == ("box", "chair", "wall")
    assert (record.image_suffix, record.label_suffix, record.ignore_index) == (".jpg", ".png", 255)
    assert (record.label_encoding, record.background, record.protocol) == ("index", None, "unified")


def test_classes_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("box\r\n chair, stool \nwall\n\n")
    assert read_record(write(tmp_path, classes='"names.txt"')).classes == ("box", "chair, stool", "wall")
    assert "gone.txt" in refusal(write(tmp_path, classes='"gone.txt"'))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": '["box", "wall", "box"]'}, ["named twice", "box"]),
        ({"classes": "[]"}, ["classes"]),
        ({"background": "3"}, ["background is 3", "3 classes"]),
        ({"background": "-1"}, ["background"]),
        ({"colour": '"red"'}, ["colour", "not permitted"]),
        ({"palette": "[[0, 0, 0], [1, 1, 1]]"}, ["palette has 2 colours for 3 classes"]),
        ({"palette": "[[0, 0, 0], [1, 1, 1], [2, 2, 256]]"}, ["palette.2.2", "255"]),
        ({"palette": "[[0, 0, 0], [1, 1, 1], [2, 2]]"}, ["palette.2"]),
        ({"label_encoding": '"colour"'}, ["needs a palette"]),
        ({"label_encoding": '"colour"', "palette": "[[1, 1, 1], [1, 1, 1], [2, 2, 2]]"}, ["share a colour"]),
        ({"label_encoding": '"rle"'}, ["label_encoding", "index"]),
        ({"ignore_index": "65536"}, ["ignore_index", "65535"]),
        ({"block_frames": "-1"}, ["block_frames"]),
        ({"key": '"My Attic"'}, ["key"]),
        ({"title": None}, ["title", "required"]),
        ({"title": None, "background": '"box"'}, ["title", "background"]),  # both at once
        ({"images": "= 3"}, ["no valid TOML"]),
        ({"cluster_pattern": '"("'}, ["cluster_pattern", "no regular expression"]),
        ({"cluster_pattern": '"abc"'}, ["cluster_pattern", "has no group"]),
        ({"label_map": '{ file = "ids.tsv", from = "raw" }'}, ["label_map needs { file"]),
        ({"groups": '{ file = "ids.tsv" }'}, ["groups needs { file"]),
        ({"alternatives": "3"}, ["alternatives"]),
        ({"alternatives": '["x"]'}, ["alternatives.0"]),
    ],
)
def test_mistakes_are_named_with_file_and_field(
    tmp_path: Path, changes: dict[str, str | None], words: list[str]
) -> None:
    text = refusal(write(tmp_path, **changes))
    assert all(word in text for word in words), text


def test_mistakes_in_files_beside_the_record_are_named(tmp_path: Path) -> None:
    (tmp_path / "ids.tsv").write_text("raw\ttrain\n1\tone\n")
    (tmp_path / "colours.txt").write_text("1 2 x\n3 4 5\n6 7 8\n")
    (tmp_path / "parents.json").write_text("{bad")
    text = refusal(write(tmp_path, label_map='{ file = "ids.tsv", from = "raw", to = "train" }'))
    assert "ids.tsv" in text and "no whole numbers" in text
    assert "palette.0.2" in refusal(write(tmp_path, palette='"colours.txt"'))
    text = refusal(write(tmp_path, parents='"parents.json"'))
    assert "parents.json" in text and "no valid JSON" in text


def test_files_that_are_absent_or_no_text(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "gone.toml")
    (tmp_path / "latin.toml").write_bytes(b'key = "caf\xe9"\n')
    assert "it is not UTF-8, see byte 0xe9 in line 1" in refusal(tmp_path / "latin.toml")


def test_the_hash_moves_with_what_is_scored_only(tmp_path: Path) -> None:
    base = read_record(write(tmp_path)).hash
    assert base == read_record(write(tmp_path)).hash
    for prose in ({"title": '"Attic"'}, {"licence": '"CC0"'}, {"protocol": '"sclip"'}, {"home": '"x"'}):
        assert read_record(write(tmp_path, **prose)).hash == base
    moving: list[dict[str, str | None]] = [
        {"classes": '["box", "wall", "chair"]'},
        {"ignore_index": "254"},
        {"background": "0"},
        {"label_map": "{ 7 = 255 }"},
        {"image_suffix": '".png"'},
        {"split": '"val"'},
        {"block_frames": "20"},
    ]
    hashes = {read_record(write(tmp_path, **m)).hash for m in moving}
    assert base not in hashes and len(hashes) == len(moving)


def test_every_catalogued_record_is_sound() -> None:
    records = list_datasets()
    assert {"shapes", "camvid"} <= set(records)
    for key, record in records.items():
        assert record.key == key and record.expected_images and record.title
        assert record.licence != "unknown"


def test_unknown_names_are_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data set 'camvit'; did you mean camvid\?.*Known: shapes, .*camvid"):
        open_dataset("camvit")
    with pytest.raises(DataError, match="has the splits train, val, test, not 'dev'"):
        open_dataset("shapes:dev")
    with pytest.raises(DataError, match=r"--data-root DIR, set OVSS_DATA, or write data_roots into .*config\.toml"):
        open_dataset("camvid")
    with pytest.raises(DataError, match=r"'camvid' is not there: no images in 'test' .*bench data download camvid"):
        open_dataset("camvid", tmp_path)


def test_an_empty_image_folder_is_told(tmp_path: Path) -> None:
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=r"no \*\.jpg in .*photos"):
        open_dataset(str(write(tmp_path)))


def make_camvid(root: Path, names: list[str]) -> Path:
    """A miniature of the SegNet layout; values 0 to 11, where 11 is void."""
    rng = np.random.default_rng(5)
    for folder in ("test", "testannot"):
        (root / folder).mkdir(parents=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(root / "test" / f"{name}.png")
        Image.fromarray(rng.integers(0, 12, (9, 12), np.uint8)).save(root / "testannot" / f"{name}.png")
    return root


FRAMES = [f"0001TP_{i:06d}" for i in range(8550, 8550 + 45 * 30, 30)] + [f"Seq05VD_f{i:05d}" for i in range(0, 750, 30)]


def test_camvid_void_is_ignored(tmp_path: Path) -> None:
    data = open_dataset("camvid", make_camvid(tmp_path, FRAMES[:3]))
    assert data.ids == tuple(FRAMES[:3]) and len(data.record.classes) == 11
    sample = data.load(FRAMES[0])
    with Image.open(tmp_path / "testannot" / f"{FRAMES[0]}.png") as picture:
        stored = np.asarray(picture)
    assert (stored == 11).any()
    assert np.array_equal(sample.label, np.where(stored == 11, 255, stored))
    assert sample.image.shape == (9, 12, 3)


def test_camvid_units_are_twenty_frames_of_one_drive(tmp_path: Path) -> None:
    data = open_dataset("camvid", make_camvid(tmp_path, FRAMES))
    assert data.ids == tuple(sorted(FRAMES))
    expected = [0] * 20 + [1] * 20 + [2] * 5 + [3] * 20 + [4] * 5  # a new drive starts a new unit
    assert data.clusters(data.ids).tolist() == expected
    assert data.clusters(data.ids[:3]).tolist() == [0, 0, 0]


def test_camvid_is_found_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_camvid(tmp_path / "camvid", FRAMES[:2])
    monkeypatch.setenv("OVSS_DATA", str(tmp_path))
    assert open_dataset("camvid").ids == tuple(FRAMES[:2])
    monkeypatch.setenv("OVSS_DATA", str(tmp_path / "camvid"))
    assert open_dataset("camvid").ids == tuple(FRAMES[:2])


def test_without_dependence_every_image_is_its_own_unit(tmp_path: Path) -> None:
    data = open_dataset("shapes")
    assert data.clusters(data.ids[:5]).tolist() == [0, 1, 2, 3, 4]


def test_images_in_subfolders_keep_their_path(tmp_path: Path) -> None:
    for name in ("photos/b/two", "photos/one", "photos/a/deep/three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / f"{name}.jpg")
    for name in ("masks/b/two", "masks/one", "masks/a/deep/three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(tmp_path / f"{name}.png")
    data = FolderDataset(read_record(write(tmp_path)), tmp_path)
    assert data.ids == ("a/deep/three", "b/two", "one")
    assert data.load("a/deep/three").label.shape == (3, 4)


@pytest.mark.skipif("OVSS_CAMVID" not in os.environ, reason="set OVSS_CAMVID to a CamVid folder in the SegNet layout")
def test_real_camvid_has_the_shares_of_its_table() -> None:
    """Shares of test pixels in percent, measured on the original files."""
    data = open_dataset("camvid", Path(os.environ["OVSS_CAMVID"]))
    assert data.planned == 233
    if len(data.ids) != 233:
        pytest.skip(f"{len(data.ids)} of 233 images: the table is that of all")
    counts = np.zeros(256, np.int64)
    for image_id in data.ids:
        counts += np.bincount(data.load(image_id).label.ravel(), minlength=256)
    shares = 100 * counts / counts.sum()
    expected = [17.07, 24.61, 1.18, 25.81, 9.27, 11.25, 1.01, 1.18, 3.97, 0.63, 0.19]
    assert np.abs(shares[:11] - expected).max() < 0.01
    assert abs(shares[255] - 3.83) < 0.01
