"""Names and ``NAME=VALUE`` options of the command line."""

from typing import Any

from ...methods import UserError

Value = bool | int | float | str


def names_of(text: str) -> list[str]:
    """``"a, b"`` -> ``["a", "b"]``."""
    return [name.strip() for name in text.split(",")]


def parse_options(pairs: list[str], flag: str) -> dict[str, Any]:
    """``["pad=true", "x=3"]`` -> ``{"pad": True, "x": 3}``.  Raises ``UserError`` for anything without ``=``."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UserError(f"{flag} takes NAME=VALUE, not {pair!r}")
        out[name.strip().replace("-", "_")] = _value(text)
    return out


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    """What ``--set`` says: as ``parse_options``, and ``TABLE.NAME=VALUE`` is a value of a table.

    >>> parse_changes(["seed=1", "region_options.segments=50"])
    {'seed': 1, 'region_options': {'segments': 50}}
    """
    out: dict[str, Any] = {}
    for path, value in parse_options(pairs, "--set").items():
        *tables, name = path.split(".")
        place = out
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UserError(f"--set gives {table} a value of its own and one for {path}: leave one of them out")
        place[name] = value
    return out


def texts_of(pairs: list[str], flag: str) -> dict[str, str]:
    """``["time=60", "gres=gpu:1"]`` -> ``{"time": "60", "gres": "gpu:1"}``.  Raises ``UserError`` as above."""
    wrong = [pair for pair in pairs if pair.find("=") < 1]
    if wrong:
        raise UserError(f"{flag} takes KEY=VALUE, not {wrong[0]!r}")
    return {key.strip(): value for key, _, value in (pair.partition("=") for pair in pairs)}


def _value(text: str) -> Value:
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
