"""Data sets: one catalogue, one loader, class lists and checks.  Nothing here knows methods or metrics."""

from .catalog import list_datasets, open_dataset
from .checks import check_samples
from .dataset import Dataset, Sample
from .errors import DataError, Problem
from .record import DatasetRecord, read_record

__all__ = [
    "DataError",
    "Dataset",
    "DatasetRecord",
    "Problem",
    "Sample",
    "check_samples",
    "list_datasets",
    "open_dataset",
    "read_record",
]
