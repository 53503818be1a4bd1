"""Shares of the work, as launchers say them."""

import pytest

from ovss.harness.runs.ranks import shard_of
from ovss.methods import UserError

ARRAY = {f"SLURM_ARRAY_TASK_{k}": v for k, v in {"ID": "3", "MIN": "1", "MAX": "8", "COUNT": "8"}.items()}


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, (1, 4)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, (0, 2)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "6"}, (5, 6)),
        (ARRAY, (2, 8)),
        (ARRAY | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (2, 8)),  # a batch script has one task
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),  # two that agree
        ({"JOB_COMPLETION_INDEX": "5", "RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),  # of how many is not said
    ],
)
def test_launchers(environment: dict[str, str], share: tuple[int, int]) -> None:
    assert shard_of("auto", environment) == share


def test_what_is_typed_comes_first() -> None:
    assert shard_of("0/3", ARRAY) == (0, 3)


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("auto", {}, "finds no share"),
        ("auto", {"RANK": "0", "WORLD_SIZE": "1"}, "finds no share"),
        ("auto", {"RANK": "1", "WORLD_SIZE": "4", **ARRAY}, "SLURM array 2/8, torchrun 1/4"),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_COUNT": "2"}, "array ids 1 to 8 have gaps"),
        ("auto", {"RANK": "4", "WORLD_SIZE": "4"}, "RANK: there is no share 4 of 4"),
        ("auto", {"RANK": "-1", "WORLD_SIZE": "4"}, "RANK: '-1' is no whole number"),
        ("3/3", {}, "0/3 to 2/3"),
        ("3", {}, "a share is i/n"),
        ("a/b", {}, "'a' is no whole number"),
        ("0/0", {}, "no share 0 of 0"),
    ],
)
def test_what_cannot_be_a_share(text: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        shard_of(text, environment)
