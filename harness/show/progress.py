"""Progress: a bar for people, plain lines for pipes, silence for short work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console

from .escaping import plain_text
from .telling import Progress

_PLAIN_EVERY_SECONDS = 15.0


def console() -> Console:
    """Where everything that is not a result goes."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def print_record(record: dict[str, Any]) -> None:
    """A line of a training's log."""
    console().print("  ".join(f"{k} {v}" for k, v in record.items()))


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many items are newly done.

    On a terminal a bar that disappears at the end; elsewhere a line every 15 seconds, hence none for short work.
    """
    title = plain_text(title)
    if total == 0:
        yield lambda count: None
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console(), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield _plain_lines(title, total)


@contextmanager
def bars() -> Iterator[Progress]:
    """Yield a ``Progress``: a bar for each title, one after another."""
    shown: tuple[str, int] | None = None
    before = 0
    with ExitStack() as stack:
        advance = stack.enter_context(progress("", 0))  # of nothing, so nothing is shown

        def report(title: str, done: int, total: int) -> None:
            nonlocal shown, before, advance
            if shown != (title, total):
                stack.close()
                advance = stack.enter_context(progress(title, total))
                shown, before = (title, total), 0
            advance(done - before)
            before = done

        yield report


@contextmanager
def progress_to(title: str) -> Iterator[Callable[[int, int], None]]:
    """The same for work with one title: yields a function of what is done and the total, so far as known."""
    with bars() as report:
        yield lambda done, total: report(title, done, total)


def _plain_lines(title: str, total: int) -> Callable[[int], None]:
    done, told = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= _PLAIN_EVERY_SECONDS:
            told = time.monotonic()
            sys.stderr.write(f"{title}: {done}/{total}\n")
            sys.stderr.flush()

    return advance
