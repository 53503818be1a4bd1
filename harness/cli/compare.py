"""``bench compare``: how two runs or more differ."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase

from ..metrics.bootstrap import why_no_interval
from ..show.tables import decimals, p_text, print_json, print_line, print_table, rounded
from ..use.compare import ClassDifference, Comparison, Difference, Side, compare

_CLASSES = 8
"""Classes that are shown from either end of a longer list."""
_LEVEL = 0.05


def compare_command(names: Sequence[str], results: Path, every: bool, as_json: bool) -> None:
    """The first run against each of the others; ``every`` class instead of the ends of the list."""
    found = compare(*names, results=results)
    if as_json:
        print_json(_json(found))
        return
    letters = dict(zip((s.run for s in found.sides), _letters(len(found.sides)), strict=True))
    _print_sides(found, letters)
    for pair in found.differences:
        _print_pair(pair, letters, every)
    if reason := why_no_interval(found.units):
        print_line(f"{reason}; so there is no p value either, and nothing is said about which is better")
    if found.note:
        print_line(f"note: {found.note}")


def _json(found: Comparison) -> dict[str, object]:
    value = asdict(found)
    for written, pair in zip(value["differences"], found.differences, strict=True):
        written["same_protocol"] = pair.same_protocol
    return value


def _letters(count: int) -> list[str]:
    return [ascii_uppercase[k] if count <= 26 else f"run {k + 1}" for k in range(count)]


def _print_sides(found: Comparison, letters: dict[str, str]) -> None:
    first = found.sides[0]
    pairs = {pair.second: pair for pair in found.differences}
    rows = []
    for side in found.sides:
        pair = pairs.get(side.run)
        minus = "" if pair is None else rounded(pair.difference, pair.interval, sign=True)
        p = "" if pair is None else p_text(pair.p_value)
        rows.append((letters[side.run], _method(side), rounded(side.miou, side.interval), minus, p))
    columns = ("", "method", "mIoU [95 %]", f"{letters[first.run]} minus it [95 %]", "p")
    units = "" if found.units == found.images else f" in {found.units} units"
    print_table(f"{found.dataset} {found.split}, {found.images} images{units}; percent", columns, rows)
    for pair in found.differences:
        print_line(_verdict(pair, letters))
    if len(found.differences) > 1:
        print_line(f"p values are adjusted for {len(found.differences)} comparisons (Holm)")
    print_line("")
    for side in found.sides:
        print_line(f"{letters[side.run]}: {side.run}")
        print_line(f"   protocol {side.protocol} {side.protocol_hash[:8]}, weights {side.weights}")
        print_line(f"   {side.device}, code {side.code}")


def _method(side: Side) -> str:
    options = ", ".join(f"{k}={v}" for k, v in sorted(side.options.items()))
    return f"{side.method} ({options})" if options else side.method


def _verdict(pair: Difference, letters: dict[str, str]) -> str:
    a, b = letters[pair.first], letters[pair.second]
    if pair.p_value is None:
        return f"{a} and {b}: too few units to say which is better"
    if pair.p_value > _LEVEL:
        return f"{a} and {b} cannot be told apart on these images (p {p_text(pair.p_value)})"
    better, worse = (a, b) if pair.difference > 0 else (b, a)
    p = p_text(pair.p_value)
    return f"{better} is better than {worse} on these images (p {p})"


def _print_pair(pair: Difference, letters: dict[str, str], every: bool) -> None:
    a, b = letters[pair.first], letters[pair.second]
    if pair.changes:
        print_line("")
        changes = [(c.field, c.first, c.second, c.why) for c in pair.changes]
        print_table(f"{a} and {b} differ in more than the method", ("what", a, b, "why numbers may move"), changes)
    _print_classes(pair, a, b, every)
    if pair.images:
        print_line("")
        images = pair.images if every else pair.images[:5]
        rows = [(i.image, rounded(i.first, None), rounded(i.second, None), f"{i.difference:+.2f}") for i in images]
        print_table("images where they differ most", ("image", f"mIoU {a}", f"mIoU {b}", f"{a} minus {b}"), rows)


def _print_classes(pair: Difference, a: str, b: str, every: bool) -> None:
    print_line("")
    rows = [_class_row(c) for c in pair.classes if c.difference is not None]
    absent, left = len(pair.classes) - len(rows), len(rows) - 2 * _CLASSES
    if left > 1 and not every:
        rows = [*rows[:_CLASSES], (f"({left} more: --all)", "", "", "", ""), *rows[-_CLASSES:]]
    columns = ("class", f"IoU {a}", f"IoU {b}", f"{a} minus {b} [95 %]", "images")
    print_table(f"classes, {a} against {b}; intervals are of each class by itself", columns, rows)
    if absent:
        print_line(f"{absent} classes are neither labelled nor predicted in one of them")


def _class_row(found: ClassDifference) -> tuple[object, ...]:
    """Both values with the decimals of their difference."""
    digits = decimals(found.interval)
    values = [f"{v:.{digits}f}" for v in (found.first, found.second) if v is not None]
    return (found.name, *values, rounded(found.difference, found.interval, sign=True), found.images)
