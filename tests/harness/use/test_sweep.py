"""sweep: what is chosen on one half is reported on the other; written whole, answered again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss.harness.metrics.bootstrap import miou_interval
from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.of_counts import miou
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.runs import swept
from ovss.harness.runs.plan import RunSpec
from ovss.harness.use.pairs import every_pair
from ovss.harness.use.run import run
from ovss.harness.use.sweep import FILE, sweep
from ovss.harness.use.sweep_record import Sweep, read_sweep
from ovss.harness.use.sweep_scores import Halves, Scores
from ovss.harness.use.sweep_values import asked_of, own_value, paper_value, parse_values
from ovss.methods import UserError

from ...things import write_things

FIELD, VALUES = "probability_threshold", (0.0, 0.2, 0.4, 0.6)
CHANGES = {"logit_scale": 40.0, "templates": "simple"}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_things(tmp_path_factory.mktemp("home") / "things", 21))


def specs(things: str, *methods: str, **changes: Any) -> list[RunSpec]:
    return every_pair(methods or ["maskclip"], [things], changes={**CHANGES, **changes}, backbone="tiny-clip")


@pytest.fixture(scope="module")
def found(things: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    results = tmp_path_factory.mktemp("results")
    return sweep(specs(things, "maskclip", "clip", **{FIELD: 0.1}), FIELD, VALUES, results), results


def test_points_are_what_runs_give(found: tuple[Sweep, Path], things: str, tmp_path: Path) -> None:
    for value in (0.2, 0.6):
        runs = run(specs(things, "maskclip", "clip", **{FIELD: value}), tmp_path)
        for method, one in zip(found[0].methods, runs, strict=True):
            (point,) = (p for p in method.points if p.value == value)
            assert point.miou == one.result.miou and one.result.interval is not None
            assert point.interval == (one.result.interval.low, one.result.interval.high)


def test_the_record_says_what_was_swept(found: tuple[Sweep, Path]) -> None:
    one = found[0]
    assert (one.field, one.values, one.images, one.units) == (FIELD, (0.0, 0.1, 0.2, 0.4, 0.6), 21, 21)
    assert (one.tuning_units, one.test_units, one.test_images) == (10, 11, 11) and len(one.tuning_ids) == 10
    assert [m.method for m in one.methods] == ["maskclip", "clip"] and all(m.one_decode for m in one.methods)
    assert all(m.own == 0.1 and m.protocol == "tiny*" and m.weights["sha256"] for m in one.methods)
    assert one.environment["device"] and "src:" in one.code_version


def test_the_chosen_value_and_its_scores_by_another_way(found: tuple[Sweep, Path], things: str, tmp_path: Path) -> None:
    """From runs: the best on the tuning half, and both values on the other half."""
    one = found[0]
    method = one.methods[0]
    counts = {v: run(specs(things, **{FIELD: v}), tmp_path)[0].result for v in one.values}
    tuning = np.isin(counts[0.1].ids, one.tuning_ids)
    on_tuning = {v: float(miou(r.counts.at(tuning).total())) for v, r in counts.items()}
    assert method.tuned == max(on_tuning, key=lambda v: on_tuning[v]) != 0.1
    assert method.tuned_on_tuning.miou == pytest.approx(100 * on_tuning[method.tuned])
    test = {v: r.counts.at(~tuning) for v, r in counts.items()}
    interval = miou_interval(test[method.tuned])
    assert interval is not None and method.tuned_on_test.interval == (100 * interval.low, 100 * interval.high)
    on_test = {v: 100 * float(miou(c.total())) for v, c in test.items()}
    assert method.tuned_on_test.miou == pytest.approx(on_test[method.tuned])
    assert method.own_on_test.miou == pytest.approx(on_test[0.1])
    assert method.gain.estimate == pytest.approx(on_test[method.tuned] - on_test[0.1])


def test_a_difference_of_methods_falls_into_two_parts(found: tuple[Sweep, Path]) -> None:
    first, second = found[0].methods
    (pair,) = found[0].pairs
    assert (pair.method, pair.against) == ("clip", "maskclip")
    at_own, at_tuned = pair.at_own.estimate, pair.at_tuned.estimate
    assert at_own is not None and at_tuned is not None and pair.of_value.interval is not None
    assert second.own_on_test.miou is not None and first.own_on_test.miou is not None
    assert at_own == pytest.approx(second.own_on_test.miou - first.own_on_test.miou)
    assert pair.of_value.estimate == pytest.approx(at_own - at_tuned)


def test_it_is_written_and_is_no_run(found: tuple[Sweep, Path]) -> None:
    one, results = found
    path = results / "sweeps" / one.name / FILE
    assert read_sweep(path) == one and [p.name for p in path.parent.iterdir()] == [FILE]
    assert not (results / "runs").exists()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each image that is worked on."""
    done: list[int] = []
    plain = swept.count_values
    monkeypatch.setattr(swept, "count_values", lambda *asked: done.append(1) or plain(*asked))  # type: ignore[func-returns-value]
    return done


def test_a_finished_sweep_is_answered_again(things: str, tmp_path: Path, passes: list[int]) -> None:
    asked = specs(things)
    first = sweep(asked, FIELD, VALUES, tmp_path, limit=4)
    assert len(passes) == 4
    assert sweep(asked, FIELD, VALUES, tmp_path, limit=4) == first and len(passes) == 4
    assert sweep(asked, FIELD, VALUES, tmp_path, limit=4, fresh=True).methods == first.methods and len(passes) == 8
    other = sweep(asked, FIELD, (0.1, *VALUES), tmp_path, limit=4)
    assert other.identity != first.identity and len(passes) == 12
    assert sweep(asked, FIELD, VALUES, tmp_path, limit=3).identity != first.identity and len(passes) == 15


def test_a_damaged_file_is_told_and_made_again(things: str, tmp_path: Path, passes: list[int]) -> None:
    first = sweep(specs(things), FIELD, VALUES, tmp_path, limit=3)
    path = tmp_path / "sweeps" / first.name / FILE
    path.write_text(path.read_text().replace('"own": 0.0', '"own": 0.5'))
    said: list[str] = []
    assert sweep(specs(things), FIELD, VALUES, tmp_path, limit=3, say=said.append).methods == first.methods
    assert len(passes) == 6 and any("damaged" in text for text in said) and read_sweep(path).identity == first.identity


def test_what_interrupts_it_leaves_nothing(things: str, tmp_path: Path) -> None:
    def stop(title: str, done: int, total: int) -> None:
        if "values" in title and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(specs(things), FIELD, VALUES, tmp_path, limit=4, progress=stop)
    assert not list(tmp_path.rglob("*.json"))


def scores_of(tp: list[list[int]]) -> Scores:
    """Two images; ``tp[image][value]`` of 10 pixels of the only class are found."""
    found = np.array(tp)[..., None]
    ten = np.full_like(found, 10)
    halves = Halves(np.array([True, False]), np.array([0, 1]), "mmseg")
    return Scores(Counts(found, ten, found), (0.1, 0.2, 0.3, 0.4), halves)


@pytest.mark.parametrize(
    ("tuning", "own", "best"),
    [([1, 5, 3, 2], 0.1, 0.2), ([5, 1, 1, 5], 0.3, 0.4), ([5, 1, 1, 5], 0.2, 0.1), ([0, 4, 2, 4], 0.3, 0.2)],
)
def test_the_best_is_that_of_the_tuning_half_and_of_equal_ones_the_nearest(
    tuning: list[int], own: float, best: float
) -> None:
    assert scores_of([tuning, [9, 0, 10, 0]]).best(own) == best


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:1:0.25", (0.0, 0.25, 0.5, 0.75)),
        ("0:0.3:0.1", (0.0, 0.1, 0.2)),  # 3 * 0.1 is more than 0.3 in binary
        ("0.3, 0.1,0.3", (0.1, 0.3)),
        ("0.1:0.25:0.1", (0.1, 0.2)),
    ],
)
def test_values_are_read_as_they_are_written(text: str, values: tuple[float, ...]) -> None:
    assert parse_values(FIELD, text) == values


@pytest.mark.parametrize(
    "text",
    [
        "0:1:0",
        "0:1:-0.1",
        "1:0:0.1",
        "0:1:1e-9",
        "a:b:c",
        "0:1",
        "nan,1",
        "0:inf:1",
        "0:1:nan",
        "0:1e999999:1",
        "0:1:inf",
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"START:STOP:STEP|finite"):
        parse_values(FIELD, text)


def test_one_field_is_swept_and_others_change_the_protocol() -> None:
    asked = asked_of({"probability_threshold": "0:0.2:0.1", "templates": "a,b", "logit_scale": 40})
    assert (asked.field, asked.values) == (FIELD, (0.0, 0.1))
    assert asked.changes == {"templates": "a,b", "logit_scale": 40}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no --set names several values"),
        ({FIELD: 0.1}, "no --set names several values"),
        ({FIELD: "0:1:0.1", "logit_scale": "10,20"}, "probability_threshold and logit_scale have several"),
        ({"window_px": "224:448:112"}, "window_px cannot be swept.*only probability_threshold, area_threshold"),
    ],
)
def test_what_cannot_be_swept_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked_of(changes)


def test_a_field_of_the_method_is_no_matter_of_the_decision(things: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="option of the method"):
        sweep(every_pair(["cliper"], [things]), "logit_scale", (10.0, 20.0), tmp_path)


def test_a_threshold_needs_a_background(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a background class"):
        sweep(every_pair(["maskclip"], ["shapes"]), FIELD, VALUES, tmp_path, limit=2)


def test_a_sweep_is_on_one_data_set(things: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one data set"):
        sweep([*specs(things), *every_pair(["maskclip"], ["shapes"])], FIELD, VALUES, tmp_path)


def test_published_values_are_those_of_the_presets() -> None:
    assert paper_value("sclip", FIELD, "voc21") == ("paper:sclip", 0.1)
    assert paper_value("sclip", FIELD, "things") is None  # the paper says nothing about it
    assert paper_value("clip", FIELD, "voc21") is None
    assert own_value(load_protocol("sclip"), FIELD, "voc21") == 0.1
    with pytest.raises(UserError, match="no class_gate"):
        own_value(load_protocol("sclip"), "class_gate", "voc21")
