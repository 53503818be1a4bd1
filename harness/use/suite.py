"""``run_suite``: every run of a suite, pass by pass; what fails is told at the end and stops nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...datasets import DataError
from ...methods import UserError
from ..engines.drive import DetachedError
from ..runs.run import Finished
from ..show.telling import Progress, Say, each_once, unsaid, unseen
from .run import run
from .suite_plan import SuitePlan, SuiteRun
from .suite_request import SuiteRequest


@dataclass(frozen=True)
class Outcome:
    """How a run of a suite ended: finished, with a ``problem``, or left to the ``jobs`` of a cluster."""

    run: SuiteRun
    finished: Finished | None = None
    problem: str = ""
    jobs: tuple[str, ...] = ()


def run_suite(plan: SuitePlan, progress: Progress = unseen, say: Say = unsaid) -> list[Outcome]:
    """Do what is missing of every run, and return all of them in the order of the plan.

    Where a pass of several runs fails, each is tried alone, so one that cannot be done takes no other with it.  What
    interrupts it (Ctrl-C, an exception of ``progress``) leaves what was finished: the same call goes on.  Jobs that
    are left alone (``Where.detach``) are queued for every pass; a call that does not leave them waits for them.

    Raises ``UserError`` before any work for options that no method takes, and for an engine that is not here.
    """
    if plan.asked.where is not None:
        plan.asked.where.check(plan.asked.device, plan.asked.results)
    _check_options(plan)
    say = each_once(say)
    outcomes: list[Outcome] = []
    for number, one in enumerate(plan.passes, 1):
        numbered = _numbered(progress, f"{number}/{len(plan.passes)} ")
        outcomes += _tried(one, plan, numbered, say)
    return outcomes


def _check_options(plan: SuitePlan) -> None:
    """Only where there are any: it imports torch, and what is finished needs none."""
    given = [one for one in plan.runs if one.spec.options]
    if not given:
        return
    from ...methods.registry import check_options, find_method

    for one in given:
        try:
            check_options(find_method(one.spec.method), one.spec.options)
        except UserError as error:
            raise UserError(f"suite {plan.suite.name}, {one.key}.options: {error}") from error


def _tried(runs: Sequence[SuiteRun], plan: SuitePlan, progress: Progress, say: Say) -> list[Outcome]:
    try:
        found = _run(runs, plan.asked, progress, say)
    except DetachedError as left:
        return [Outcome(one, jobs=left.names) for one in runs]
    except Exception as error:  # noqa: BLE001  a method may raise anything; the other runs must still be done
        if len(runs) > 1:
            return [outcome for one in runs for outcome in _tried([one], plan, progress, say)]
        return [Outcome(runs[0], problem=_reason(error))]
    return [Outcome(one, finished) for one, finished in zip(runs, found, strict=True)]


def _run(runs: Sequence[SuiteRun], asked: SuiteRequest, progress: Progress, say: Say) -> list[Finished]:
    return run(
        [one.spec for one in runs],
        asked.results,
        runs[0].limit,
        asked.workers,
        progress=progress,
        say=say,
        allow_download=asked.allow_download,
        loading=asked.loading,
        where=asked.where,
    )


def _reason(error: Exception) -> str:
    """A user's mistake as it is told; anything else with its kind, since nobody foresaw it."""
    if isinstance(error, UserError | DataError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _numbered(progress: Progress, before: str) -> Progress:
    return lambda title, done, total: progress(before + title, done, total)
