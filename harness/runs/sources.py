"""Where data sets and protocols come from: our catalogues, the user's files, and configs of mmsegmentation.

What knows mmsegmentation is found by its name when it is asked for, as methods are: nothing here imports it.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from ...datasets import Dataset, open_dataset
from ..protocol.protocol import Protocol, load_protocol

PREFIX = "mmseg:"
_CONFIG, _PROTOCOL = "ovss.harness.mmseg.config", "ovss.harness.mmseg.protocol"


def open_any(name: str, data_root: Path | None = None) -> Dataset:
    """``open_dataset``, or the data set of an mmseg config when the name begins with ``mmseg:``."""
    if not name.startswith(PREFIX):
        return open_dataset(name, data_root)
    opened: Dataset = _mmseg().MmsegDataset(Path(name.removeprefix(PREFIX)), data_root)
    return opened


def load_any(name: str) -> Protocol:
    """``load_protocol``, or the constants of an mmseg config when the name begins with ``mmseg:``."""
    if not name.startswith(PREFIX):
        return load_protocol(name)
    loaded: Protocol = import_module(_PROTOCOL).protocol_of(Path(name.removeprefix(PREFIX)))
    return loaded


def unused_words(dataset: str, protocol: str | None) -> list[str]:
    """What the mmseg configs of a run say about words that the run does not follow: a sentence for each.

    ``dataset`` and ``protocol`` are the names that the user gave.  The class file of a data set's config is used.
    """
    asked = [(option, name) for option, name in (("--dataset", dataset), ("--protocol", protocol)) if name]
    return [
        sentence
        for option, name in asked
        if name.startswith(PREFIX)
        for sentence in _mmseg().unused_words(option, name, dataset)
    ]


def _mmseg() -> Any:
    return import_module(_CONFIG)
