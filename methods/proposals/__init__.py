"""Proposers: class-agnostic masks of an image, for methods that classify masks.

A proposer of the list is found by name with ``load_proposer``; each has options of its own.
"""

from .base import Proposals, Proposer, ProposerParts
from .loading import ProposerName, find_proposer, list_proposers, load_proposer

__all__ = [
    "Proposals",
    "Proposer",
    "ProposerName",
    "ProposerParts",
    "find_proposer",
    "list_proposers",
    "load_proposer",
]
