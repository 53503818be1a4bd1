"""Claims: what each reported value needs here, and when a value of ours agrees with it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from ovss.datasets import find_record
from ovss.harness.protocol.protocol import lint_setting, list_protocols
from ovss.harness.report.claims import TABLE, Claim, Line, claim_of, judge, list_claims
from ovss.harness.report.leaderboard_text import markdown
from ovss.harness.report.published import WEIGHTS, Origin, PostProcessing, Reported
from ovss.methods import UserError, find_method
from ovss.methods.core.options import options_type
from ovss.methods.models.weights import find_entry
from ovss.methods.registry import check_options

from .test_rows import row

EIGHT = ("voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff", "cityscapes", "ade20k")
REPORTED = {
    "sclip": [59.63, 81.54, 31.74, 34.46, 33.52, 22.77, 32.34, 16.45],
    "naclip": [64.07, 83.03, 34.99, 38.35, 36.19, 25.69, 38.27, 19.05],
    "clearclip": [None, 80.9, None, 35.9, None, 23.9, 30.0, 16.7],
    "clip-dinoiser": [62.1, 80.9, 32.4, 35.9, 34.8, 24.6, 31.7, 20.0],
    "cliper": [66.5, 86.0, 38.3, 42.4, None, 28.6, 38.7, 22.0],
    "corrclip": [74.8, 88.8, 44.2, 48.8, 43.7, 31.6, 49.4, 26.9],
    "corrclip-openai": [72.2, 88.7, 41.6, 47.1, 40.7, 30.7, 44.6, 23.7],
    "proxyclip": [61.3, 80.3, 35.3, 39.1, 37.5, 26.5, 38.1, 20.2],
    "trident": [67.1, 84.5, 38.6, 42.2, 41.1, 28.3, 42.9, 21.9],
}
DOCS = Path(__file__).resolve().parents[3] / "docs"
CLAIMS = list_claims()
LINES = {claim.line: claim for claim in CLAIMS.values()}


@pytest.mark.parametrize("line", REPORTED)
def test_the_cells_of_the_usual_eight(line: str) -> None:
    assert [CLAIMS[f"{line}/{key}"].reported for key in EIGHT] == REPORTED[line]


def test_cliper_s_coco_object_is_that_of_the_instances() -> None:
    assert CLAIMS["cliper/coco_object@instances"].reported == 40.0
    assert any("instances" in reason for reason in CLAIMS["cliper/coco_object@instances"].reasons)


def test_lines_of_one_method_are_other_claims() -> None:
    values = {line: CLAIMS[f"{line}/voc21"].reported for line in LINES if line.startswith(("cliper", "naclip"))}
    assert values == {
        "naclip": 64.07,
        "naclip-without-pamr": 58.9,
        "cliper": 66.5,
        "cliper-unrefined": 62.1,
        "cliper-whole": 66.4,
        "cliper-l14": 72.2,
    }
    assert CLAIMS["cliper-whole/voc21"].label == "cliper (window_px=0)"
    assert CLAIMS["naclip-without-pamr/voc21"].setting.refine == "none" != CLAIMS["naclip/voc21"].setting.refine


@pytest.mark.parametrize("line", LINES)
def test_a_line_fits_its_method_weights_and_protocol(line: str) -> None:
    claim = LINES[line]
    method = find_method(claim.method)
    assert set(claim.options) <= set(options_type(method).model_fields)
    assert bool(claim.backbone) == bool(method.info.backbone)
    assert claim.protocol.name.removesuffix("*") in list_protocols()
    assert any(one.reported is not None for one in CLAIMS.values() if one.line == line)
    for name in (group[0] for group in claim.checkpoints):
        assert {claim.method, claim.setting.refine} & set(find_entry(name).used_by), name
    entry = find_entry(claim.checkpoints[0][0])
    places = (f"hub {entry.hub}", f"file {entry.files[0].name}", f"folder {entry.name}, pytorch_model.bin")
    assert claim.weights in {WEIGHTS.get(place) for place in places}


@pytest.mark.parametrize("line", [line for line, claim in LINES.items() if claim.backbone])
def test_the_backbone_is_what_its_checkpoint_holds(line: str) -> None:
    import open_clip

    model, _, tag = str(LINES[line].backbone).partition("/")
    hub = open_clip.get_pretrained_cfg(model, tag)["hf_hub"].strip("/")
    assert hub == find_entry(LINES[line].checkpoints[0][0]).hub


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: str(claim.name))
def test_no_claim_is_refused_before_it_runs(claim: Claim) -> None:
    """For its options, or for words that cannot be scored."""
    key, _, source = claim.dataset.partition("@")
    form = find_record(key).forms(source or None)[0]
    assert not [text for level, text in lint_setting(claim.setting, form) if level == "error"]
    check_options(find_method(claim.method), {**claim.setting.options_for(claim.method), **claim.options})


def test_a_guide_s_weights_are_needed_too() -> None:
    assert CLAIMS["cliper/voc21"].checkpoints[-1] == ("stable-diffusion-2-1-base",)
    assert len(CLAIMS["cliper-unrefined/voc21"].checkpoints) == len(CLAIMS["naclip/voc21"].checkpoints) == 1
    assert CLAIMS["proxyclip/voc21"].checkpoints[-1] == ("dino-vitb8",)
    assert CLAIMS["trident/voc21"].checkpoints[-2:] == (("dino-vitb16",), ("sam-vitb-hf",))


def test_why_a_value_may_differ_is_said() -> None:
    said = {name: " ".join(claim.reasons) for name, claim in CLAIMS.items()}
    assert "quoted" in said["proxyclip/voc21"] and "quoted" not in said["sclip/voc21"]
    assert "SegmentationClassAug" in said["cliper/voc21"] and "SegmentationClassAug" not in said["cliper/ade20k"]
    assert "unsure" in said["ovseg/voc20"]  # what the preset itself is not sure of
    assert "runs out" in said["naclip/voc21"] and "runs out" not in said["naclip-without-pamr/voc21"]


def test_every_reason_is_used() -> None:
    text = TABLE.read_text(encoding="utf-8")
    lines, _, reasons = text.partition("[reasons]")
    for name in (line.partition(" = ")[0] for line in reasons.splitlines() if " = " in line):
        assert f'"{name}"' in lines, name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("grey-level", "gray-level"), "line sclip: unknown 'gray-level'"),
        (("dino-vitb8", "dino-vitb9"), "line proxyclip: unknown 'dino-vitb9'"),
        (('published = "SCLIP"', 'name = "SCLIP"'), "lines.sclip"),
    ],
)
def test_what_the_table_of_claims_refuses(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "claims.toml"
    head, _, tail = TABLE.read_text(encoding="utf-8").partition("[reasons]")
    path.write_text(f"{head.replace(*change)}[reasons]{tail}")
    with pytest.raises(UserError, match=says):
        list_claims(path)


@pytest.mark.parametrize(
    ("reported", "ours", "complete", "kind"),
    [
        (59.63, 59.63, True, "reproduces"),
        (31.74, 32.24, True, "reproduces"),  # in binary a little more than 0.5
        (59.63, 59.13, True, "reproduces"),
        (59.63, 60.14, True, "does not reproduce"),
        (59.63, 59.12, True, "does not reproduce"),
        (59.63, 59.63, False, "partial"),
        (59.63, 0.0, False, "partial"),
        (59.63, float("nan"), True, "does not reproduce"),
    ],
)
def test_the_verdict(reported: float, ours: float, complete: bool, kind: str) -> None:
    assert judge(reported, ours, complete) == kind


def test_the_tolerance_is_the_caller_s() -> None:
    assert judge(50.0, 51.0, True, 1.0) == judge(50.0, 50.0, True, 0.0) == "reproduces"
    assert judge(50.0, 50.01, True, 0.0) == "does not reproduce"


def test_a_run_is_of_a_claim_under_its_protocol_and_options_alone() -> None:
    claim = CLAIMS["clearclip-laion2b/voc20"]
    run = ("clearclip", "voc20", claim.setting.hash, 81.4, claim.source)
    assert claim_of(*run) == claim
    assert claim_of("clearclip", "voc20", claim.setting.hash, 80.9, claim.source) == CLAIMS["clearclip/voc20"]
    others = {0: "clearclip (pad=False)", 1: "voc21", 2: CLAIMS["sclip/voc20"].setting.hash, 3: 81.3, 4: "other"}
    for place, value in others.items():
        assert claim_of(*[value if k == place else v for k, v in enumerate(run)]) is None


def test_the_leaderboard_says_the_same() -> None:
    """Beside a run under the protocol of the source, nowhere else."""
    claim = CLAIMS["sclip/voc21"]
    told = {"method": "sclip", "dataset": "voc21", "reported": 59.63, "reported_source": claim.source}

    def cell(**changes: object) -> str:
        text = markdown([row(**told, **changes)], ())
        (line,) = [line for line in text.splitlines() if line.startswith("| sclip | ") and "README" in line]
        return line.split(" | ")[4]

    source = "59.6 (github.com/wangf3014/SCLIP README table)"
    assert cell(protocol_hash=claim.setting.hash, miou=59.2) == f"{source}: reproduces"
    assert cell(protocol_hash=claim.setting.hash, miou=58.2) == f"{source}: does not reproduce"
    assert cell(protocol_hash=claim.setting.hash, miou=59.2, complete=False) == f"{source}: partial"
    assert cell(protocol_hash=claim.setting.hash, miou=None) == cell(protocol_hash="other", miou=59.63) == source


# ---- what the documentation says of the two tables


def described(document: str, heading: str) -> dict[str, str]:
    """First table below a heading: what stands in the first column, and what is said of it."""
    text = (DOCS / document).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))


def test_the_schemas_are_described() -> None:
    assert list(described("reproduce.md", "The table of claims")) == list(Line.model_fields)
    assert list(described("protocols.md", "Reported values")) == list(Reported.model_fields)


@pytest.mark.parametrize(("column", "kind"), [("postproc", PostProcessing), ("origin", Origin)])
def test_allowed_values_are_described(column: str, kind: object) -> None:
    assert sorted(re.findall(r"`([^`]+)`", described("protocols.md", "Reported values")[column])) == sorted(
        get_args(kind)
    )
