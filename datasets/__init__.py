"""Data sets: one catalogue, one loader, class lists and checks.  Nothing here knows methods or metrics."""

from .catalog import dataset_keys, find_record, list_datasets, open_dataset
from .census import Census
from .checks import Checked, check_samples, set_digest
from .dataset import Dataset, Sample
from .dependence import clusters_of
from .errors import DataError, Problem
from .read_record import read_record
from .record import DatasetRecord

__all__ = [
    "Census",
    "Checked",
    "DataError",
    "Dataset",
    "DatasetRecord",
    "Problem",
    "Sample",
    "check_samples",
    "clusters_of",
    "dataset_keys",
    "find_record",
    "list_datasets",
    "open_dataset",
    "read_record",
    "set_digest",
]
