"""Downloading one file: resumable, checked, and never half there.

The bytes go to ``<target>.part``.  Beside it ``<target>.part.json`` remembers which version of the file they belong to
(ETag, Last-Modified, length), so that an interrupted download goes on where it stopped, and starts anew when the file
at the source has changed.  The target appears by rename, once its length and checksum are right.

Accepted trade-offs: a part whose version the server never told is started anew; the checksum is computed at the end, by
reading the file once more; two processes must not download the same target at the same time.
"""

import errno
import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from .errors import DataError, Problem
from .writing import clean_temporaries, put_in_place, write_atomically

Advance = Callable[[int, int], None]
T = TypeVar("T")

_CHUNK = 1 << 16  # what an interrupted read may lose
_PAUSE_S = 1.0  # before the first retry; doubled each time
_BUSY = {408, 429, 500, 502, 503, 504}  # the server may answer otherwise in a moment
_ADDRESS = re.compile(r"https?://[^/]", re.IGNORECASE)
_WHERE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class _Job:
    """What to download, where to, and how to know that it is right."""

    url: str
    target: Path
    sums: dict[str, str]  # name of the algorithm -> expected digest, lower case
    size: int | None
    advance: Advance
    timeout_s: float

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def note(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.json")

    def error(self, what: str, fix: str = "") -> DataError:
        by_hand = f"Or open {self.url} in a browser, save the file as {self.target}, and run the same command again"
        return DataError("a download failed:", [Problem(self.target, what, f"{fix}{'. ' if fix else ''}{by_hand}")])

    def forget_part(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Version:
    """Which version of the file at ``url`` a part belongs to, as the server told it."""

    url: str
    etag: str | None
    last_modified: str | None
    total: int | None

    @property
    def condition(self) -> dict[str, str]:
        """``If-Range`` (RFC 9110, 13.1.5): only a strong ETag, and a date only where there is no ETag at all."""
        if self.etag is None:
            return {"If-Range": self.last_modified} if self.last_modified else {}
        return {} if self.etag.startswith("W/") else {"If-Range": self.etag}


class _ChangedError(Exception):
    """The part cannot be continued: the file at the source is another one."""


class _BrokenError(Exception):
    """The network or the server failed in a way that may have passed in a moment."""


def download(
    url: str,
    target: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    advance: Advance = lambda done, total: None,
    timeout_s: float = 30,
    retries: int = 3,
) -> str:
    """Download ``url`` (http or https) to ``target`` and return the SHA-256 of the file, in hexadecimal.

    A target that is there and fits ``md5``, ``sha256`` and ``size`` (bytes), as far as they are given, is left alone.
    ``advance`` is told the bytes done and in total (0 while the server has not said).  ``timeout_s`` is the longest
    silence of the server; after ``retries`` interruptions in a row that brought no new bytes the download fails, and
    what has arrived is kept for the next call.

    Raises ``DataError``, with what to do by hand, for every failure: an address that is refused or absent, a server
    that is silent, a web page in place of the file, a wrong length or checksum (what arrived is then deleted; a target
    that was there before is not), a redirect to anything but http and https, or a full disk.
    """
    sums = {name: value.strip().lower() for name, value in (("md5", md5), ("sha256", sha256)) if value is not None}
    job = _Job(url, target, sums, size, advance, timeout_s)
    if not _ADDRESS.match(url):
        raise DataError(f"{url!r} is not an http or https address; nothing else is downloaded")
    try:
        if target.exists():
            return _checked(job, target, "Move it away or delete it, and run the same command again")
        target.parent.mkdir(parents=True, exist_ok=True)
        clean_temporaries(target.parent)
        _fetch(job, retries)
        return _finish(job)
    except OSError as error:  # those of the network are dealt with where they occur
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "Make room" if full else "Check the permissions of its folder"
        what = f"it could not be written ({error.strerror or error})"
        raise job.error(what, f"{fix}, then run the same command again: what has arrived is kept") from error


def _finish(job: _Job) -> str:
    """Check the complete part and give it its name."""
    try:
        digest = _checked(job, job.part, "What arrived was deleted: run the same command again")
    except DataError:
        job.forget_part()
        raise
    put_in_place(job.part, job.target)
    job.note.unlink(missing_ok=True)
    return digest


def _checked(job: _Job, path: Path, fix: str) -> str:
    """SHA-256 of ``path``; raises ``DataError`` unless its length and checksums are the expected ones."""
    found = path.stat().st_size
    if job.size is not None and found != job.size:
        raise job.error(f"it has {found} bytes, {job.size} were expected", fix)
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in ("sha256", *job.sums)}
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            for value in hashes.values():
                value.update(chunk)
    for name, expected in job.sums.items():
        if hashes[name].hexdigest() != expected:
            raise job.error(f"its {name} is {hashes[name].hexdigest()}, {expected} was expected", fix)
    return hashes["sha256"].hexdigest()


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ---- the network


def _fetch(job: _Job, retries: int) -> None:
    """Complete the part, however often the connection breaks, as long as bytes arrive."""
    best = failures = 0
    while True:
        try:
            return _attempt(job)
        except _ChangedError:
            job.forget_part()
        except (http.client.HTTPException, _BrokenError) as error:
            arrived = _size_of(job.part)
            failures = 1 if arrived > best else failures + 1
            best = max(best, arrived)
            if failures > retries:
                fix = "Check the connection and run the same command again: what has arrived is kept"
                raise job.error(f"{job.url} could not be downloaded ({error or type(error).__name__})", fix) from error
            time.sleep(_PAUSE_S * 2 ** (failures - 1))


def _attempt(job: _Job) -> None:
    """One request: begin or continue the part, up to its end.  Raises ``_ChangedError`` or ``_BrokenError``."""
    have, known = _part(job)
    if known is not None and have == known.total:
        return
    with _open(job, have, known) as response:
        start, version = _agree(job, response, have, known)
        _refuse_unfit(job, response, start, version.total)
        with job.part.open("ab" if start else "wb") as file:
            if not start:  # after the part is emptied: a version never stands beside bytes of another
                write_atomically(job.note, json.dumps(asdict(version)).encode())
            _copy(job, response, file, start, version.total)


def _part(job: _Job) -> tuple[int, _Version | None]:
    """Bytes that can be kept and the version they belong to; ``(0, None)`` to begin anew."""
    try:
        have = job.part.stat().st_size
        known = _Version(**json.loads(job.note.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return 0, None
    told = known.etag or known.last_modified
    fits = known.url == job.url and (known.total is None or have <= known.total)
    return (have, known) if have and told and fits else (0, None)


def _open(job: _Job, have: int, known: _Version | None) -> Any:
    """The answer of the server (an ``http.client.HTTPResponse``) to a request for the bytes from ``have`` on."""
    headers = {"User-Agent": "ovss-bench"}
    if known is not None:
        headers |= {"Range": f"bytes={have}-", **known.condition}
    opener = urllib.request.build_opener(_Redirects)
    try:
        return _network(opener.open, urllib.request.Request(job.url, headers=headers), None, job.timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and known is not None:
                raise _ChangedError from None
            what = f"{job.url} answered {error.code} {error.reason}"
            raise _BrokenError(what) if error.code in _BUSY else job.error(what) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise job.error(f"{job.url!r} is not a valid address ({error})") from error


def _network(call: Callable[..., T], *arguments: object) -> T:
    """``call(*arguments)``, where every ``OSError`` is one of the network."""
    try:
        return call(*arguments)
    except urllib.error.HTTPError:
        raise
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise _BrokenError(str(reason)) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https only; the standard library would follow ftp as well."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not _ADDRESS.match(newurl):
            raise urllib.error.HTTPError(newurl, code, f"{msg} - a redirect to {newurl} is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _agree(job: _Job, response: Any, have: int, known: _Version | None) -> tuple[int, _Version]:
    """The byte the answer starts with, and the version it belongs to."""
    etag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    if response.status == 200:
        return 0, _Version(job.url, etag, modified, response.length)
    if response.status != 206 or known is None:
        raise job.error(f"{job.url} answered {response.status} {response.reason}, which was not asked for")
    where = _WHERE.fullmatch(response.headers["Content-Range"] or "")
    if where is None or int(where[1]) != have:
        raise _ChangedError
    total = known.total if where[2] == "*" else int(where[2])
    # The condition of the request has done this already, unless the server ignores it or the ETag was weak.
    same_etag = etag == known.etag or (etag is None and bool(known.condition))
    if not same_etag or modified not in (None, known.last_modified) or total != (known.total or total):
        raise _ChangedError
    return have, replace(known, total=total)


def _refuse_unfit(job: _Job, response: Any, start: int, total: int | None) -> None:
    """Raise ``DataError`` before anything is written when the answer cannot be the file."""
    if response.headers.get_content_type() == "text/html" and job.target.suffix not in (".html", ".htm"):
        raise job.error(f"{job.url} sent a web page in place of the file (perhaps a login or a warning)")
    if total is None and job.size is None and not job.sums and not response.chunked:
        raise job.error(
            f"{job.url} does not say how long the file is, and neither size nor checksum is known to check it"
        )
    if total is not None and job.size is not None and total != job.size:
        raise job.error(f"{job.url} has {total} bytes, {job.size} were expected: the file at the source is another one")
    free = shutil.disk_usage(job.target.parent).free + (0 if start else _size_of(job.part))
    missing = (total or job.size or 0) - start
    if missing > free:
        what = f"{missing / 1e9:.2f} GB are to come, {free / 1e9:.2f} GB are free in {job.target.parent}"
        raise job.error(what, "Make room and run the same command again")


def _copy(job: _Job, response: Any, file: IO[bytes], start: int, total: int | None) -> None:
    """Write the body to ``file``, each piece at once, so that an interruption loses nothing that has arrived."""
    have, most = start, total if total is not None else job.size
    while (total is None or have < total) and (chunk := _network(response.read1, _CHUNK)):
        have += len(chunk)
        if most is not None and have > most:
            job.forget_part()
            raise job.error(f"{job.url} sent more than the {most} bytes that were expected")
        file.write(chunk)
        file.flush()
        job.advance(have, total or 0)
    if total is not None and have < total:
        raise _BrokenError(f"the connection ended after {have} of {total} bytes")
