"""Downloads from a server on this machine: whole, interrupted and resumed, changed, wrong, absent and redirected."""

import hashlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ovss.datasets.download import download
from ovss.datasets.errors import DataError

MODULE = sys.modules["ovss.datasets.download"]
BODY = bytes(range(256)) * 1000  # 256 000 bytes
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


@dataclass
class Server:
    """What the server holds and how it behaves; and what it was asked."""

    url: str = ""
    body: bytes = BODY
    etag: str | None = '"one"'
    modified: str | None = "Wed, 21 Oct 2015 07:28:00 GMT"
    ranges: bool = True
    condition: bool = True  # honours If-Range
    length: bool = True  # sends Content-Length
    chunked: bool = False
    kind: str = "application/zip"
    location: str | None = None
    shift: int = 0  # error in the first byte of a Content-Range
    status: list[int] = field(default_factory=list)  # to answer with before anything else
    breaks: list[int] = field(default_factory=list)  # bytes after which the next connections end
    asked: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Server = self.server.behaviour  # type: ignore[attr-defined]
        server.asked.append({**dict(self.headers), "path": self.path})
        self.close_connection = True
        if server.status:
            self.answer(server.status.pop(0), {"Content-Length": "0"})
            return
        if server.location is not None and self.path != "/moved":
            self.answer(302, {"Location": server.location, "Content-Length": "0"})
            return
        start, asked = 0, self.headers["Range"]
        if asked and server.ranges and self.current(server):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.body):
                self.answer(416, {"Content-Length": "0"})
                return
        body = server.body[start:]
        headers = {"Content-Type": server.kind}
        headers |= {"ETag": server.etag} if server.etag else {}
        headers |= {"Last-Modified": server.modified} if server.modified else {}
        headers |= {"Transfer-Encoding": "chunked"} if server.chunked else {}
        headers |= {"Content-Length": str(len(body))} if server.length and not server.chunked else {}
        if start:
            end, total = len(server.body) - 1, len(server.body)
            headers["Content-Range"] = f"bytes {start + server.shift}-{end}/{total}"
        # Decided before the answer: a client that hangs up at once may have set the break of its next request by then.
        part = body[: server.breaks.pop(0)] if server.breaks else body
        self.answer(206 if start else 200, headers)
        if server.chunked:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) + (b"0\r\n\r\n" if part == body else b""))
        else:
            self.wfile.write(part)

    def current(self, server: Server) -> bool:
        condition = self.headers["If-Range"]
        return not server.condition or condition in (None, server.etag, server.modified)

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(MODULE, "_PAUSE_S", 0.0)
    behaviour = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.behaviour = behaviour  # type: ignore[attr-defined]
        behaviour.url = f"http://127.0.0.1:{http.server_address[1]}/data.zip"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield behaviour
        http.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(server: Server, target: Path, after: int = 100_000) -> None:
    """A download that stopped after so many bytes and was given up."""
    server.breaks = [after]
    with pytest.raises(DataError, match=f"{after} of {len(server.body)} bytes"):
        download(server.url, target, retries=0)
    assert names(target.parent) == ["data.zip.part", "data.zip.part.json"]
    assert target.with_name("data.zip.part").read_bytes() == server.body[:after]


def test_whole_file(server: Server, tmp_path: Path) -> None:
    target, told = tmp_path / "new" / "data.zip", []
    found = download(
        server.url,
        target,
        md5=MD5.upper(),
        sha256=SHA256,
        size=256_000,
        advance=lambda done, total: told.append((done, total)),
    )
    assert found == SHA256 and target.read_bytes() == BODY and names(target.parent) == ["data.zip"]
    assert told[-1] == (256_000, 256_000) and told == sorted(told)
    assert len(server.asked) == 1 and "Range" not in server.asked[0]


def test_a_complete_target_is_left_alone(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.zip"
    target.write_bytes(BODY)
    assert download(server.url, target, md5=MD5) == SHA256
    assert download(server.url, target) == SHA256
    assert server.asked == [] and names(tmp_path) == ["data.zip"]


@pytest.mark.parametrize("expected", [{"md5": "0" * 32}, {"sha256": "0" * 64}, {"size": 5}])
def test_a_wrong_target_is_reported_and_kept(server: Server, tmp_path: Path, expected: dict[str, object]) -> None:
    target = tmp_path / "data.zip"
    target.write_bytes(BODY)
    with pytest.raises(DataError, match=r"was expected|were expected"):
        download(server.url, target, **expected)  # type: ignore[arg-type]
    assert server.asked == [] and target.read_bytes() == BODY


def test_interruption_then_only_the_missing_bytes(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.zip"
    interrupted(server, target)
    told: list[int] = []
    assert download(server.url, target, advance=lambda done, total: told.append(done)) == SHA256
    assert server.asked[1]["Range"] == "bytes=100000-" and server.asked[1]["If-Range"] == '"one"'
    assert told[0] > 100_000 and target.read_bytes() == BODY and names(tmp_path) == ["data.zip"]


def test_interruptions_are_retried_while_bytes_arrive(server: Server, tmp_path: Path) -> None:
    server.breaks = [50_000] * 4  # more breaks than retries, but each brings new bytes
    assert download(server.url, tmp_path / "data.zip", retries=1) == SHA256
    asked = [a.get("Range") for a in server.asked]
    assert asked == [None, "bytes=50000-", "bytes=100000-", "bytes=150000-", "bytes=200000-"]


def test_no_progress_ends_after_the_retries(server: Server, tmp_path: Path) -> None:
    server.breaks = [0] * 9
    with pytest.raises(DataError, match="0 of 256000 bytes"):
        download(server.url, tmp_path / "data.zip", retries=2)
    assert len(server.asked) == 3


@pytest.mark.parametrize("chunked", [False, True])
def test_server_without_ranges_starts_anew(server: Server, tmp_path: Path, chunked: bool) -> None:
    target = tmp_path / "data.zip"
    interrupted(server, target)
    server.ranges, server.chunked = False, chunked
    assert download(server.url, target) == SHA256
    assert server.asked[1]["Range"] == "bytes=100000-"
    assert target.read_bytes() == BODY and names(tmp_path) == ["data.zip"]


@pytest.mark.parametrize("condition", [True, False])
def test_a_changed_file_is_not_glued(server: Server, tmp_path: Path, condition: bool) -> None:
    """Also where the server ignores If-Range and answers 206 with another ETag."""
    target = tmp_path / "data.zip"
    interrupted(server, target)
    server.etag, server.condition, server.modified = '"two"', condition, None
    server.body = BODY[::-1]
    assert download(server.url, target) == hashlib.sha256(BODY[::-1]).hexdigest()
    assert target.read_bytes() == BODY[::-1] and names(tmp_path) == ["data.zip"]


def test_a_weak_etag_is_compared_by_the_client(server: Server, tmp_path: Path) -> None:
    target, server.etag = tmp_path / "data.zip", 'W/"one"'
    interrupted(server, target)
    assert download(server.url, target) == SHA256
    assert server.asked[1]["Range"] == "bytes=100000-" and "If-Range" not in server.asked[1]
    target.unlink()
    interrupted(server, target)
    server.etag, server.body = 'W/"two"', BODY[::-1]
    download(server.url, target)
    assert target.read_bytes() == BODY[::-1]


def test_last_modified_serves_where_there_is_no_etag(server: Server, tmp_path: Path) -> None:
    target, server.etag = tmp_path / "data.zip", None
    interrupted(server, target)
    assert download(server.url, target) == SHA256
    assert server.asked[1]["If-Range"] == server.modified and server.asked[1]["Range"] == "bytes=100000-"


def test_without_any_version_the_part_is_not_continued(server: Server, tmp_path: Path) -> None:
    target, server.etag, server.modified = tmp_path / "data.zip", None, None
    interrupted(server, target)
    assert download(server.url, target) == SHA256
    assert "Range" not in server.asked[1]


@pytest.mark.parametrize("note", ["", "[]", '{"url": 1}', "gone"])
def test_a_part_with_a_damaged_note_is_not_continued(server: Server, tmp_path: Path, note: str) -> None:
    target = tmp_path / "data.zip"
    interrupted(server, target)
    path = tmp_path / "data.zip.part.json"
    path.write_text(note) if note != "gone" else path.unlink()
    assert download(server.url, target) == SHA256
    assert "Range" not in server.asked[1] and names(tmp_path) == ["data.zip"]


def test_a_part_of_another_address_is_not_continued(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.zip"
    interrupted(server, target)
    download(server.url + "?mirror", target)
    assert "Range" not in server.asked[1] and target.read_bytes() == BODY


def test_a_wrong_content_range_starts_anew(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.zip"
    interrupted(server, target)
    server.shift = -7
    assert download(server.url, target) == SHA256
    assert [a.get("Range") for a in server.asked] == [None, "bytes=100000-", None]


def test_a_complete_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    """As after a kill between the last byte and the rename."""
    target = tmp_path / "data.zip"
    interrupted(server, target)
    (tmp_path / "data.zip.part").write_bytes(BODY)
    assert download(server.url, target, sha256=SHA256) == SHA256
    assert len(server.asked) == 1 and names(tmp_path) == ["data.zip"]


def test_416_starts_anew(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.zip"
    interrupted(server, target)
    note = tmp_path / "data.zip.part.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "total": None}))
    (tmp_path / "data.zip.part").write_bytes(BODY)
    assert download(server.url, target) == SHA256
    assert [a.get("Range") for a in server.asked] == [None, "bytes=256000-", None]


@pytest.mark.parametrize("expected", [{"md5": "0" * 32}, {"sha256": "0" * 64}])
def test_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path, expected: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"was expected\. What arrived was deleted") as caught:
        download(server.url, tmp_path / "data.zip", **expected)  # type: ignore[arg-type]
    assert names(tmp_path) == [] and server.url in str(caught.value)


def test_another_size_is_refused_before_anything_is_written(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="256000 bytes, 255999 were expected"):
        download(server.url, tmp_path / "data.zip", size=255_999)
    assert names(tmp_path) == []


def test_chunked_answers(server: Server, tmp_path: Path) -> None:
    server.chunked = True
    assert download(server.url, tmp_path / "a.zip") == SHA256
    assert download(server.url, tmp_path / "b.zip", size=256_000) == SHA256
    for size in (255_999, 256_001):
        with pytest.raises(DataError, match="expected"):
            download(server.url, tmp_path / "c.zip", size=size)
    server.breaks = [100_000]
    assert download(server.url, tmp_path / "d.zip") == SHA256
    assert names(tmp_path) == ["a.zip", "b.zip", "d.zip"]


def test_unknown_length_needs_a_checksum(server: Server, tmp_path: Path) -> None:
    server.length = False
    with pytest.raises(DataError, match="does not say how long"):
        download(server.url, tmp_path / "data.zip")
    server.breaks = [100_000]
    with pytest.raises(DataError, match="its sha256 is"):
        download(server.url, tmp_path / "data.zip", sha256=SHA256)
    assert names(tmp_path) == []
    assert download(server.url, tmp_path / "data.zip", sha256=SHA256) == SHA256


def test_empty_file(server: Server, tmp_path: Path) -> None:
    server.body = b""
    assert download(server.url, tmp_path / "data.zip") == hashlib.sha256().hexdigest()
    assert names(tmp_path) == ["data.zip"]


@pytest.mark.parametrize("status", [404, 403, 416, 204])
def test_refusals_are_not_retried(server: Server, tmp_path: Path, status: int) -> None:
    server.status = [status]
    with pytest.raises(DataError, match=f"answered {status}") as caught:
        download(server.url, tmp_path / "data.zip")
    assert server.url in str(caught.value) and "in a browser" in str(caught.value)
    assert len(server.asked) == 1 and names(tmp_path) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429]
    assert download(server.url, tmp_path / "data.zip", retries=2) == SHA256
    server.status = [503] * 9
    with pytest.raises(DataError, match="answered 503"):
        download(server.url, tmp_path / "other.zip", retries=1)
    assert names(tmp_path) == ["data.zip"]


def test_a_web_page_is_refused(server: Server, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="web page in place of the file"):
        download(server.url, tmp_path / "data.zip")
    assert names(tmp_path) == []
    assert download(server.url, tmp_path / "index.html") == SHA256


def test_redirects_stay_on_http(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for location in (secret.as_uri(), "ftp://127.0.0.1/x", "data:text/plain,x"):
        server.location = location
        with pytest.raises(DataError, match="answered 302") as caught:
            download(server.url, tmp_path / "data.zip")
        assert location in str(caught.value) and names(tmp_path) == ["secret"]
    server.location = "/moved"
    interrupted_at = tmp_path / "moved"
    interrupted_at.mkdir()
    interrupted(server, interrupted_at / "data.zip")
    assert download(server.url, interrupted_at / "data.zip") == SHA256
    assert server.asked[-1]["path"] == "/moved" and server.asked[-1]["Range"] == "bytes=100000-"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data.zip", "", "http:///x"])
def test_only_http_addresses(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="not an http or https address"):
        download(url, tmp_path / "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/x", "http://[::1/x", "http://127.0.0.1/a b"])
def test_malformed_addresses(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="not a valid address"):
        download(url, tmp_path / "x")
    assert names(tmp_path) == []


def test_refused_and_silent_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(MODULE, "_PAUSE_S", 0.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.zip"
        with pytest.raises(DataError, match="refused") as caught:
            download(url, tmp_path / "x.zip")
        assert url in str(caught.value)
        listener.listen()
        with pytest.raises(DataError, match="timed out"):
            download(url, tmp_path / "x.zip", timeout_s=0.05, retries=1)
    assert names(tmp_path) == []


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 255_999}))
    with pytest.raises(DataError, match="Make room"):
        download(server.url, tmp_path / "data.zip")
    assert names(tmp_path) == []


def test_a_target_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="could not be written"):
        download(server.url, tmp_path / "file" / "data.zip")
    assert server.asked == []
