"""How library code says what it is doing: through callbacks of whoever called it, by default not at all."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Is told each warning: one sentence or paragraph."""
Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and the total (0: unknown); what it raises ends the work."""


def unsaid(_text: str) -> None:
    """A ``Say`` for whom nothing needs to be said."""


def unseen(_title: str, _done: int, _total: int) -> None:
    """A ``Progress`` that nobody watches."""


def each_once(say: Say) -> Say:
    """``say``, but every text once."""
    told: set[str] = set()

    def once(text: str) -> None:
        if text not in told:
            told.add(text)
            say(text)

    return once


def counting(progress: Progress, title: str, total: int, done: int = 0) -> Callable[[int], None]:
    """A function that is told how many more are done, for work of ``total`` of which ``done`` is there already."""
    progress(title, done, total)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(title, done, total)

    return advance
