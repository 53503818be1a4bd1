"""The choice of programs: made when a run begins, kept in its plan, followed by whoever goes on with it."""

from pathlib import Path

import pytest

from ovss.harness import every_pair, run
from ovss.harness.runs import engine
from ovss.harness.runs.run import PLAN, Run
from ovss.methods import UserError
from ovss.methods.core.arithmetic import LINEARS, PLAIN, Arithmetic, arithmetic
from ovss.methods.models import timed

FAST = Arithmetic(linears="packed", linears_ratio=2.125)


def test_the_first_choice_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, used = every_pair(["maskclip"], ["shapes"]), []
    scored = engine.Pipeline.predict
    monkeypatch.setattr(engine.Pipeline, "predict", lambda *a: used.append(arithmetic()) or scored(*a))
    monkeypatch.setattr(timed, "choose_arithmetic", lambda device, dtype, large: FAST)
    first = run(pairs, tmp_path, limit=1)[0]
    assert first.manifest.arithmetic == "linears packed (packed is 2.12 times as fast)"
    monkeypatch.setattr(timed, "choose_arithmetic", lambda device, dtype, large: PLAIN)
    second = run(pairs, tmp_path, limit=2)[0]
    assert second.folder == first.folder and second.plan.digest == first.plan.digest
    assert Run(first.folder).plan().arithmetic == FAST and used == [FAST, FAST] and arithmetic() == PLAIN
    monkeypatch.setenv(LINEARS, "plain")
    with pytest.raises(UserError, match=r"was begun with packed linear layers.*--fresh"):
        run(pairs, tmp_path, limit=3)
    fresh = run(pairs, tmp_path, limit=1, fresh=True)[0]
    assert fresh.folder == first.folder and fresh.manifest.arithmetic == "" and used[2:] == [PLAIN]
    assert "arithmetic" not in (fresh.folder / PLAN).read_text()
