"""``bench protocol``: what is printed for people and for programs, exit codes, and names that are not there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovss.harness.protocol.protocol import Setting, load_protocol
from ovss.harness.show import tables

Command = Callable[..., Any]
SETTING = Setting.model_fields


def cells(text: str) -> dict[str, list[str]]:
    """Lines of printed tables by their first cell; cells are two blanks apart."""
    rows = [re.split(r"  +", line) for line in text.splitlines() if line and not line.startswith(" ")]
    return {row[0]: row[1:] for row in rows}


def protocol_file(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(f'summary = "s"\nsource = "ours"\nversion = 1\nfamily = "unified"\n{text}')
    return str(path)


# --- show -----------------------------------------------------------------------------------------------------------


def test_show_prints_every_field_with_its_reason_and_its_source(bench: Command) -> None:
    ended = bench("protocol", "show", "paper:cliper/voc21")
    assert ended.code == 0
    protocol = load_protocol("cliper-v2")
    setting, rows = protocol.setting("voc21"), cells(ended.out)
    assert f"hash: {setting.hash} on voc21" in ended.out and "also called: cliper" in ended.out
    chosen, _, defaults = ended.out.partition("fields left at the default of every protocol")
    for name, field in SETTING.items():
        assert field.description in rows[name], name
        if name in setting.model_fields_set:
            assert rows[name][-1] == protocol.sources[name] and f"\n{name} " in chosen
        else:
            assert f"\n{name} " in defaults
    assert rows["class_gate"][0] == "0.7" and rows["synonym_separator"][0] == '", "'
    assert rows["area_threshold"][0] == "0.0" and rows["complement"][0] == "false"


def test_show_prints_one_option_per_line(bench: Command) -> None:
    out = bench("protocol", "show", "paper:cliper/voc21").out
    assert "{" not in out
    lines = out.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("options_of"))
    options = {"variant": "v2", "attention_threshold": "0.1", "select_layer": "-1", "window_px": "336"}
    assert [line.split() for line in lines[start + 1 : start + 6]] == [["cliper"], *map(list, options.items())]
    assert max(map(len, lines)) < 260


def test_show_prints_the_words(bench: Command) -> None:
    out = bench("protocol", "show", "paper:cliper/voc21").out
    rows = cells(out)
    assert rows["background"][0].startswith("ground, land, grass") and rows["bird"] == ["bird avian"]
    assert "bicycle" not in rows  # its text is its name
    assert "word lists there are for voc21: official, clearclip, clip_dinoiser, clip_diy, cliper" in out
    outside = cells(bench("protocol", "show", "cliper/voc20").out)
    assert outside["(none of the classes)"][0].startswith("ground, land")
    assert "words on cityscapes: the name of each class" in bench("protocol", "show", "unified/cityscapes").out


def test_show_without_a_data_set_prints_the_tables(bench: Command) -> None:
    out = bench("protocol", "show", "cliper-v2").out
    rows = cells(out)
    assert set(load_protocol("cliper-v2").dataset) <= set(rows)
    assert rows["voc21"] == [
        "vocabulary = cliper; vocabulary_form = background-first; probability_threshold = 0.6; "
        "class_scaling = minmax; class_gate = 0.7; refine_threshold = 0.1; "
        "options_of.cliper.attention_threshold = 0.1; options_of.cliper.window_px = 336"
    ]
    assert "templates" not in rows["voc21"][0]  # as in the base
    unified = cells(bench("protocol", "show", "unified").out)
    assert unified["mess_*"] == ["background_words = official"]


def test_show_knows_the_same_data_set_by_every_name(bench: Command, tmp_path: Path) -> None:
    plain = bench("protocol", "show", "paper:sclip/voc21").out
    assert bench("protocol", "show", "sclip", "--dataset", "voc21").out == plain
    instances = bench("protocol", "show", "sclip/coco_object@instances").out
    assert instances == bench("protocol", "show", "sclip/coco_object").out
    (tmp_path / "own.toml").write_text(
        'key = "own"\ntitle = "own"\nimages = "i"\nlabels = "l"\nbackground = 0\nclasses = ["rest", "cat", "wall"]\n'
    )
    own = bench("protocol", "show", "unified", "--dataset", "own.toml").out
    phrases = "background, building, ceiling, floor, ground, plant, raw material, sky, solid, structural, textile"
    assert "on own" in own and cells(own)["rest"] == [f"{phrases}, water, window"]


def test_show_says_where_a_file_names_no_source(bench: Command, tmp_path: Path) -> None:
    name = protocol_file(tmp_path, "[base]\nlogit_scale = 50.0\n[dataset.mine]\nshort_side_px = 99\n")
    rows = cells(bench("protocol", "show", name).out)
    assert rows["logit_scale"][0] == "50.0" and rows["logit_scale"][-1] == "the file does not say"
    assert rows["mine"] == ["short_side_px = 99"]
    assert cells(bench("protocol", "show", name, "--dataset", "mine").out)["short_side_px"][0] == "99"


def test_show_for_programs(bench: Command) -> None:
    found = bench("protocol", "show", "paper:cliper/voc21", "--json").json()
    setting = load_protocol("cliper-v2").setting("voc21")
    assert found["setting"] == setting.model_dump() and found["hash"] == setting.hash
    assert set(found["sources"]) >= setting.model_fields_set
    assert found["words"]["bird"] == ["bird avian"] and len(found["words"]) == 21
    assert bench("protocol", "show", "unified", "--json").json()["words"] == {}


# --- diff -----------------------------------------------------------------------------------------------------------


def test_diff_explains_every_difference(bench: Command) -> None:
    names = ("paper:sclip/voc21", "paper:clearclip/voc21")
    ended = bench("protocol", "diff", *names)
    assert ended.code == 0
    values, _, sources = ended.out.partition("where the values come from")
    settings = [load_protocol(n).setting("voc21") for n in ("sclip", "clearclip")]
    a, b = (s.model_dump() for s in settings)
    different = {name for name in a if a[name] != b[name]}
    assert different == {
        *("short_side_px", "window_px", "stride_px", "vocabulary", "logit_scale"),
        *("probability_threshold", "area_threshold", "method_options"),
    }
    rows, where = cells(values), cells(sources)
    assert different == set(rows) - {"field"}
    for name in different:
        assert rows[name][-1] == SETTING[name].description
        for k, protocol in enumerate(("sclip", "clearclip")):
            expected = load_protocol(protocol).sources.get(name, "default of every protocol")
            assert where[name][k] == (
                expected if name in settings[k].model_fields_set else "default of every protocol"
            ), name
    assert rows["short_side_px"][:2] == ["336", "448"] and rows["method_options"][:2] == ["none", "pad = true"]
    assert "words that differ (3 classes)" in sources
    assert where["tvmonitor"] == ["television monitor, tv monitor, monitor, television, screen", "tvmonitor"]


def test_diff_prints_only_options_that_differ(bench: Command) -> None:
    rows = cells(bench("protocol", "diff", "cliper-v2/voc21", "cliper-v2-l14/voc21").out.partition("where the")[0])
    assert rows["options_of"][:2] == ["cliper.select_layer = -1", "cliper.select_layer = -2"]


def test_diff_of_long_lists_is_short(bench: Command) -> None:
    out = bench("protocol", "diff", "unified", "ovseg", "--dataset", "ade20k").out
    assert "words that differ (51 classes)" in out and "and 31 more: --json has all" in out
    found = bench("protocol", "diff", "unified", "ovseg", "--dataset", "ade20k", "--json").json()
    assert len(found["words"]) == 51 and found["words"]["bathtub"] == [["bathtub"], ["tub"]]


def test_diff_of_the_same(bench: Command) -> None:
    ended = bench("protocol", "diff", "sclip", "sc-clip", "--dataset", "camvid")
    assert (ended.code, ended.out) == (0, "sclip and sc-clip are the same on camvid\n")
    found = bench("protocol", "diff", "sclip", "sc-clip", "--dataset", "camvid", "--json").json()
    assert found["first"] == found["second"] and found["differences"] == [] and found["words"] == {}


def test_diff_of_two_data_sets_compares_no_words(bench: Command) -> None:
    found = bench("protocol", "diff", "sclip/voc21", "sclip/voc20", "--json").json()
    assert {row["field"] for row in found["differences"]} == {
        *("logit_scale", "probability_threshold", "area_threshold"),
    }
    assert found["words"] == {} and found["first"] == load_protocol("sclip").setting("voc21").hash
    scale = next(row for row in found["differences"] if row["field"] == "logit_scale")
    assert (scale["first"], scale["second"], len(scale["sources"])) == (65.0, 40.0, 2)


# --- lint -----------------------------------------------------------------------------------------------------------


def test_lint_reports_bed(bench: Command) -> None:
    ended = bench("protocol", "lint", "paper:sclip/coco_object")
    assert ended.code == 0  # a warning: published rows were made with it
    assert "'bed' speaks for 'background' and 'bed': 'bed' loses every tie" in ended.out
    found = bench("protocol", "lint", "paper:sclip/coco_object", "--json").json()
    assert [row["level"] for row in found] == ["warning", "warning", "info"]
    assert bench("protocol", "lint", "corrclip", "--dataset", "coco_object", "--json").json() == []
    clean = bench("protocol", "lint", "corrclip/coco_object").out
    assert clean.startswith("protocol corrclip on coco_object: nothing found\ntokens are counted as OpenAI's CLIP does")


def test_lint_ends_with_1_for_an_error(bench: Command, tmp_path: Path) -> None:
    name = protocol_file(tmp_path, "[base]\nprobability_threshold = 0.3\n")
    ended = bench("protocol", "lint", name, "--dataset", "voc20")
    assert ended.code == 1 and "voc20 has no background" in ended.out
    as_json = bench("protocol", "lint", name, "--dataset", "voc20", "--json")
    assert as_json.code == 1 and '"level": "error"' in as_json.out
    assert bench("protocol", "lint", name, "--dataset", "voc21").code == 0


def test_lint_needs_a_record(bench: Command, tmp_path: Path) -> None:
    name = protocol_file(tmp_path, "[base]\n[dataset.mine]\nlogit_scale = 3.0\n")
    ended = bench("protocol", "lint", name, "--dataset", "mine")
    assert ended.code == 2 and "not in the catalogue" in ended.err and ended.out == ""


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "paper:slcip"), "unknown protocol 'paper:slcip'; did you mean sclip?"),
        (("show", "unified:sclip"), "'sclip' belongs to the family 'paper', not to 'unified'"),
        (("show", "sclip/voc22"), "unknown data set 'voc22'; did you mean voc2"),
        (("diff", "sclip", "clearclp"), "unknown protocol 'clearclp'; did you mean clearclip?"),
        (("diff", "sclip", "clearclip", "--dataset", "citiscapes"), "did you mean cityscapes?"),
        (("lint", "paper:sclip/coco_objct"), "unknown data set 'coco_objct'; did you mean coco_object?"),
        (("lint", "gone.toml"), "there is no such file"),
        (("show", "sclip/voc21", "--dataset", "voc20"), "asks for data set 'voc21' and --dataset for 'voc20'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_unknown_names_get_a_suggestion(bench: Command, arguments: tuple[str, ...], words: str) -> None:
    ended = bench("protocol", *arguments)
    assert ended.code == 2 and ended.out == ""
    assert words in ended.err and "Traceback" not in ended.err


# --- terminals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "paper:cliper/voc21"),
        ("show", "cliper"),
        ("show", "trident/ade20k"),
        ("diff", "unified/coco_object", "cliper/coco_object"),
        ("lint", "sclip/ade20k"),
    ],
    ids=" ".join,
)
def test_a_terminal_of_100_columns_is_wide_enough(
    bench: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Tables fit, and no name of a field or an option is broken."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(tables.sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    out = bench("protocol", *arguments).out
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert rows and all(len(line) <= 100 for line in rows)
    first = {line.split("│")[1].strip() for line in rows}
    if arguments[0] == "show":
        assert set(SETTING) <= first
    for option in ("attention_threshold", "refine_negative_cosine"):
        assert option in first or option not in out
