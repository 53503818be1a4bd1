"""Pages from templates: all text is escaped, and a page may load nothing but the report's own files."""

import hashlib
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..show.escaping import plain_text

POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
"""Content-security policy of every page; ``'self'`` are files that lie below the same folder when opened from disk."""


def write_page(path: Path, template: str, root: str = "", **values: object) -> None:
    """Write a page; ``root`` leads from its folder to that of the report."""
    page = _environment().get_template(template).render(root=root, policy=POLICY, **values)
    path.write_text(page, encoding="utf-8")


def file_name(name: str) -> str:
    """A name for a file that needs no escaping anywhere; two names never give one.

    >>> file_name("voc21-clip-unified-0123456789"), file_name("a/<b>")
    ('voc21-clip-unified-0123456789', '428d8a50-a__b_')
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if safe == name and len(name) <= 100 and re.match(r"[A-Za-z0-9]", name):
        return name
    return f"{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}-{safe[:80]}"


def number(value: float | None, digits: int = 2) -> str:
    """``41.23``, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    environment.filters["number"] = number
    return environment


def _seen(value: object) -> object:
    """Text whose every character is seen; what a macro has made is escaped already."""
    return plain_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
