"""Where data sets are looked for: roots, their order, the folders below them, links, and the user's configuration."""

import os
from pathlib import Path

import pytest

from ovss.datasets import DataError, find_record, open_dataset
from ovss.datasets.dataset import FolderDataset
from ovss.datasets.places import config_path, data_roots, homes, prepared_root, user_config

from .miniatures import build, build_raw


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("OVSS_CONFIG", str(path))
    return path


def home_of(name: str, data_root: Path | None = None) -> Path:
    dataset = open_dataset(name, data_root)
    assert isinstance(dataset, FolderDataset)
    assert len(dataset.ids) == 1
    dataset.load(dataset.ids[0])
    return dataset.home


def camvid(root: Path) -> Path:
    """A data root with CamVid; returns the data set's own folder."""
    return build("camvid", root, 1) / "CamVid"


# Roots and their order


def test_no_root_is_an_error_that_names_all_ways(config: Path) -> None:
    assert data_roots("camvid") == []
    with pytest.raises(DataError) as caught:
        open_dataset("camvid")
    assert all(word in str(caught.value) for word in ("--data-root DIR", "OVSS_DATA", "data_roots", str(config)))


def test_the_order_of_roots(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("own", "first", "second", "third", "given")
    own, first, second, third, given = (tmp_path / n for n in names)
    config.write_text(f'data_roots = ["{third}"]\n[datasets]\ncamvid = "{own}"\n')
    monkeypatch.setenv("OVSS_DATA", f"{first}{os.pathsep}{os.pathsep}{second}")
    assert data_roots("camvid") == [own, first, second, third]
    assert data_roots("voc21") == [first, second, third]
    assert data_roots("camvid", given) == [given]
    homes_by_root = {root: camvid(root) for root in (own, first, second, third, given)}
    assert home_of("camvid", given) == homes_by_root[given]
    for root in (own, first, second, third):  # each is found when those before it are gone
        assert home_of("camvid") == homes_by_root[root]
        homes_by_root[root].rename(root / "elsewhere")
        (root / "elsewhere/test").rename(root / "elsewhere/gone")
    with pytest.raises(DataError, match="'camvid' is not there") as caught:
        open_dataset("camvid")
    assert all(str(root) in str(caught.value) for root in (own, first, second, third))
    assert str(given) not in str(caught.value)


def test_a_given_root_counts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camvid(tmp_path / "here")
    monkeypatch.setenv("OVSS_DATA", str(tmp_path / "here"))
    with pytest.raises(DataError, match="'camvid' is not there"):
        open_dataset("camvid", tmp_path / "given")


def test_data_sets_of_several_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    camvid(first)
    build("voc21", second, 1)
    monkeypatch.setenv("OVSS_DATA", f"{first}{os.pathsep}{second}")
    assert home_of("camvid") == first / "CamVid" and home_of("voc21") == second / "VOCdevkit/VOC2012"


def test_images_without_labels_do_not_hide_a_later_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (camvid(first) / "testannot").iterdir():
        path.unlink()
    camvid(second)
    monkeypatch.setenv("OVSS_DATA", f"{first}{os.pathsep}{second}")
    assert home_of("camvid") == second / "CamVid"
    with pytest.raises(DataError, match=r"has images in .*first.* but no labels"):
        open_dataset("camvid", first)


# Folders below a root


def test_places_then_the_key_then_the_root_itself(tmp_path: Path) -> None:
    record = find_record("voc21")
    folders = [h.relative_to(tmp_path).as_posix() for h in homes(record, [tmp_path])]
    assert folders == ["VOCdevkit/VOC2012", "VOC2012", "voc21", "."]
    other = next(iter(find_record("coco_object").forms("instances")))
    assert tmp_path / "coco_object" in homes(other, [tmp_path])  # of a key with a source the key counts


def test_an_mmsegmentation_data_folder(tmp_path: Path) -> None:
    """All data sets side by side, as mmsegmentation's guide lays them out."""
    places = {
        "voc21": "VOCdevkit/VOC2012",
        "context60": "VOCdevkit/VOC2010",
        "coco_stuff": "coco_stuff164k",
        "coco_stuff10k": "coco_stuff10k",
        "cityscapes": "cityscapes",
        "ade20k": "ade/ADEChallengeData2016",
    }
    for key in places:
        build(key, tmp_path, 1)
    for key, place in places.items():
        assert home_of(key, tmp_path) == tmp_path / place
        assert home_of(key, tmp_path / place) == tmp_path / place  # the own root
    for key in ("voc20", "voc20b", "context59", "coco_stuff27"):  # other readings of the same files
        assert home_of(key, tmp_path).is_relative_to(tmp_path)


def test_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = camvid(tmp_path / "disk")
    for link, target in (("root", tmp_path / "disk"), ("by_key/camvid", own), ("by_place/CamVid", own), ("own", own)):
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(target, target_is_directory=True)
        root = tmp_path / Path(link).parts[0]
        assert home_of("camvid", root).resolve() == own.resolve()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/CamVid").symlink_to(tmp_path / "gone", target_is_directory=True)
    monkeypatch.setenv("OVSS_DATA", f"{tmp_path / 'broken'}{os.pathsep}{tmp_path / 'by_key'}")
    assert home_of("camvid").resolve() == own.resolve()


def test_folders_inside_may_be_links(tmp_path: Path) -> None:
    own = camvid(tmp_path / "disk")
    copy = tmp_path / "data/CamVid"
    copy.mkdir(parents=True)
    for folder in ("test", "testannot"):
        (copy / folder).symlink_to(own / folder, target_is_directory=True)
    assert home_of("camvid", tmp_path / "data") == copy


def test_a_file_in_the_place_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="'camvid' is not there"):
        open_dataset("camvid", tmp_path / "file")


# Configuration


def test_where_the_configuration_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_path().name == "no-config.toml" and user_config().data_roots == ()
    monkeypatch.delenv("OVSS_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path() == tmp_path / "ovss/config.toml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert config_path() == tmp_path / "me/.config/ovss/config.toml"


def test_home_is_written_short(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("OVSS_PREPARED")
    config.write_text('data_roots = ["~/a"]\nprepared = "~/made"\n[datasets]\ncamvid = "~/b"\n')
    assert data_roots("camvid") == [tmp_path / "me/b", tmp_path / "me/a"]
    assert prepared_root() == tmp_path / "me/made"


def test_where_prepared_files_are(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    config.write_text(f'prepared = "{tmp_path}/configured"\n')
    monkeypatch.setenv("OVSS_PREPARED", str(tmp_path / "variable"))
    assert prepared_root() == tmp_path / "variable"
    monkeypatch.delenv("OVSS_PREPARED")
    assert prepared_root() == tmp_path / "configured"
    config.unlink()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert prepared_root() == tmp_path / "share/ovss/prepared"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert prepared_root() == tmp_path / "me/.local/share/ovss/prepared"


def test_prepared_files_are_found_by_the_configuration(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    from ovss.datasets.prepare import Job, find_recipe

    monkeypatch.delenv("OVSS_PREPARED")
    config.write_text(f'data_roots = ["{tmp_path}/raw"]\nprepared = "{tmp_path}/made"\n')
    record = find_record("pc459")
    assert record.prepare is not None
    home = build_raw("pc459", tmp_path / "raw", 1) / "VOCdevkit/VOC2010"
    find_recipe(record.prepare.recipe)(Job(home, tmp_path / "made/pc459", record.prepare.options))
    assert home_of("pc459") == home


WRONG = {
    "data_roots = [": "is no valid TOML",
    'data_root = ["/data"]': "data_root: Extra inputs are not permitted",
    'data_roots = "/data"': "data_roots: Input should be a valid tuple",
    "[datasets]\ncamvid = 3": "datasets.camvid",
    "\x00": "cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_configuration_is_named(config: Path, text: str) -> None:
    config.write_text(text)
    for call in (user_config, lambda: open_dataset("camvid"), lambda: data_roots("camvid")):
        with pytest.raises(DataError) as caught:
            call()
        assert str(config) in str(caught.value) and WRONG[text] in str(caught.value)


def test_a_configuration_that_is_no_text(config: Path) -> None:
    config.write_bytes(b'data_roots = ["\xff"]')
    with pytest.raises(DataError, match="cannot be read"):
        user_config()
    config.unlink()
    config.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        user_config()


# What is absent is said


def test_an_absent_list_file_is_told_apart_from_absent_images(tmp_path: Path) -> None:
    root = build("voc21", tmp_path, 1)
    listing = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listing.unlink()
    for key in ("voc21", "voc20", "voc20b"):
        with pytest.raises(DataError, match=r"has images and labels, but its list .*val\.txt does not exist"):
            open_dataset(key, root)
    (root / "VOCdevkit/VOC2012/JPEGImages").rename(root / "elsewhere")
    with pytest.raises(DataError, match="no images in 'JPEGImages'"):
        open_dataset("voc21", root)


def test_absent_labels_are_told_apart_from_absent_images(tmp_path: Path) -> None:
    root = build_raw("camvid", tmp_path, 1)
    (root / "CamVid/test").mkdir()  # an empty folder holds no images
    with pytest.raises(DataError, match="no images in 'test'"):
        open_dataset("camvid", root)
    pytest.importorskip("scipy")
    root = build_raw("pc459", tmp_path / "pascal", 1)
    with pytest.raises(
        DataError, match=r"has images in .*JPEGImages but no labels: .*pc459_val is not there"
    ) as caught:
        open_dataset("pc459", root)
    assert str(caught.value).count("bench data prepare pc459") == 1


def test_another_ground_truth_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'coco_object' has no ground truth 'boxes'; others are: instances"):
        open_dataset("coco_object@boxes", tmp_path)
    with pytest.raises(DataError, match="no ground truth 'x'; others are: none"):
        open_dataset("ade20k@x", tmp_path)
