"""What a suite would do: its runs, their order, and what is known of time, disk and needs, without a model."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.harness.runs.run import Run
from ovss.harness.use.suite_file import Suite, read_suite
from ovss.harness.use.suite_plan import plan_suite
from ovss.harness.use.suite_request import SuiteRequest
from ovss.methods import UserError

from .remaking import remake


def suite_of(folder: Path, *tables: str) -> Suite:
    path = folder / "mine.toml"
    path.write_text("\n".join(f"[[runs]]\n{table}" for table in tables))
    return read_suite(str(path))


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two data sets of the user's with the same two images, and other classes."""
    for folder, shape in (("photos", (24, 32, 3)), ("masks", (24, 32))):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / folder / f"{name}.png")
    for key, classes in (("one", '["sky", "sea"]'), ("other", '["sky", "sea", "sand"]')):
        text = f'key = "{key}"\ntitle = "t"\nimages = "photos"\nimage_suffix = ".png"\nlabels = "masks"\n'
        (tmp_path / f"{key}.toml").write_text(f"{text}classes = {classes}\n")
    return "one.toml", "other.toml"


def test_runs_on_the_same_images_with_the_same_weights_are_one_pass(tmp_path: Path, two: tuple[str, str]) -> None:
    suite = suite_of(
        tmp_path,
        f'methods = ["clip", "tcl", "sclip"]\ndatasets = ["{two[0]}", "shapes", "{two[1]}"]\nbackbone = "tiny-clip"',
        f'methods = ["naclip"]\ndatasets = ["{two[0]}"]\nbackbone = "tiny-clip"\nlimit = 1',
    )
    passes = plan_suite(suite, SuiteRequest(tmp_path / "results")).passes
    named = [[(run.spec.method, Path(run.spec.dataset).stem) for run in one] for one in passes]
    assert named == [
        [("clip", "one"), ("clip", "other"), ("sclip", "one"), ("sclip", "other")],
        [("clip", "shapes"), ("sclip", "shapes")],
        [("naclip", "one")],  # over one image
        [("tcl", "one"), ("tcl", "other")],  # weights of its own
        [("tcl", "shapes")],
    ]


def test_data_sets_with_other_images_are_other_passes(tmp_path: Path, two: tuple[str, str]) -> None:
    (tmp_path / "third").mkdir()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "third" / "a.png")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "third" / "b.png")
    text = (tmp_path / two[0]).read_text().replace('"photos"', '"third"').replace('"one"', '"third"')
    (tmp_path / "third.toml").write_text(text)
    suite = suite_of(tmp_path, f'methods = ["clip"]\ndatasets = ["{two[0]}", "third.toml"]\nbackbone = "tiny-clip"')
    assert [len(one) for one in plan_suite(suite, SuiteRequest(tmp_path / "results")).passes] == [1, 1]


def test_time_is_what_is_left_at_the_measured_pace(made: Run, tmp_path: Path) -> None:
    """Three of the images are done, under other options none, on another device nothing is known."""
    remake(made, tmp_path)
    pace = made.manifest().seconds_per_image
    suite = suite_of(tmp_path, 'methods = ["clip"]\ndatasets = ["shapes", "shapes:val"]\nlimit = 10')
    run, other = plan_suite(suite, SuiteRequest(tmp_path)).runs
    assert (run.images, run.wanted, run.done) == (300, 10, 3)
    assert run.seconds == pytest.approx(7 * pace) and run.expected is not None
    assert run.expected.run == made.folder.name
    assert other.done == 0 and other.seconds == pytest.approx(10 * pace)  # scenes of the same size
    assert plan_suite(suite, SuiteRequest(tmp_path, limit=2)).runs[0].seconds == 0
    elsewhere = remake(
        made, tmp_path / "b", environment={"device": "cpu (another)"}, identity={"source_hash": "0" * 16}
    )
    assert elsewhere.finished()
    run = plan_suite(suite, SuiteRequest(tmp_path / "b")).runs[0]
    assert (run.done, run.expected, run.seconds) == (0, None, None)
    options = suite_of(tmp_path, 'methods = ["clip"]\ndatasets = ["shapes"]\noptions = { pad = true }')
    assert plan_suite(options, SuiteRequest(tmp_path)).runs[0].seconds is None


def test_what_is_missing_is_named_with_the_commands_that_get_it(tmp_path: Path) -> None:
    suite = suite_of(
        tmp_path,
        'methods = ["sclip", "clip-surgery"]\ndatasets = ["voc21", "voc20"]',
        'methods = ["maskclip"]\ndatasets = ["ade20k"]\nset = { refine = "dino-b8" }',
        'methods = ["clip"]\ndatasets = ["shapes"]',
    )
    plan = plan_suite(suite, SuiteRequest(tmp_path))
    assert {need.name: need.commands[0].partition(" --into")[0] for need in plan.missing} == {
        "clip-vit-b-16-openai": "bench weights fetch clip-vit-b-16-openai",
        "dino-vitb8": "bench weights fetch dino-vitb8",
        "voc21": "bench data download voc21",
        "voc20": "bench data download voc20",
        "ade20k": "bench data download ade20k",
    }
    images = {run.spec.dataset: run.images for run in plan.runs}
    assert images == {"voc21": 1449, "voc20": 1449, "ade20k": 2000, "shapes": 300}
    assert [run.missing for run in plan.runs if run.spec.dataset == "shapes"] == [()]


def test_weights_that_nobody_catalogued_are_not_called_missing(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, 'methods = ["clip"]\ndatasets = ["shapes"]\nbackbone = "ViT-B-32/laion400m_e31"')
    plan = plan_suite(suite, SuiteRequest(tmp_path))
    assert plan.missing == () and [need.state for need in plan.runs[0].needs] == ["not known", "here"]


def test_disk_is_bounded_by_what_a_run_really_takes(made: Run, tmp_path: Path) -> None:
    suite = suite_of(tmp_path, 'methods = ["clip"]\ndatasets = ["shapes"]\nlimit = 3')
    (run,) = plan_suite(suite, SuiteRequest(tmp_path)).runs
    kept = sum(p.stat().st_size for p in made.folder.rglob("*") if p.is_file())
    assert kept <= run.most_bytes < 10 * kept


def test_a_part_of_a_suite(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, 'methods = ["clip", "sclip"]\ndatasets = ["shapes", "shapes:val"]')
    part = plan_suite(suite, SuiteRequest(tmp_path, methods=("sclip",), datasets=("shapes:val",)))
    assert [(run.spec.method, run.spec.dataset) for run in part.runs] == [("sclip", "shapes:val")]
    with pytest.raises(UserError, match="no run of --method 'naclip': it has clip, sclip"):
        plan_suite(suite, SuiteRequest(tmp_path, methods=("naclip",)))
    with pytest.raises(UserError, match="no run of --dataset 'voc21': it has shapes, shapes:val"):
        plan_suite(suite, SuiteRequest(tmp_path, datasets=("voc21",)))


def test_the_same_run_twice_is_told_with_both_places(tmp_path: Path) -> None:
    table = 'methods = ["clip"]\ndatasets = ["shapes"]'
    other = table.replace("clip", "sclip")
    suite = suite_of(tmp_path, table, other, table + '\nprotocols = ["tiny"]\nlimit = 3')
    with pytest.raises(UserError, match=r"asks twice for clip on shapes under tiny: in runs\[1\] and in runs\[3\]"):
        plan_suite(suite, SuiteRequest(tmp_path))
