"""What makes two runs the same run, and what a finished run keeps."""

import json
import sys
from pathlib import Path

import pytest

from ovss.datasets import open_dataset
from ovss.harness.pipeline import Pipeline
from ovss.harness.plan import Plan, RunSpec, make_plan
from ovss.harness.protocol import load_protocol
from ovss.harness.provenance import foreign_hash
from ovss.methods import find_method

PLUGIN = """
from ovss.methods.maskclip import MaskCLIP
class Bright(MaskCLIP):
    def score_windows(self, windows):
        return {sign}super().score_windows(windows)
"""


def plan(method: str = "maskclip", **spec: object) -> Plan:
    asked = RunSpec(method=method, dataset="shapes", protocol=load_protocol("tiny"), backbone="tiny-clip", **spec)  # type: ignore[arg-type]
    data = open_dataset("shapes")
    setting = asked.setting_for(data)
    return make_plan(asked, Pipeline(asked.build_method(setting), setting, data.record), data, {})


def test_paths_do_not_decide() -> None:
    assert plan().name == plan(data_root="/somewhere").name


@pytest.mark.parametrize("spec", [{"options": {"pad": True}}, {"boundary": True}])
def test_options_decide(spec: dict[str, object]) -> None:
    assert plan().name != plan(**spec).name


def test_an_edited_plug_in_is_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for sign in ("", "-"):
        (tmp_path / "bright_plugin.py").write_text(PLUGIN.format(sign=sign))
        sys.modules.pop("bright_plugin", None)
        names.append(plan("bright_plugin:Bright").name)
    assert names[0] != names[1]
    sys.modules.pop("bright_plugin")


def test_our_own_methods_are_in_the_source_hash_already() -> None:
    assert foreign_hash(find_method("sclip")) is None


def test_a_finished_run_keeps_its_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovss.harness import cli

    monkeypatch.chdir(tmp_path)
    command = ["run", "-m", "maskclip", "-d", "shapes", "--limit", "3"]
    cli.app(command, standalone_mode=False)
    (manifest,) = tmp_path.glob("results/runs/*/manifest.json")
    before = manifest.read_bytes()
    cli.app(command, standalone_mode=False)
    assert manifest.read_bytes() == before
    cli.app([*command[:-1], "4"], standalone_mode=False)
    assert json.loads(manifest.read_text())["images"] == 4
