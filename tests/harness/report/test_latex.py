"""LaTeX of the leaderboard: values by hand, a checked grammar, and the real program where it is installed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ovss.harness.report.latex import interval_of, latex
from ovss.harness.report.references import bibtex
from ovss.harness.report.rows import Row
from ovss.methods import UserError

from .test_grid import build, row

HOSTILE = (
    "[1in] *\\end{table}\\input{/etc/passwd} $x^2_i$ #1 & 50% ~ <a|b> \"q\" 'q' `q` café Łódź «猫» \x1b[2J\u202e\n\n"
)
COMMANDS = {
    *("begin", "end", "caption", "label", "smallskip", "centering", "footnotesize", "setlength", "tabcolsep"),
    *("toprule", "midrule", "bottomrule", "multicolumn", "textbf", "underline", "emph", "cite", "scriptsize", "pm"),
    *("dagger", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"),
}
SYMBOLS = set("\\%&$#_{},")


def made(**changes: Any) -> list[Row]:
    rows = [
        row("clip", "voc21", 50, low=48.5, high=51.0, units=20, images=20, **changes),
        row("sclip", "voc21", 60, low=59.0, high=61.0, units=20, images=20, note="all; own", **changes),
        row("naclip", "voc21", 40, units=20, images=20, note="all", **changes),
        row("tcl", "voc21", 55, training_free=False, **changes),
    ]
    return rows + [r.model_copy(update={"dataset": "camvid"}) for r in rows[:2]]


def written(rows: list[Row], interval: str = "pm") -> str:
    return latex(rows, build(rows), interval_of(interval))


def tabulars(text: str) -> list[list[list[str]]]:
    """Cells of every line of every tabular; the grammar is checked on the way."""
    found = []
    for spec, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line not in (r"\toprule", r"\midrule", r"\bottomrule")]
        assert all(line.endswith(r" \\") for line in lines)
        cells = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines]
        for line in cells:
            spans = sum(int(n) for n in re.findall(r"\\multicolumn\{(\d)\}", "&".join(line)))
            plain = sum("multicolumn" not in cell for cell in line)
            assert spans + plain == len(spec), line
        found.append([[cell.strip() for cell in line] for line in cells])
    return found


def check_grammar(text: str) -> None:
    """Environments and braces are balanced, commands are known, and nothing that means something stands bare."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) <= COMMANDS
    assert set(re.findall(r"\\([^a-zA-Z])", body)) <= SYMBOLS
    open_ones: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([\w*]+)\}", body):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    bare = re.sub(r"\\.", "", body.replace("\\\\", ""))
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0
    assert "#" not in bare and "_" not in bare and "%" not in bare
    assert set(re.sub(r"\$[^$]*\$", "", bare)) & {"^"} == set()
    assert all(c.isprintable() or c == "\n" for c in text) and "\n\n\n" not in text
    assert len(re.findall(r"\\label\{([^}]*)\}", body)) == len(set(re.findall(r"\\label\{([^}]*)\}", body)))


def test_a_grid_by_hand() -> None:
    free, trained, camvid, voc = tabulars(written(made()))
    assert [x.partition("}{c}")[2] for x in free[0][1:]] == ["{camvid}", "{voc21}", "{mean}", "{rank}"]
    assert free[1][1:3] == [r"\multicolumn{1}{c}{test}"] * 2
    sclip = [r"\textbf{60.00}\,{\scriptsize$\pm$1.00}$^{1,2}$"] * 2
    assert free[2] == [r"sclip~\cite{wang2024sclip}", *sclip, r"\textbf{60.00}", "1"]
    assert free[3][2] == r"\underline{50.00}\,{\scriptsize$\pm$1.50}"  # the larger side of 48.5 to 51.0
    assert free[4] == [r"naclip~\cite{hajimiri2025naclip}", "", r"40.00$^{1}$", "40.00", "3"]
    assert trained[0][1:] == [rf"\multicolumn{{1}}{{c}}{{{x}}}" for x in ("voc21", "mean", "rank")]  # no empty column
    assert trained[2][0] == r"tcl~\cite{cha2023tcl}" and len(trained) == 3
    assert [line[0] for line in voc[1:]] == [
        r"\multicolumn{6}{l}{\emph{Training-free}}",
        r"sclip~\cite{wang2024sclip}",
        r"clip~\cite{radford2021clip}",
        r"naclip~\cite{hajimiri2025naclip}",
        r"\multicolumn{6}{l}{\emph{Trained}}",
        r"tcl~\cite{cha2023tcl}",
    ]
    assert voc[2][1] == sclip[0] and voc[6][1] == r"\textbf{55.00}"
    assert len(camvid) == 4


def test_means_and_ranks() -> None:
    (grid,) = tabulars(written([r for r in made() if r.method in ("clip", "sclip")]))[:1]
    assert [line[3:] for line in grid[2:]] == [[r"\textbf{60.00}", "1"], [r"\underline{50.00}", "2"]]


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        ("pm", r"\underline{50.00}\,{\scriptsize$\pm$1.50}"),
        ("brackets", r"\underline{50.00} {\scriptsize [48.50, 51.00]}"),
        ("none", r"\underline{50.00}"),
    ],
)
def test_intervals(interval: str, shown: str) -> None:
    text = written(made(), interval)
    assert f"& {shown} &" in text and ("interval over images" in text) == (interval != "none")
    check_grammar(text)


def test_an_unknown_interval() -> None:
    with pytest.raises(UserError, match=r"--interval cannot be 'bracket'; did you mean brackets\?"):
        interval_of("bracket")


def test_differences_have_a_true_minus() -> None:
    rows = [row("a", "one", 60), row("b", "one", 50, behind=-10.0, behind_low=-12.0, behind_high=-9.0)]
    assert r"$-$10.00 {\scriptsize [$-$12.00, $-$9.00]}" in written(rows, "brackets")
    assert r"$-$10.00\,{\scriptsize$\pm$2.00}" in written(rows)


def test_the_caption_says_what_the_numbers_rest_on() -> None:
    rows = made(device="gpu 1", code="0.1.0 abc", weights="file:0123456789", backbone="ViT", precision="float16")
    rows[0] = rows[0].model_copy(update={"device": "gpu 2"})
    caption = written(rows).split(r"\caption")[1]
    for told in (
        "protocol p (hash abcdef12, changed by hand: x)",
        "Device: gpu 1 (sclip, clip, naclip); gpu 2 (clip).",
        "Code: 0.1.0 abc.",
        "Weights: ViT 01234567 float16 (x), refined by x.",
        r"PASCAL VOC 2012 (20 classes and background)~\cite{everingham2010voc} (20 images, 20 units)",
        "Mean and rank over 1 of 2 data sets: those that all methods have.",
        r"$^{1}$\,All. $^{2}$\,Own.",
    ):
        assert told in caption, told


def test_partial_runs_are_marked() -> None:
    part = row("clip", "one", 99, complete=False, images_sha256="other", note="own")
    text = written([row("sclip", "one", 50), part])
    assert r"99.00$^{\dagger1}$" in text and r"\textbf{99.00}" not in text
    assert text.count("Partial run: no mean and no rank.") == 1 and text.count("Partial runs.") == 1


def test_many_data_sets_take_both_columns_of_a_page() -> None:
    rows = [row("clip", f"set{k}", k) for k in range(8)]
    assert r"\begin{table*}" in written(rows) and r"\begin{table*}" not in written(rows[:3])


def hostile_rows() -> list[Row]:
    names = ("protocol", "changed", "split", "backbone", "device", "code", "note", "unchecked", "guide", "weights")
    hostile = row(HOSTILE, HOSTILE, 3, **dict.fromkeys(names, HOSTILE))
    return [*made(), hostile, hostile.model_copy(update={"method": "y", "note": "[x]; *y*"})]


@pytest.mark.parametrize("interval", ["pm", "brackets", "none"])
def test_hostile_names_break_nothing(interval: str) -> None:
    text = written(hostile_rows(), interval)
    check_grammar(text)
    tables = tabulars(text)
    assert any(line[0].startswith(r"{[}1in] {*}\textbackslash{}end\{table\}") for table in tables for line in table)
    assert r"\\u732b" in text.replace(r"\textbackslash{}", "\\\\") and "café" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed: the grammar alone is checked")
@pytest.mark.parametrize("interval", ["pm", "brackets", "none"])
def test_it_compiles(tmp_path: Path, interval: str) -> None:
    rows = [*made(), *hostile_rows(), *(row("clip", f"mess_{k}", 50, low=49, high=51) for k in range(8))]
    accents = "".join(map(chr, range(0xA1, 0x250)))
    rows.append(row("accents", "voc21", 10, note=accents.replace(";", "")))
    (tmp_path / "rows.bib").write_text(bibtex(rows))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\extrafloats{100}\n\\begin{document}\n"
        f"{written(rows, interval)}\\bibliographystyle{{plain}}\n\\bibliography{{rows}}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    if shutil.which("bibtex"):
        done = subprocess.run(["bibtex", "paper"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "Warning" not in done.stdout, done.stdout
