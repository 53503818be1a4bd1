"""What makes two runs the same run, and what a finished run keeps."""

import json
import sys
from pathlib import Path

import pytest

from ovss.datasets import open_dataset
from ovss.harness.decoding.decode import decoder_name
from ovss.harness.native import door
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.runs.pipeline import Pipeline
from ovss.harness.runs.plan import Plan, RunSpec, make_plan
from ovss.harness.runs.provenance import environment, foreign_hash, plugin_version
from ovss.methods import UserError, find_method

PLUGIN = """
from ovss.methods.maskclip import MaskCLIP
class Bright(MaskCLIP):
    def score_windows(self, seen, words):
        return {sign}super().score_windows(seen, words)
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


def test_a_plug_in_is_named_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bright_plugin.py").write_text(PLUGIN.format(sign=""))
    sys.modules.pop("bright_plugin", None)
    kind = find_method("bright_plugin:Bright")
    source = f"src:{(foreign_hash(kind) or '')[:8]}"
    assert plugin_version(kind) == f"bright_plugin {source}"
    assert plan("bright_plugin:Bright").described["plugin"] == f"bright_plugin {source}"
    info = tmp_path / "bright-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bright\nVersion: 1.2\n")
    (info / "top_level.txt").write_text("bright_plugin\n")
    assert plugin_version(kind) == f"bright 1.2 {source}"
    assert plugin_version(find_method("sclip")) == ""
    sys.modules.pop("bright_plugin")


def test_a_split_is_part_of_the_name() -> None:
    """``shapes:val`` are other scenes: another hash, and a name that says so."""
    names = {}
    for dataset in ("shapes", "shapes:test", "shapes:val", "shapes:train"):
        asked = RunSpec(method="maskclip", dataset=dataset, protocol=load_protocol("tiny"), backbone="tiny-clip")
        data = asked.open_data()
        setting = asked.setting_for(data)
        made = make_plan(asked, Pipeline(asked.build_method(setting), setting, data.record), data, {})
        names[dataset] = made.name
        assert made.identity["dataset"]["split"] == data.record.split
    assert names["shapes"] == names["shapes:test"] == plan().name
    assert names["shapes"].startswith("shapes-maskclip-tiny-")
    assert names["shapes:val"].startswith("shapes-val-maskclip-tiny-")
    assert names["shapes:train"].startswith("shapes-train-maskclip-tiny-")


def test_the_decoder_is_in_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment("cpu")["decoder"] == ("torch" if door.kernels() is None else "compiled")
    monkeypatch.setenv(door.KERNELS, "0")
    assert environment("cpu")["decoder"] == "torch"


def test_triton_is_asked_for_or_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU has verified the kernels: on CUDA, too, torch decodes unless the user says otherwise."""
    monkeypatch.delenv("OVSS_DECODER", raising=False)
    monkeypatch.setenv(door.KERNELS, "0")
    assert (decoder_name("cuda:1"), decoder_name("cpu")) == ("torch", "torch")
    monkeypatch.setenv("OVSS_DECODER", "triton")
    monkeypatch.setattr("ovss.harness.decoding.decode.find_spec", lambda name: object())
    assert decoder_name("cuda:1") == "triton"
    with pytest.raises(UserError, match="needs it and a GPU, but scores are on cpu"):
        decoder_name("cpu")
    monkeypatch.setattr("ovss.harness.decoding.decode.find_spec", lambda name: None)
    with pytest.raises(UserError, match="but Triton is not installed"):
        decoder_name("cuda")
    monkeypatch.setenv("OVSS_DECODER", "tritn")
    with pytest.raises(UserError, match="did you mean triton"):
        decoder_name("cuda")


def test_our_own_methods_are_in_the_source_hash_already() -> None:
    assert foreign_hash(find_method("sclip")) is None


def test_a_finished_run_keeps_its_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovss.harness.cli import main as cli

    monkeypatch.chdir(tmp_path)
    command = ["run", "-m", "maskclip", "-d", "shapes", "--limit", "3"]
    cli.app(command, standalone_mode=False)
    (manifest,) = tmp_path.glob("results/runs/*/manifest.json")
    before = manifest.read_bytes()
    cli.app(command, standalone_mode=False)
    assert manifest.read_bytes() == before
    cli.app([*command[:-1], "4"], standalone_mode=False)
    assert json.loads(manifest.read_text())["images"] == 4
