"""Reported values: what papers and repositories say that a method reaches (``published.csv``).

Every row of the file is a ``Reported``.  Beside a run stand values for its method, weights and refinement, all from
*one* source: the method's own paper, without one its repository, without that somebody's re-run or quotation.  Of
several sources of one kind it is the one with the most data sets, then the first in the file.  What that source does
not have is not filled from another, and a row with a flag is never shown.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...datasets.invalid import explain
from ...methods import UserError

TABLE = Path(__file__).parent / "published.csv"
Origin = Literal["paper", "repository", "elsewhere"]
PostProcessing = Literal[
    "none",
    "as listed",
    "PAMR",
    "SD-refine",
    "SAM-refine",
    "SAM prompts",
    "TLP",
    "DBSCAN vote",
    "mask map correction",
    "CRF on masks (offline)",
    "as listed (reference bank)",
]
DATASETS = {
    "voc21": "VOC21",
    "voc20": "VOC20",
    "context60": "Context60",
    "context59": "Context59",
    "coco_object": "COCO-Object",
    "coco_object@instances": "COCO-Object (instances)",
    "coco_stuff": "COCO-Stuff",
    "coco_stuff10k": "COCO-Stuff10k",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "pc459": "PC459",
    "ade847": "ADE847",
}
"""Data set by its key -> its name in the table.  CLIPer scores COCO-Object's 5000 images against other masks."""
OTHERS = ("ADEfull", "Context59-or-60", "avg8", "avg5")
"""Names in the table that are no data set here: another protocol, not stated which, or a mean."""
WEIGHTS = {
    "hub timm/vit_base_patch16_clip_224.openai": "openai ViT-B/16",
    "hub timm/vit_large_patch14_clip_224.openai": "openai ViT-L/14",
    "OpenAI's ViT-B-16.pt": "openai ViT-B/16",  # known by its SHA-256
    "OpenAI's ViT-L-14.pt": "openai ViT-L/14",
    "hub laion/CLIP-ViT-B-16-laion2B-s34B-b88K": "laion2b_s34b_b88k ViT-B/16",
    "hub laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "laion2b_s34b_b79k ViT-B/32",
    "hub laion/CLIP-ViT-L-14-laion2B-s32B-b82K": "laion2b_s32b_b82k ViT-L/14",
    "hub laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "laion2b ViT-H/14",
    "hub timm/vit_base_patch16_clip_224.metaclip_2pt5b": "metaclip_fullcc ViT-B/16",
    "hub timm/vit_large_patch14_clip_224.metaclip_2pt5b": "metaclip_fullcc ViT-L/14",
    "file tcl.pth": "TCL",
    "file segclip.bin": "SegCLIP",
    "folder groupvit-gcc-yfcc, pytorch_model.bin": "GroupViT GCC+YFCC",
    "folder groupvit-gcc-redcaps, pytorch_model.bin": "GroupViT GCC+RedCaps",
    "file group_vit_gcc_yfcc_30e-879422e0.pth": "GroupViT GCC+YFCC",
    "file group_vit_gcc_redcap_30e-3dd09a76.pth": "GroupViT GCC+RedCaps",
    "file ovseg_swinbase_vitL14_ft_mpt.pth": "OVSeg Swin-B + ViT-L/14",
    "file ovseg_R101c_vitB16_ft_mpt.pth": "OVSeg R101c + ViT-B/16",
}
"""Where weights came from, without the commit -> their name in the table.

For CLIP the repository decides: a local file of open_clip's common name may hold anything.  A method with weights of
its own has one release, whose file names occur nowhere else.
"""


class Reported(BaseModel):
    """One cell of somebody's table.

    ``method``, ``backbone`` (weights) and ``dataset`` are names of this table, ``vfm`` a second model that took part,
    ``miou`` is in percent.  ``postproc``: "none", or what was done to the scores; "as listed" is what belongs to the
    method as its source lists it.  ``origin``: the "paper" or the "repository" of the method itself, else "elsewhere".
    ``flag`` says why the value must not be shown; empty for all others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    method: str = Field(min_length=1)
    backbone: str = Field(min_length=1)
    vfm: str
    dataset: str
    miou: float = Field(ge=0, le=100)
    postproc: PostProcessing
    origin: Origin
    source: str = Field(min_length=4)
    flag: str

    @property
    def group(self) -> tuple[str, str, str]:
        """What one choice takes or leaves: rows of one source, with one second model and one post-processing."""
        return (self.source, self.vfm, self.postproc)


def read_table(path: Path = TABLE) -> tuple[Reported, ...]:
    """Rows of a table of reported values, in the order of the file.

    Raises ``UserError`` that names file and line for a row that is no ``Reported``, an unknown data set, or a cell that
    stands there twice.
    """
    rows: dict[tuple[Any, ...], Reported] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, fields in enumerate(csv.DictReader(file, strict=True), start=2):
            try:
                row = Reported.model_validate(fields)
            except ValidationError as error:
                raise UserError(f"{path.name}, row {number}: {explain(error, 'row', ', ', '')}") from error
            if row.dataset not in (*DATASETS.values(), *OTHERS):
                raise UserError(f"{path.name}, row {number}: dataset is {row.dataset!r}, which is none of its names")
            key = (row.method, row.backbone, row.dataset, *row.group)
            if key in rows:
                raise UserError(f"{path.name}, row {number}: {row.method} on {row.dataset} stands there twice")
            rows[key] = row
    return tuple(rows.values())


def reported(published: str | None, dataset: str, weights: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    """``reported`` (percent) and ``reported_source`` for a run, both None where nothing fits.

    ``published`` is the method's name in the table, ``dataset`` the key of the data set, ``weights`` where its weights
    came from (``source`` of its provenance), ``setting`` the values of the protocol.
    """
    nothing = {"reported": None, "reported_source": None}
    kinds, backbone = kinds_under(setting), weights_of(weights)
    if published is None or backbone is None or not kinds:
        return nothing
    wanted = DATASETS.get(dataset)
    for row in line_of(published, backbone, kinds):
        if row.dataset == wanted:
            return {"reported": row.miou, "reported_source": row.source}
    return nothing


def weights_of(source: str) -> str | None:
    """Name in the table of weights, from where they came from (``source`` of their provenance); None if unknown."""
    origin = source.partition("@")[0]
    return WEIGHTS.get(origin) or WEIGHTS.get(origin.rpartition(", ")[2])  # FILE, OpenAI's MODEL.pt


def chosen_rows(
    table: Sequence[Reported], method: str, backbone: str, kinds: Sequence[PostProcessing]
) -> list[Reported]:
    """Rows of the one source for a method, weights and any of the kinds of post-processing, the first preferred."""
    fitting: dict[tuple[str, str, str], list[Reported]] = {}
    for row in table:
        if (row.method, row.backbone) == (method, backbone) and row.postproc in kinds and row.dataset not in OTHERS:
            fitting.setdefault(row.group, []).append(row)
    # A source that is wrong in one cell is not trusted in the others.
    sound = [rows for rows in fitting.values() if not any(row.flag for row in rows)]

    def rank(rows: list[Reported]) -> tuple[int, int, int]:
        origin = min(get_args(Origin).index(row.origin) for row in rows)
        return (origin, kinds.index(rows[0].postproc), -len(rows))

    return min(sound, key=rank, default=[])  # the first of equal ones


@cache
def line_of(method: str, backbone: str, kinds: tuple[PostProcessing, ...]) -> tuple[Reported, ...]:
    """``chosen_rows`` of the shipped table."""
    return tuple(chosen_rows(_table(), method, backbone, kinds))


@cache
def _table() -> tuple[Reported, ...]:
    return read_table()


def kinds_under(setting: Mapping[str, Any]) -> tuple[PostProcessing, ...]:
    """What reported rows call the refinement of a protocol, preferred first; nothing for one that nobody reported.

    A vote of the method's own regions is CorrCLIP's, one of other regions nobody reported.  Without refinement, what
    belongs to the method itself fits too.  Rows with Stable Diffusion are CLIPer's: 2.1 base, a chain, noised.
    """
    vote = setting.get("region_vote", "none")
    if vote != "none":
        return ("mask map correction",) if (vote, setting["refine"]) == ("method", "none") else ()
    match setting["refine"]:
        case "none":
            return ("none", "as listed")
        case "pamr":
            return ("PAMR",)
        case "sam":
            return ("SAM-refine",)
        case "pearl":
            return ("TLP",)
        case "sd21" if (setting["refine_fusion"], setting["refine_noise"]) == ("chain", "per-image"):
            return ("SD-refine",)
    return ()
