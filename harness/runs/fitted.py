"""Whether something in a method was chosen on the images that it is scored on, be it without their labels."""

from collections.abc import Sequence

from ...datasets import Dataset
from ...methods.core.method import Method


def image_names(data: Dataset, ids: Sequence[str], digests: Sequence[str]) -> tuple[str, ...]:
    """What tells images from others wherever they lie: half of the SHA-256 of the file, or for procedural data key,
    split and id.  ``digests`` are those of the samples (``Sample.digest``), "" for procedural data.
    """
    home = f"{data.record.key} {data.record.split}"
    return tuple(d.partition(":")[0] or f"{home} {i}" for i, d in zip(ids, digests, strict=True))


def fitted_note(method: Method, data: Dataset, digests: Sequence[str]) -> str:
    """What has to be said beside its numbers on these images; "" for a method that nothing was chosen for."""
    chosen_on = method.chosen_on
    if not chosen_on:
        return ""
    names = image_names(data, data.ids, digests)
    both = len(set(chosen_on) & set(names))
    if not both:
        return f"templates were chosen on {len(chosen_on)} other images, without labels"
    return f"templates were chosen on {both} of the {len(names)} images that are scored, without labels: transductive"
