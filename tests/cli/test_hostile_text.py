"""Text of others on the way to a terminal, a table and a folder name: names of classes, protocols and plugins."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.harness.show.escaping import is_hidden

Command = Callable[..., Any]
CLASSES = ["cat\x1b[2J\x1b]0;owned\x07", "dog\u202egod", "x|<b>`q`|\\", "line\nbreak", "c1\x9b31m"]
PLUGIN = """
import torch
from ovss.methods import MethodInfo, WindowMethod, Words


class Evil(WindowMethod):
    info = MethodInfo("evil", title="t\\x1b[31m", paper="p", trained_on="a|b\\n# owned <script>", backbone="")

    def __init__(self, device="cpu", dtype=torch.float32):
        super().__init__()

    @property
    def provenance(self):
        return {"method": "evil", "weights": {"name": "w|`\\n", "sha256": "file:|\\n|"}}

    @property
    def note(self):
        return "n*|`\\n## owned\\x1b[2J"

    def encode_text(self, vocabulary):
        return Words(vocabulary)

    def encode_windows(self, windows):
        return torch.nn.functional.avg_pool2d(windows.pixels.float().mean(1, keepdim=True), 8)

    def score_windows(self, seen, words):
        return seen.expand(-1, len(words.vocabulary.queries), -1, -1).contiguous()
"""


def clean(*texts: str) -> None:
    for text in texts:
        assert not [hex(ord(c)) for c in text if is_hidden(c) and c != "\n"]


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A data set of two images whose names of classes are traps."""
    rng = np.random.default_rng(0)
    for folder, top in (("images", 255), ("labels", len(CLASSES))):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for k in range(2):
            size = (32, 32, 3) if folder == "images" else (32, 32)
            Image.fromarray(rng.integers(0, top, size, np.uint8)).save(tmp_path / "set" / folder / f"{k}.png")
    fields = {"key": "own", "title": "T\x1b[2J | `x`", "images": "images", "labels": "labels", "image_suffix": ".png"}
    values = {**fields, "protocol": "tiny", "licence": "l|\n# owned", "classes": CLASSES}
    path = tmp_path / "set" / "own.toml"
    path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))
    return str(path)


def protocol_file(path: Path, text: str = "[base]\n", **fields: str) -> str:
    values = {"summary": "s", "source": "ours", "family": "paper", **fields}
    path.write_text("version = 1\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()) + text)
    return str(path)


def test_names_of_classes_reach_no_terminal_as_they_are(bench: Command, hostile: str) -> None:
    run = ("run", "-m", "clip", "--backbone", "tiny-clip", "-d", hostile)
    for arguments in (
        run,
        (*run, "--json"),
        (*run, "--picture", "sheet.png"),
        ("show", "own-clip-tiny"),
        ("show", "own-clip-tiny", "--json"),
        (*run, "--confusion", "--save-labels", "maps"),
        ("show", "own-clip-tiny", "--confusion", "--worst", "2", "--labels", "maps"),
        ("show", "own-clip-tiny", "--confusion", "--worst", "2", "--json"),
        ("run", "-m", "maskclip", "--backbone", "tiny-clip", "-d", hostile),
        ("compare", "own-clip-tiny", "own-maskclip-tiny", "--all"),
        ("compare", "own-clip-tiny", "own-maskclip-tiny", "--json"),
        ("data", "check", hostile),
        ("data", "check", hostile, "--json"),
        ("protocol", "lint", "tiny", "--dataset", hostile),
        ("protocol", "words", "tiny", "--dataset", hostile),
        ("protocol", "words", "tiny", "--dataset", hostile, "--json"),
        ("protocol", "show", "tiny", "--dataset", hostile),
        ("leaderboard",),
    ):
        ended = bench(*arguments)
        assert ended.code == 0, (arguments, ended.err)
        clean(ended.out, ended.err)
        if "--json" in arguments and "check" not in arguments:
            assert CLASSES[1] in json.dumps(json.loads(ended.out), ensure_ascii=False)  # a program gets the name itself
    assert "cat\\x1b[2J" in bench("show", "own-clip-tiny").out and Path("sheet.png").stat().st_size > 0


def test_a_photo_with_such_names(bench: Command, photo: Path) -> None:
    names = "cat\x1b[2J, dog\u202e"
    asked = ("segment", str(photo), "--classes", names, "--backbone", "tiny-clip", "-o", "out.png")
    for more in (("-m", "clip"), ("-m", "clip,maskclip", "--heat", names.partition(", ")[0], "--save-labels")):
        ended = bench(*asked, *more)
        assert ended.code == 0 and "cat\\x1b[2J" in ended.out and "invisible character" in ended.err
        clean(ended.out, ended.err)


def test_errors_name_them_too(bench: Command, tmp_path: Path) -> None:
    ended = bench("run", "-m", "clip\x1b[2J", "-d", "shapes")
    assert ended.code == 2 and "clip\\x1b[2J" in ended.err
    clean(ended.err)


def test_a_plugin_and_a_change_in_markdown(
    bench: Command, hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    (tmp_path / "evil_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    ended = bench("run", "-m", "evil_plugin:Evil", "-d", hostile, "--set", "synonym_separator=`|\n# owned")
    assert ended.code == 0, ended.err
    written = bench("leaderboard")
    assert written.code == 0
    clean(ended.out, ended.err, written.out)
    page, latex = ((tmp_path / "results" / f"LEADERBOARD.{suffix}").read_text() for suffix in ("md", "tex"))
    clean(page, latex)
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(page)
    headings = [tokens[k + 1].content for k, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 3 and headings[0] == "Leaderboard"  # the page, a protocol, a data set: none of the plugin
    rows = [k for k, token in enumerate(tokens) if token.type == "tr_open"]
    ends = [k for k, token in enumerate(tokens) if token.type == "tr_close"]
    counts = [sum(t.type in ("td_open", "th_open") for t in tokens[a:b]) for a, b in zip(rows, ends, strict=True)]
    assert counts == [7, 7, 7, 7, 10, 10]
    shown = " ".join(child.content for t in tokens if t.type == "inline" for child in t.children or [])
    assert "a|b\\n# owned <script>" in shown and "n*|`\\n## owned\\x1b[2J" in shown
    inside = [child for t in tokens for child in t.children or []]
    assert not [t for t in (*tokens, *inside) if t.type.startswith("html") and "script" in t.content]
    assert "\n#" not in latex and r"\#\# owned" in latex
    sys.modules.pop("evil_plugin", None)


# --- protocol files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../../evil", "a/b", "a b", ".hidden", "..", "a|b", "`a`", "a\x1b[2J", "a\nb", "", "x" * 65, "a**", "caf\u00e9"],
)
def test_names_that_are_no_names(bench: Command, tmp_path: Path, name: str) -> None:
    path = protocol_file(tmp_path / "p.toml", name=name)
    ended = bench("run", "-m", "clip", "-d", "shapes", "--limit", "1", "--protocol", path)
    assert ended.code == 2 and "cannot be the name of a protocol" in ended.err and "Traceback" not in ended.err
    clean(ended.err)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("stem", "name"), [("My protocol (copy)", "My_protocol__copy_"), ("..x", "x"), ("caf\u00e9", "caf_")]
)
def test_the_name_of_a_file_becomes_one(bench: Command, tmp_path: Path, stem: str, name: str) -> None:
    path = protocol_file(tmp_path / f"{stem}.toml")
    found = bench("run", "-m", "clip", "-d", "shapes", "--limit", "1", "--protocol", path, "--json").json()
    assert found["protocol"] == name
    assert Path(found["run_dir"]).parent == Path("results/runs") and f"-{name}-" in found["run_dir"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("logit_scale = inf", "finite"),
        ("logit_scale = nan", "finite"),
        ("logit_scale = 1e9", "10000"),
        ("short_side_px = 44800", "16384"),
        ("window_px = 1000000", "16384"),
        ("long_side_px = 1000000", "100000"),
        ("size_multiple_px = 99999", "16384"),
        ("columns = 100000", "1000"),
        ("refine_steps = 1000000", "1000"),
        ("seed = 9223372036854775808", "seed"),
        ("class_gate = inf", "finite"),
        ("vocabulary = '../../../etc/passwd'", "vocabulary"),
        ("templates = '../templates/simple'", "templates"),
        ("method_options = { a = { b = nan } }", "a.b is nan"),
        ("options_of = { clip = { x = inf } }", "clip.x is inf"),
    ],
)
def test_values_without_bounds(bench: Command, tmp_path: Path, line: str, says: str) -> None:
    ended = bench("protocol", "show", protocol_file(tmp_path / "p.toml", f"[base]\n{line}\n"))
    assert ended.code == 2 and says in ended.err and "p.toml" in ended.err and "Traceback" not in ended.err


def test_files_that_are_no_protocols(bench: Command, tmp_path: Path) -> None:
    good = Path(protocol_file(tmp_path / "good.toml")).read_text()
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "utf16.toml").write_bytes(good.encode("utf-16"))
    (tmp_path / "latin.toml").write_bytes(good.replace('"s"', '"caf\u00e9"').encode("latin-1"))
    (tmp_path / "lists.toml").write_text("x = " + "[" * 100_000 + "]" * 100_000)
    (tmp_path / "dotted.toml").write_text(good + "method_options" + ".a" * 4_000 + " = 1\n")
    (tmp_path / "deep.toml").write_text(good + "method_options" + ".a" * 20 + " = 1\n")
    (tmp_path / "large.toml").write_text(good + "#" * 1_000_001)
    (tmp_path / "digits.toml").write_text(good + f"seed = {'9' * 5000}\n")
    for name, says in {
        "pipe": "no regular file",
        "folder": "no regular file",
        "utf16": "UTF-16",
        "latin": "line 2 holds the byte 0xe9, which is not UTF-8",
        "lists": "nested too deeply",
        "dotted": "nested too deeply",
        "deep": "nested too deeply",
        "large": "bytes",
        "digits": "no valid TOML",
    }.items():
        ended = bench("protocol", "show", f"{name}.toml")
        assert ended.code == 2 and says in ended.err and f"{name}.toml" in ended.err, (name, ended.err)
        assert len(ended.err.strip().splitlines()) == 1
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + good.encode())
    assert bench("protocol", "show", "bom.toml").code == 0


def test_patterns_of_data_sets_do_not_hang(bench: Command, tmp_path: Path) -> None:
    """Keys with ``*`` are globs, whose stars never go back on one another, and of bounded length."""
    path = protocol_file(tmp_path / "p.toml", f'[base]\n[dataset."{"*a" * 60}b"]\nlogit_scale = 3.0\n')
    own = "a" * 100
    (tmp_path / "own.toml").write_text(
        f'key = "{own}"\ntitle = "t"\nimages = "i"\nlabels = "l"\nclasses = ["cat", "sofa"]\n'
    )
    assert bench("protocol", "show", path, "--dataset", "own.toml").code == 0
    long = protocol_file(tmp_path / "long.toml", f'[base]\n[dataset."{"*a" * 80}"]\nlogit_scale = 3.0\n')
    ended = bench("protocol", "show", long)
    assert ended.code == 2 and "128 characters" in ended.err
