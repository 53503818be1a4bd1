"""Which earlier blocks SC-CLIP and SFP look at: for similarities, for smoothing, and for a sum."""

from dataclasses import dataclass

from pydantic import Field

from ..core.errors import UserError
from ..models.vit import VisionTransformer
from .dense_clip import DenseClipOptions
from .depth import block_at


class SimilarBlocksOptions(DenseClipOptions):
    """Without a block, the one as deep in the backbone as the published one in 12."""

    similarity_block: int | None = Field(None, ge=0, description="block that S is of, from 0; published: 8 of 12")
    smoothing_block: int | None = Field(None, ge=0, description="block that S2 is of, from 0; published: 3 of 12")
    first_summed: int | None = Field(None, ge=0, description="first block of the sum R, from 0; published: 3 of 12")
    last_summed: int | None = Field(None, ge=0, description="last block of the sum R, from 0; published: 9 of 12")
    class_weight: float = Field(0.3, ge=0, description="share of the class token that is added to every patch")


@dataclass(frozen=True)
class SimilarBlocks:
    """Blocks from 0."""

    similarity: int
    smoothing: int
    summed: range

    @classmethod
    def of(cls, tower: VisionTransformer, options: SimilarBlocksOptions, method: str) -> "SimilarBlocks":
        """Those that the options of ``method`` choose in ``tower``.

        Raises ``UserError`` for a block that is not there, and for a sum that ends before it begins.
        """
        published = {"similarity_block": 8, "smoothing_block": 3, "first_summed": 3, "last_summed": 9}
        similarity, smoothing, first, last = (
            block_at(tower, name, getattr(options, name), block) for name, block in published.items()
        )
        if first > last:
            raise UserError(
                f"first_summed is {first} and last_summed {last}: the first block of the sum must not lie behind the "
                f"last.  --option {method}.first_summed=NUMBER and --option {method}.last_summed=NUMBER choose them"
            )
        return cls(similarity, smoothing, range(first, last + 1))
