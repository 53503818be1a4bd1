"""Foreign text on terminals, in Markdown, LaTeX and JSON: nothing of it is obeyed, all of it is seen."""

import json
from html import unescape

import pytest

from ovss.harness.show.escaping import is_hidden, json_text, latex_text, markdown_code, markdown_text, plain_text

HOSTILE = "cat\x1b[2J\x9b1mdog\u202egod\n\r\t\x00\x7f\u2028\ufeff\U000e0041\ud800"


@pytest.mark.parametrize(
    "text", ["cat", "TV/monitor", "café", "дом", "猫", "नमस्ते", "می\u200cخواهم", "a_b, c*d", "🐈", ""]
)
def test_what_people_write_stays(text: str) -> None:
    assert plain_text(text) == text


def test_what_is_hidden_is_seen() -> None:
    shown = plain_text(HOSTILE)
    assert shown == ("cat\\x1b[2J\\x9b1mdog\\u202egod\\n\\r\\t\\x00\\x7f\\u2028\\ufeff\\U000e0041\\ud800")
    assert not any(map(is_hidden, shown))
    shown.encode()  # a lone surrogate could not be written
    assert plain_text("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_every_control_and_override_is_hidden() -> None:
    for code in (
        *range(32),
        *range(0x7F, 0xA0),
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0xFEFF,
    ):
        assert is_hidden(chr(code)), hex(code)
    assert not any(is_hidden(chr(code)) for code in range(32, 127))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("clip-dinoiser (pooling=clip_keys)", "clip-dinoiser (pooling=clip_keys)"),
        ("a|b", r"a\|b"),
        ("`rm`", r"\`rm\`"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("**bold** _it_ ~~no~~", r"\*\*bold\*\* \_it\_ \~\~no\~\~"),
        ("![x](http://e)", r"!\[x\](http://e)"),
        ("# title", r"\# title"),
        ("a\n# title", r"a\\n# title"),
        ("a\\|b", r"a\\\|b"),
        ("&lt;b&gt; &#60; A & B", r"\&lt;b\&gt; \&#60; A & B"),
    ],
)
def test_markdown(text: str, shown: str) -> None:
    assert markdown_text(text) == shown  # the backslash of a visible escape is one of Markdown's too


def test_markdown_is_one_cell_of_a_table() -> None:
    rich = pytest.importorskip("markdown_it", reason="comes with rich")
    page = "| a | b |\n|---|---|\n| " + markdown_text("x|<b>`c`\n|**d**\\") + " | end |\n"
    html = rich.MarkdownIt("commonmark").enable("table").render(page)
    cells = [unescape(part.partition("</td>")[0]) for part in html.split("<td>")[1:]]
    assert cells == ["x|<b>`c`\\n|**d**\\", "end"]


@pytest.mark.parametrize("text", ["plain", "a`b", "``", "a|b", "`", "x\ny"])
def test_markdown_code(text: str) -> None:
    rich = pytest.importorskip("markdown_it", reason="comes with rich")
    html = rich.MarkdownIt("commonmark").render(f"x {markdown_code(text)} y")
    assert unescape(html) == f"<p>x <code>{plain_text(text)}</code> y</p>\n"


def test_latex() -> None:
    assert latex_text(r"50 % of $a_b$ & {c}#") == r"50 \% of \$a\_b\$ \& \{c\}\#"
    assert latex_text("\\input{x}~^") == r"\textbackslash{}input\{x\}\textasciitilde{}\textasciicircum{}"
    assert latex_text("a<b>\n") == r"a\textless{}b\textgreater{}\textbackslash{}n"


def test_json_says_the_same() -> None:
    value = {"name": HOSTILE + "é猫", "list": ["\u202e", 1.5]}
    document = json_text(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(document) == value
    assert not any(is_hidden(c) for c in document if c != "\n") and "é猫" in document
    document.encode()
