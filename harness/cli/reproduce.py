"""``bench reproduce``: reported values, what a run of them needs here, and whether they come out."""

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ...methods import UserError
from ...methods.core.errors import did_you_mean
from ..report.claims import Claim, list_claims
from ..show.progress import bars
from ..show.tables import lasting, print_json, print_line, print_table, print_warning, with_interval
from ..use.needs import HERE, Need, run_command
from ..use.reproduce import ReproduceRequest, Verdict, reproduce, reproduce_all, stand_all

_SAMPLING = "the interval is about other images: the reported value is of the same ones, so it explains no difference"


def reproduce_command(
    patterns: Sequence[str], everything: bool, dry_run: bool, asked: ReproduceRequest, as_json: bool
) -> None:
    """Run the claims that are asked for, as far as everything is here, and say how they come out."""
    if not math.isfinite(asked.tolerance):
        raise UserError(f"--tolerance is {asked.tolerance}: it is a number of percent, such as 0.5")
    claims = _chosen(patterns, everything)
    alone = len(claims) == 1 and claims[0].name in patterns
    try:
        with bars() as progress:
            if dry_run:
                found = stand_all(claims, asked)
            elif alone:
                found = [reproduce(claims[0], asked, progress, print_warning, _note)]
            else:
                found = reproduce_all(claims, asked, progress, print_warning, _note)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is kept, run the same command again to go on\n")
        sys.exit(130)
    if as_json:
        values = [_value(one) for one in found]
        print_json(values[0] if alone else values)
    elif alone:
        _print_one(found[0])
    else:
        _print_all(found)
    raise SystemExit(_code(found, dry_run, asked.limit))


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _chosen(patterns: Sequence[str], everything: bool) -> list[Claim]:
    """Claims that any of the patterns fits.  Raises ``UserError`` for one that fits none, or has no value."""
    if bool(patterns) == everything:
        raise UserError("name claims as METHOD/DATASET (sclip/voc21, 'sclip/*'), or ask for --all of them")
    known = list_claims()
    if everything:
        return list(known.values())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UserError(_unknown(pattern, known))
        if pattern in known and known[pattern].reported is None:
            raise UserError(_not_reported(known[pattern], known))
    return [claim for name, claim in known.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _unknown(pattern: str, known: Mapping[str, Claim]) -> str:
    line, _, dataset = pattern.partition("/")
    lines = list(dict.fromkeys(claim.line for claim in known.values()))
    if line not in lines:
        return (
            f"{pattern!r} is no reported line{did_you_mean(line, lines)}.  `bench reproduce --all --dry-run` lists all"
        )
    some = next(claim for claim in known.values() if claim.line == line)
    if not dataset:
        return f"{pattern!r} names no data set: write {line}/DATASET, or '{line}/*' for all"
    return _not_reported(some.model_copy(update={"name": pattern}), known)


def _not_reported(claim: Claim, known: Mapping[str, Claim]) -> str:
    there = [one.dataset for one in known.values() if one.line == claim.line and one.reported is not None]
    return f"{claim.name} is not reported: {claim.source} has no value for it, but for {', '.join(there)}"


# ---- exit code


def _code(found: Sequence[Verdict], dry_run: bool, limit: int | None) -> int:
    """1 if a value does not come out, 2 if no verdict could be had of one that was asked for, else 0."""
    kinds = {one.kind for one in found}
    if "does not reproduce" in kinds:
        return 1
    unknown = {"needs", "failed", *([] if limit else ["partial"])}
    return 2 if kinds & unknown and not dry_run else 0


# ---- one claim


def _print_one(one: Verdict) -> None:
    claim = one.claim
    print_line(f"{claim.name}: {', '.join(_made_with(claim))}")
    print_line(f"reported {claim.reported} ({claim.source})")
    print_line(f"as `{run_command(claim)}`")
    rows = [
        (f"{n.kind} {n.name}", n.state, n.where or "; then ".join(f"`{c}`" for c in n.commands), n.note)
        for n in one.needs
    ]
    print_table("", ("needed", "state", "where, or how to get it", "note"), rows)
    print_line(f"expected time: {_time(one)}")
    if one.finished is not None:
        _print_result(one)
    print_line(_says(one))
    for text in one.evidence:
        print_line(text)
    print_line("a value of ours may differ because:" if claim.reasons else "no reason is known why it may differ")
    for reason in claim.reasons:
        print_line(f"  {reason}")
    print_line("  what else differs is unknown" if claim.reasons else "what differs is unknown")


def _made_with(claim: Claim) -> list[str]:
    second = f"second model {claim.second_model}" if claim.second_model else "no second model"
    backbone = [claim.backbone] if claim.backbone else [f"weights {claim.weights}"]
    protocol = f"protocol {claim.protocol.name} {claim.setting.hash[:8]}"
    return [claim.label, *backbone, protocol, second, f"post-processing {claim.postprocessing}"]


def _print_result(one: Verdict) -> None:
    assert one.finished is not None
    result, manifest = one.finished.result, one.finished.manifest
    weights = manifest.weights
    said = [f"{weights['name']} {weights['sha256'][:17]}"] if weights else []
    said += [manifest.environment["device"], f"code {manifest.code_version}", f"run {one.finished.folder}"]
    print_line(f"ours {_with_bounds(one)}, difference {_difference(one)}")
    print_line(f"  {', '.join(said)}")
    if result.interval is not None:
        print_line(f"  {_SAMPLING}")


def _difference(one: Verdict) -> str:
    return "" if one.difference is None else f"{one.difference:+.2f}"


def _with_bounds(one: Verdict) -> str:
    assert one.finished is not None
    summary = one.finished.summary
    return with_interval(summary["miou"], summary["interval"])


def _says(one: Verdict) -> str:
    """The verdict as a sentence."""
    within = f"within {one.tolerance:g} mIoU"
    match one.kind:
        case "reproduces":
            return f"reproduces: {within}, on all {_images(one)} images"
        case "does not reproduce":
            return f"does not reproduce: not {within}, on all {_images(one)} images"
        case "partial":
            return f"partial: {_images(one)} images, which is no verdict"
        case "needs":
            return f"needs {', '.join(need.name for need in one.missing)}"
        case "not run":
            return "not run: everything is here"
    return one.kind


def _images(one: Verdict) -> str:
    """``1449``, or ``12 of 1449``."""
    assert one.finished is not None
    result = one.finished.result
    return str(result.planned) if result.complete else f"{len(result.ids)} of {result.planned}"


def _time(one: Verdict) -> str:
    if one.expected is None:
        return "unknown until the first images"
    expected = one.expected
    each = f"{expected.seconds_per_image:.3g} s for each of {expected.images} images"
    return f"{lasting(expected.seconds)} ({each}, by {expected.run})"


# ---- many claims


def _print_all(found: Sequence[Verdict]) -> None:
    columns = ("claim", "reported", "ours [95 %]", "difference", "missing", "time", "verdict")
    print_table("", columns, [_row(one) for one in found])
    for one in found:
        if one.problem:
            print_line(f"{one.claim.name} failed: {one.problem}")
    for text in dict.fromkeys(text for one in found for text in one.evidence):
        print_line(text)
    missing = {need.name: need for one in found for need in one.missing if one.claim.reported is not None}
    if missing:
        print_line("to get what is missing:")
    for need in missing.values():
        print_line(f"  {need.name}: {_how(need)}")
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in found).items())
    print_line(f"{len(found)} claims: {counts}; a value reproduces within {found[0].tolerance:g} mIoU on all images")


def _row(one: Verdict) -> tuple[object, ...]:
    claim = one.claim
    if claim.reported is None:
        return (claim.name, None, None, None, None, None, one.kind)
    return (
        claim.name,
        claim.reported,
        _with_bounds(one) if one.finished else None,
        _difference(one),
        ", ".join(need.name for need in one.missing),
        lasting(one.expected.seconds) if one.expected else "unknown",
        one.kind,
    )


def _how(need: Need) -> str:
    commands = ", then ".join(f"`{command}`" for command in need.commands)
    return f"{commands} ({need.note})" if need.note else commands


# ---- JSON


def _value(one: Verdict) -> dict[str, Any]:
    """A claim and how it stands, as JSON."""
    claim = one.claim
    fields = claim.model_dump(mode="json", exclude={"name", "protocol"})
    return {
        "claim": claim.name,
        **fields,
        "protocol": claim.protocol.name,
        "protocol_hash": claim.setting.hash,
        "command": run_command(claim),
        "needs": [_need(need) for need in one.needs],
        "expected": one.expected and {**vars(one.expected), "seconds": one.expected.seconds},
        "tolerance": one.tolerance,
        "verdict": one.kind,
        "difference": one.difference,
        "ours": _ours(one),
        "evidence": list(one.evidence),
        "problem": one.problem,
    }


def _need(need: Need) -> dict[str, Any]:
    return {**vars(need), "where": str(need.where) if need.where else None, "present": need.state == HERE}


def _ours(one: Verdict) -> dict[str, Any] | None:
    if one.finished is None:
        return None
    result, manifest = one.finished.result, one.finished.manifest
    return {
        "miou": one.finished.summary["miou"],
        "interval": one.finished.summary["interval"],
        "images": len(result.ids),
        "planned": result.planned,
        "weights": manifest.method.get("weights"),
        "device": manifest.environment["device"],
        "code_version": manifest.code_version,
        "run_dir": str(one.finished.folder),
    }
