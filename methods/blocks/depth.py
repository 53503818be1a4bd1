"""Which block a method looks at: published for ViTs of 12 blocks, here for any number."""

from ..core.errors import UserError
from ..models.vit import VisionTransformer


def block_at(tower: VisionTransformer, name: str, chosen: int | None, of_twelve: int) -> int:
    """The ``chosen`` block before the last; without a choice the one as deep in ``tower`` as ``of_twelve`` of 12.

    Raises ``UserError`` for a block that is not there; ``name`` is the option's.
    """
    last = len(tower.blocks) - 2
    if last < 0:
        raise UserError("the backbone has one block: there is no earlier one that the method could look at")
    if chosen is None:
        return (2 * of_twelve * last + 10) // 20
    if chosen > last:
        raise UserError(
            f"{name} is {chosen}: the backbone has {last + 2} blocks, and those before the last are 0 to {last}"
        )
    return chosen
