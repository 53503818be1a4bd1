"""Census: what the labels of a data set hold."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from .dataset import Dataset
from .examine import ImageFacts, LabelFacts


class Census(BaseModel):
    """How many labels were counted, of how many images listed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: int
    listed: int


def take_census(dataset: Dataset, read: Sequence[tuple[str, ImageFacts | None, LabelFacts | None]]) -> Census:
    """The census of what was read."""
    return Census(labels=sum(label is not None for _, _, label in read), listed=len(dataset.ids))
