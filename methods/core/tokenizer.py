"""Tokenizer: what turns prompts into tokens."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Tokenizer = Callable[[list[str]], "Tensor"]
"""Prompts -> token ids ``(N, context)`` int64, padded with 0 after the end-of-text token, which has the largest id."""
