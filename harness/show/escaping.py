"""Foreign text as it may be shown: on a terminal, in Markdown, in LaTeX.

Names of classes, protocols, methods, runs and files come from others.  Unescaped, an ESC moves a terminal's cursor, a
bidirectional override reorders what is read, and a ``|`` or a newline breaks a table.  One function for each place.
"""

import re
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories without a shape of their own: controls, formats (bidi overrides, zero width), surrogates, private
and unassigned code points, separators of lines and paragraphs."""
_JOINERS = "\u200c\u200d"
"""Formats that words of some scripts need inside them, and that neither hide nor reorder anything."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~]|(?<![^\W_])_|_(?![^\W_])|^[#+-]|&(?=#?\w+;)")
"""What means something in Markdown or HTML; ``_`` inside a word does not, ``&`` only before an entity's name."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would be the length of a gap
    "*": "{*}",  # and this a mark that forbids a page break
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
"""Those that LaTeX sets on any letter without another font: from grave and acute to caron and cedilla."""


def plain_text(text: str, keep: str = "") -> str:
    r"""Text whose every character is seen: controls and the like become escapes, except those in ``keep``.

    >>> plain_text("cat\x1b[2J\n")
    'cat\\x1b[2J\\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not is_hidden(c) else escape(c) for c in text)


def is_hidden(character: str) -> bool:
    """Whether a character has no shape of its own, or changes how others are shown."""
    return unicodedata.category(character) in _HIDDEN and character not in _JOINERS


def escape(character: str) -> str:
    r"""A character as Python and JSON write it: ``\n``, ``\x1b``, ``\u202e``."""
    code = ord(character)
    wide = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return _SHORT.get(character, wide)


def markdown_text(text: str) -> str:
    r"""Text as a cell or a line of Markdown shows it: no markup, no HTML, no new line.

    >>> markdown_text("a|b <i>_c_")
    'a\\|b \\<i\\>\\_c\\_'
    """
    return _MARKDOWN.sub(r"\\\g<0>", plain_text(text))


def markdown_code(text: str, in_table: bool = False) -> str:
    """Text in the type of code, `` `so` ``, whatever it holds; ``in_table``, a bar ends a cell even in code."""
    text = plain_text(text).replace("|", r"\|" if in_table else "|")
    runs = [len(run) for run in re.findall("`+", text)]
    fence = "`" * (max(runs, default=0) + 1)
    blank = " " if runs else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def latex_text(text: str) -> str:
    r"""Text as LaTeX sets it; letters that its standard fonts lack become escapes, as what is hidden does.

    >>> latex_text("50 % of {a}\\b")
    '50 \\% of \\{a\\}\\textbackslash{}b'
    """
    known = "".join(c if c.isascii() or _is_accented(c) else escape(c) for c in plain_text(text))
    return "".join(_LATEX.get(c, c) for c in known)


def _is_accented(character: str) -> bool:
    """Whether it is a Latin letter with one accent, of the two blocks that LaTeX knows from the start."""
    base, *accents = list(unicodedata.normalize("NFD", character))
    return ord(character) < 0x180 and base.isascii() and len(accents) == 1 and accents[0] in _ACCENTS


def json_text(document: str) -> str:
    """A JSON document whose hidden characters are escapes: it says the same, and a terminal does not obey it."""
    if document.isascii():  # JSON itself escapes the controls of ASCII
        return document
    return "".join(_json_escape(c) if is_hidden(c) and c != "\n" else c for c in document)


def _json_escape(character: str) -> str:
    return "".join(f"\\u{unit:04x}" for unit in _utf16(character))


def _utf16(character: str) -> list[int]:
    data = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[k : k + 2], "big") for k in range(0, len(data), 2)]
