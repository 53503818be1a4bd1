"""How a command ends: an error that a user can cause is one paragraph and exit code 2, whatever raised it.

``bench --debug ...`` (or ``OVSS_DEBUG=1``) shows the traceback as well.
"""

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Callable

ISSUES = "https://github.com/ovss-bench/ovss-bench/issues"
_DEBUG = "OVSS_DEBUG"
_NOT_READ = 141
"""Exit code of a program whose output nobody reads any more, as shells have it: 128 and the number of SIGPIPE."""
_OF_THE_SYSTEM = {
    errno.ENOSPC: "Make room and run the same command again: what was finished is kept",
    errno.EDQUOT: "Make room and run the same command again: what was finished is kept",
    errno.EFBIG: "The system allows no file of that size (ulimit -f)",
    errno.EROFS: "Choose a folder that can be written",
    errno.EACCES: "Mend the permissions, or choose another place",
    errno.EPERM: "Mend the permissions, or choose another place",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EISDIR: "A folder has the name of a file: name another",
    errno.ENOTDIR: "A file has the name of a folder: name another",
    errno.ELOOP: "Links lead in a circle: remove one",
    errno.EIO: "The disk or network drive failed: look at the system's log",
    errno.ENOMEM: "Close other programs, or take a smaller job",
    errno.EMFILE: "Raise the number of open files (ulimit -n)",
}


def run_to_end(call: Callable[[], None]) -> None:
    """Run a command line; leave by ``SystemExit`` if it fails.  What nobody foresaw is raised, a line before it."""
    sys.argv[1:] = _without_debug(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks is shown as an escape
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _refuse_undecodable(sys.argv)
    try:
        try:
            call()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        if end.code == 130 and not isinstance(end.__context__, KeyboardInterrupt):  # else the verb has said more
            sys.stderr.write("stopped\n")
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(_NOT_READ)
        raise
    except KeyboardInterrupt:
        _end(130, "stopped")
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left for the end to complain about
        sys.exit(_NOT_READ)
    except Exception as error:
        text = _paragraph(error)
        if text is None:
            sys.stderr.write(_please_report())
            raise
        _end(2, f"error: {text}")


def _end(code: int, text: str) -> None:
    from ..show.escaping import plain_text

    if os.environ.get(_DEBUG):
        traceback.print_exc()
    sys.stderr.write(f"{plain_text(text, keep=chr(10))}\n")
    sys.exit(code)


def _paragraph(error: Exception) -> str | None:
    """What to say of an error that is nobody's fault but the user's, or the machine's; None for one of ours."""
    from ...datasets import DataError
    from ...methods import UserError

    if isinstance(error, UserError | DataError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}.  {_OF_THE_SYSTEM[error.errno]}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch has one of its own
        return (
            f"there is not enough memory ({str(error).partition('. ')[0] or 'none is left'}).  Take fewer --workers, "
            "a smaller backbone, or a protocol with smaller sides"
        )
    return None


def _please_report() -> str:
    command = shlex.join(["bench", *sys.argv[1:]])
    return (
        "error: something failed that should not.  Please report it with the command and what follows, at "
        f"{ISSUES}: {command!a}\n"
    )


def _without_debug(arguments: list[str]) -> list[str]:
    """Arguments without ``--debug``, which may stand anywhere; it is kept in the environment, for workers too."""
    if "--debug" in arguments:
        os.environ[_DEBUG] = "1"
    return [a for a in arguments if a != "--debug"]


def _refuse_undecodable(arguments: list[str]) -> None:
    """Names that are not UTF-8 can be kept in no JSON, table or hash."""
    for argument in arguments[1:]:
        if any("\ud800" <= c <= "\udfff" for c in argument):
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            _end(
                2, f"error: the argument {shown} is not UTF-8.  Rename the file or folder, or make a link to it: ln -s"
            )
