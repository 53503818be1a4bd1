"""time_methods: turns, ratios pass by pass, and what the machine did besides."""

from pathlib import Path
from typing import Any

import pytest

from ovss.harness.runs.pipeline import Pipeline
from ovss.harness.runs.scored import STAGES
from ovss.harness.runs.sealed import read_sealed
from ovss.harness.use import machine
from ovss.harness.use.pairs import every_pair
from ovss.harness.use.timing import time_methods
from ovss.harness.use.timing_record import Machine, Spread, Timing
from ovss.methods import UserError

TWO = ["maskclip", "clip"]


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods in the order of their images; each image takes some made-up seconds, more in later passes."""
    seen: list[str] = []
    plain = Pipeline.score

    def score(self: Pipeline, sample: Any, clock: Any) -> Any:
        name = self.method.info.name
        seen.append(name)
        scored = plain(self, sample, clock)
        clock.seconds.update(dict.fromkeys(STAGES, 0.0))
        clock.seconds["segment"] = 2 * len(seen) if name == "clip" else len(seen)
        return scored

    monkeypatch.setattr(Pipeline, "score", score)
    return seen


def test_methods_take_turns_and_the_first_pass_is_left_out(turns: list[str], tmp_path: Path) -> None:
    """Warm-up clip, maskclip; then maskclip, clip; clip, maskclip; of one image each."""
    found = time_methods(every_pair(TWO, ["shapes"]), 2, tmp_path, limit=1)
    assert turns == ["clip", "maskclip", "maskclip", "clip", "clip", "maskclip"]
    assert [m.passes for m in found.methods] == [(3.0, 6.0), (8.0, 10.0)]
    (ratio,) = found.ratios
    assert (ratio.method, ratio.against) == ("clip", "maskclip")
    assert ratio.ratio == Spread.of([8 / 3, 10 / 6])
    assert found.methods[0].seconds_per_image == Spread(median=4.5, low=3.75, high=5.25)
    assert found.methods[0].seconds_per_stage["decode"] == Spread(median=0, low=0, high=0)


def test_seconds_are_of_an_image(turns: list[str], tmp_path: Path) -> None:
    found = time_methods(every_pair(["maskclip"], ["shapes"]), 1, tmp_path, limit=4)
    assert len(turns) == 8 and found.methods[0].passes == (8 / 4,)  # the clock of the pass says 8 at its end


def test_it_is_written_with_its_provenance(tmp_path: Path) -> None:
    found = time_methods(every_pair(TWO, ["shapes"]), 2, tmp_path, limit=2)
    written = read_sealed(tmp_path / "timings" / f"{found.name}.json")
    assert Timing.model_validate(written) == found and not (tmp_path / "runs").exists()
    assert (found.images, found.planned, found.repeats, found.images_per_batch) == (2, 300, 2, 1)
    assert found.environment["threads"] >= 1 and "src:" in found.code_version
    for method in found.methods:
        assert method.protocol_hash and method.weights["sha256"]
        assert sum(method.seconds_per_stage[s].median for s in STAGES) > 0 < method.seconds_per_stage["segment"].low
        assert method.seconds_per_image.low <= method.seconds_per_image.median <= method.seconds_per_image.high


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (2.0, False), (2.1, True), (None, False)])
def test_a_machine_with_more_to_do_than_cores_is_busy(load: float | None, busy: bool) -> None:
    def state(before: float | None, after: float | None) -> Machine:
        return Machine(cores=2, load_before=before, load_after=after, others_share=None, governor=None)

    assert state(load, 0.0).busy is busy and state(0.0, load).busy is busy


def test_a_busy_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    time_methods(every_pair(["maskclip"], ["shapes"]), 1, tmp_path, limit=1, say=said.append)
    assert any("was busy (load 1000.0 before" in text for text in said)
    said.clear()
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    time_methods(every_pair(["maskclip"], ["shapes"]), 1, tmp_path, limit=1, say=said.append)
    assert not any("busy" in text for text in said)


def test_what_others_used_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 ticks 100 were idle or waiting, so 300 were busy; 1 s of them (100 ticks) was ours."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "_STAT", stat)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    moments = []
    for own, line in ((5.0, "cpu  10 0 10 50 50 0 0 0 7 7"), (6.0, "cpu  210 30 70 100 100 5 5 0 99 7")):
        stat.write_text(f"{line}\ncpu0 1 1 1\n")
        moments.append(machine.now())
        moments[-1] = machine.Moment(own, moments[-1].busy, moments[-1].total, None)
    assert machine.share_of_others(*moments) == pytest.approx((300 - 100) / 400)


def test_what_the_system_does_not_tell_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_STAT", tmp_path / "absent")
    monkeypatch.setattr(machine, "_GOVERNOR", tmp_path / "absent")
    assert machine.share_of_others(machine.now(), machine.now()) is None and machine.governor() is None


def test_devices_and_data_sets_are_not_mixed(tmp_path: Path) -> None:
    one, other = every_pair(["maskclip"], ["shapes"]), every_pair(["clip"], ["shapes:val"])
    with pytest.raises(UserError, match="one data set"):
        time_methods([*one, *other], 1, tmp_path)
    with pytest.raises(UserError, match="on one device"):
        time_methods([*one, *every_pair(["clip"], ["shapes"], device="cuda")], 1, tmp_path)


def test_there_is_a_pass_to_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one pass"):
        time_methods(every_pair(["maskclip"], ["shapes"]), 0, tmp_path)
