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
def progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many items are newly done; ``done`` are there already.

    On a terminal a bar that disappears at the end, without a title none; one that only moves if ``total`` is 0, which
    is unknown.  Elsewhere a line every 15 seconds, hence none for short work.
    """
    title = plain_text(title)
    if not title:
        yield lambda count: None
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        amount = (MofNCompleteColumn(), TimeRemainingColumn()) if total else ()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amount)
        with Progress(*columns, console=console(), transient=True) as bar:
            task = bar.add_task(title, total=total or None, completed=done)
            yield lambda count: bar.advance(task, count)
    else:
        yield _plain_lines(title, total, done)


@contextmanager
def bars() -> Iterator[Progress]:
    """Yield a ``Progress``: a bar for each title, one after another."""
    shown: tuple[str, int] | None = None
    before = 0
    with ExitStack() as stack:
        advance: Callable[[int], None] = _ignored

        def report(title: str, done: int, total: int) -> None:
            nonlocal shown, before, advance
            if shown != (title, total):
                stack.close()
                advance = stack.enter_context(progress(title, total, done))
                shown, before = (title, total), done
            advance(done - before)
            before = done

        yield report


def _ignored(_count: int) -> None:
    """Before there is a title."""


@contextmanager
def progress_to(title: str) -> Iterator[Callable[[int, int], None]]:
    """The same for work with one title: yields a function of what is done and the total, so far as known."""
    with bars() as report:
        yield lambda done, total: report(title, done, total)


def _plain_lines(title: str, total: int, done: int) -> Callable[[int], None]:
    told = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= _PLAIN_EVERY_SECONDS:
            told = time.monotonic()
            sys.stderr.write(f"{title}: {done}/{total}\n" if total else f"{title}\n")
            sys.stderr.flush()

    return advance
