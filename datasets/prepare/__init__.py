"""Preparation: from what a data set's own pages hand out to labels that the loader reads.

A recipe reads the data set's folder and writes into a folder of ours; which recipe with which options is part of a data
set's record.  Running it again makes only what is not there yet or has changed.
"""

from .job import RECIPES, Job, Recipe, find_recipe

__all__ = ["RECIPES", "Job", "Recipe", "find_recipe"]
