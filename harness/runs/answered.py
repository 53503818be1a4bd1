"""What was asked before and is finished: found again in a moment, without torch.

Which folder a run has follows from what its method says once it is built, which takes seconds.  So a finished run
leaves a record in the cache: what was asked, under the code and packages of that time, with this content of the data
and these files of weights, led to that run.  It is believed while all of that is the same, and the run's own files,
which carry checksums, are read and checked as ever.  Anything else, a damaged record too, is "not known": the method is
built.

It relies on three things.  A package of the same version is the same code.  A file with the same size, inode and times,
that of the last change of status included, is the same file (``datasets.memory.mark``).  The hub's cache names in
``refs/main`` which snapshot is read.  Where more would have to be believed nothing is recorded: methods of others,
guides and second models, options that name a file, data sets of mmsegmentation.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from ...datasets import Dataset
from ...datasets.memory import mark
from ...datasets.writing import write_atomically
from ...methods import UserError
from ...methods.core.files import cache_folder
from ...methods.names import built_in_info
from .plan import Plan, RunSpec
from .provenance import package_versions, source_hash
from .run import Finished, Run
from .sealed import digest_of, read_sealed, seal
from .sources import PREFIX

if TYPE_CHECKING:  # an answer needs no torch
    from .pipeline import Pipeline

_VARIABLES = (
    *("OVSS_WEIGHTS", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"),
    *("OVSS_DECODER", "OVSS_KERNELS", "OVSS_LINEARS", "CUDA_VISIBLE_DEVICES"),
)
"""Where weights are looked for, and what a run is refused for."""


class Answer(BaseModel):
    """Which run was asked for (folder and identity), the data and weights that it is about, and what was said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    plan: str
    data: str
    marks: dict[str, str]
    said: tuple[str, ...] = ()


def recall(spec: RunSpec) -> Answer | None:
    """What this was before, if the weights are as they were; ``finished`` needs the content of the data to be sure."""
    try:
        answer = Answer.model_validate(read_sealed(_place(spec)))
    except (UserError, ValidationError):
        return None
    return answer if all(mark(Path(path)) == known for path, known in answer.marks.items()) else None


def finished(
    answer: Answer, data: Dataset, content: Mapping[str, str], results: Path, wanted: tuple[str, ...]
) -> Finished | None:
    """The run, when the data are the same and it holds all of ``wanted``, whole and merged."""
    run = Run(results / "runs" / answer.name)
    try:
        plan = run.plan()
        if answer.data == _data(data, content) and plan.digest == answer.plan and run.answers(plan, wanted):
            return run.finished(wanted)
    except UserError:  # absent or damaged: told when it is worked on
        pass
    return None


def remember(plan: Plan, pipeline: "Pipeline", data: Dataset) -> None:
    """Record a run that is finished, if a record can be believed later."""
    files = _files(plan, pipeline)
    if files is None:
        return
    said = tuple(text for level, text in pipeline.findings if level == "warning")
    marks = {str(path): mark(path) for path in files}
    answer = Answer(name=plan.name, plan=plan.digest, data=_data(data, plan.content), marks=marks, said=said)
    with suppress(OSError):  # a cache that cannot be written costs time only, and is told where it holds more
        write_atomically(_place(plan.spec), seal(answer.model_dump(mode="json")))


def _place(spec: RunSpec) -> Path:
    """Where the record of a request lies: by what was asked, our code, packages, and where things are looked for."""
    environment = [os.environ.get(name) for name in _VARIABLES]
    asked = [spec.model_dump(mode="json"), source_hash(), package_versions(), environment]
    return cache_folder() / "answered" / f"{digest_of(asked)}.json"


def _data(data: Dataset, content: Mapping[str, str]) -> str:
    record = data.record
    return digest_of([record.key, record.split, record.hash, list(data.ids), data.planned, data.note, dict(content)])


def _files(plan: Plan, pipeline: "Pipeline") -> list[Path] | None:
    """Files that decide which weights are read; None where that is not sure."""
    from ...methods.models.backbone import TINY_CLIP_FOLDER, Backbone

    spec, method = plan.spec, pipeline.method
    backbone = getattr(method, "backbone", None)
    texts = [v for v in spec.options_under(plan.setting).values() if isinstance(v, str)]
    if (
        built_in_info(spec.method) is None
        or spec.dataset.startswith(PREFIX)
        or method.loaded
        or pipeline.guide
        or pipeline.voter
        or any(os.sep in text or os.path.exists(text) for text in texts)  # noqa: PTH110 - no text is too long for it
        or not isinstance(backbone, Backbone)
        or backbone.file is None
    ):
        return None
    file = backbone.file
    if file.parent == TINY_CLIP_FOLDER:
        return sorted(TINY_CLIP_FOLDER.iterdir())
    if spec.weights:
        return [Path(spec.weights), file, file.with_name("config.json")]
    snapshot = file.parent
    if snapshot.parent.name != "snapshots":
        return None
    return [file, snapshot, snapshot.parent.with_name("refs") / "main"]
