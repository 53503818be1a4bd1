"""What a claim needs on this machine: weights and data, each here, or with the commands that get it."""

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ...datasets import DataError, DatasetRecord, find_record, open_dataset
from ...datasets.places import data_roots
from ...methods.models.backbone_names import TINY_CLIP
from ...methods.models.weights import find_entry, list_weights, locate
from ..protocol.differences import changes_of
from ..report.claims import Claim, list_claims
from ..runs.plan import RunSpec
from ..runs.sources import PREFIX, open_any
from .data_here import situation
from .pairs import method_info

HERE, UNKNOWN = "here", "not known"
_STEP = re.compile(r"^\s*\d+\. (bench data prepare \S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Need:
    """Weights or a data set by name, its ``state`` ("here", "not known", or what is wrong) and where it lies.

    ``commands`` get it, one after the other; empty where it is here.  ``note`` is what else is to be known.
    """

    kind: Literal["weights", "data"]
    name: str
    state: str
    where: Path | None
    commands: tuple[str, ...] = ()
    note: str = ""

    @property
    def here(self) -> bool:
        """Whether it is here as a run wants it."""
        return self.state == HERE


def needs(claim: Claim, data_root: Path | None = None) -> tuple[Need, ...]:
    """Everything that the claim needs, weights first.  Raises ``UserError`` for a place that is no folder."""
    return (*map(_weights, claim.checkpoints), data_need(claim.dataset, data_root))


def weights_needs(spec: RunSpec, refine: str) -> tuple[Need, ...]:
    """The weights that a run with the guide ``refine`` needs, by the claims of its method or of its backbone.

    Second models that options ask for are not told; weights that no claim names are ``UNKNOWN``.
    """
    guides = _guides(refine)
    if spec.weights or spec.backbone == TINY_CLIP:
        return tuple(map(_weights, guides))
    backbone = spec.backbone or method_info(spec.method).backbone
    same = [claim for claim in _claims() if (claim.backbone or "") == backbone]
    own = next((claim for claim in same if claim.method == spec.method), None)
    if own is not None:
        theirs = _guides(own.setting.refine)
        groups = [group for group in own.checkpoints if group not in theirs]
    elif backbone and same:
        groups = [same[0].checkpoints[0]]
    else:
        return (Need("weights", backbone or spec.method, UNKNOWN, None), *map(_weights, guides))
    return tuple(map(_weights, [*groups, *guides]))


@cache
def _claims() -> tuple[Claim, ...]:
    return tuple(list_claims().values())


def _guides(refine: str) -> tuple[tuple[str, ...], ...]:
    """The checkpoints of a guide, each a group of its own."""
    return tuple((entry.name,) for entry in list_weights().values() if refine in entry.used_by)


def backbone_file(claim: Claim) -> Path | None:
    """The file to hand over as weights of the backbone; None where the backbone's tag finds them by itself.

    Of CLIP's weights a tag finds what lies in the Hugging Face cache, and OpenAI's own files.
    """
    if claim.backbone is None:
        return None
    found = [f for name in claim.checkpoints[0] if (f := locate(find_entry(name))) and not f.missing]
    by_itself = any(f.place == "hub cache" or f.entry.hub is None for f in found)
    return None if by_itself or not found else found[0].path


def run_command(claim: Claim) -> str:
    """The ``bench run`` that does the same with what is here."""
    name, changes = claim.protocol.name.removesuffix("*"), changes_of(claim.protocol, claim.dataset)
    parts = [f"bench run --method {claim.method} --dataset {claim.dataset} --protocol {name}"]
    parts += [f"--set {change}" for change in changes.split(", ") if change]
    parts += [f"--option {key}={value}" for key, value in sorted(claim.options.items())]
    if file := backbone_file(claim):
        parts += [f"--backbone {model_of(claim)} --weights {shlex.quote(str(file))}"]
    elif claim.backbone:
        parts += [f"--backbone {claim.backbone}"]
    return " ".join(parts)


def model_of(claim: Claim) -> str | None:
    """The backbone without its tag; None for a method with weights of its own."""
    return None if claim.backbone is None else claim.backbone.partition("/")[0]


def _weights(group: tuple[str, ...]) -> Need:
    """One of a group of checkpoints that do alike."""
    found = [located for name in group if (located := locate(find_entry(name)))]
    whole = next((f for f in found if not f.missing), None)
    if whole is not None:
        return Need("weights", whole.entry.name, HERE, whole.path)
    first, *others = (f"bench weights fetch {name}" for name in group)
    hand = "by hand: the command says how" if find_entry(group[0]).steps else ""
    instead = f"or `{others[0]}`" if others else ""
    lacking = f"incomplete, without {', '.join(found[0].missing)}" if found else "missing"
    where = found[0].folder if found else None
    return Need("weights", group[0], lacking, where, (first,), "; ".join(filter(None, [hand, instead])))


def data_need(name: str, data_root: Path | None) -> Need:
    """A data set by its name or file.  Raises ``UserError`` for a place that is no folder."""
    if name.startswith(PREFIX) or name.endswith(".toml") or name.partition(":")[0] == "shapes":
        return _own_data(name, data_root)
    key, _, source = name.partition("@")
    record = find_record(key)
    status, where, _ = situation(record, name, data_root)
    if status in ("found", "built in"):
        dataset = open_dataset(name, data_root)
        count = len(dataset.ids)
        part = f"{count} of {dataset.planned} images: a result would be partial" if count != dataset.planned else ""
        return Need("data", name, HERE, where, note=part)
    commands = _commands(record, status, data_root)
    no_address = f"for labels of `{name}` no address is known: docs/datasets.md says what they are" if source else ""
    hand = "by hand: the command says how" if status == "missing" and not record.downloads else ""
    return Need("data", name, status, where, commands, no_address or hand)


def _own_data(name: str, data_root: Path | None) -> Need:
    """Data of the user's, or of ours, which nobody has to fetch."""
    try:
        open_any(name, data_root)
    except DataError as error:
        return Need("data", name, "missing", None, note=str(error))
    return Need("data", name, HERE, None)


def _commands(record: DatasetRecord, status: str, data_root: Path | None) -> tuple[str, ...]:
    """What `bench data` has to do for a data set that is not here as a run wants it."""
    roots = data_roots(record.key, data_root)
    place = shlex.quote(str(roots[0])) if roots else "DIR"
    option = f" --data-root {place}" if data_root or not roots else ""
    if status == "to prepare":
        return (f"bench data prepare {record.key}{option}",)
    if status == "no labels":
        return (f"bench data check {record.key}{option}",)
    into = f" --into {place}" if record.downloads else ""
    return (f"bench data download {record.key}{into}", *(f"{s}{option}" for s in _STEP.findall(record.steps)))
