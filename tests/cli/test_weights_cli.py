"""``bench weights``: listing, fetching from a server, a mirror and a hub on this machine, and checking."""

import functools
import hashlib
import importlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ovss.methods.models import weights as catalogue
from ovss.methods.models.weights import WeightEntry, WeightFile

Bench = Callable[..., Any]
BODY = bytes(range(256)) * 1000  # 256 000 bytes
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
BLOB = hashlib.sha1(b"blob 256000\0" + BODY).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "unet/model.bin": BODY}


@dataclass
class Server:
    """What the server holds by path; after how many bytes the next connections end; and what it was asked."""

    url: str = ""
    held: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, send: bool) -> None:
        server: Server = self.server.behaviour  # type: ignore[attr-defined]
        asked = self.headers["Range"]
        server.asked.append((self.path, asked))
        self.close_connection = True
        body = server.held.get(self.path)
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and body else 0
        self.send_response(404 if body is None else 206 if start else 200)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")  # as the hub says it
        else:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body or b'') - 1}/{len(body or b'')}")
        rest = (body or b"")[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("Connection", "close")  # else the client may reuse a connection that is about to end
        self.end_headers()
        if send:
            self.wfile.write(rest[: server.breaks.pop(0)] if server.breaks else rest)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(importlib.import_module("ovss.datasets.download"), "_PAUSE_S", 0.0)
    behaviour = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.behaviour = behaviour  # type: ignore[attr-defined]
        behaviour.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield behaviour
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched files go; the Hugging Face cache is empty, and there is no mirror."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OVSS_WEIGHTS", raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture(autouse=True)
def made_up(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, WeightEntry]:
    """A catalogue of three: a file at an address, a snapshot of the hub, and one that a person has to get."""
    about = {"used_by": ("clip",), "licence": "MIT", "source": "made up"}
    head = WeightFile(name="head.pt", size_bytes=len(BODY), sha256=SHA256, git_blob=BLOB)
    head = head.model_copy(update={"url": f"{server.url}/head.pt"})  # the catalogue itself takes https only
    plain = WeightEntry(name="head", title="A head", files=(WeightFile(name="head.pt"),), steps="-", **about)
    snapshot = (WeightFile(name="config.json"), WeightFile(name="unet/model.safetensors", instead=("unet/model.bin",)))
    entries = {
        "head": plain.model_copy(update={"steps": "", "files": (head,)}),
        "diffusion": WeightEntry(name="diffusion", title="D", files=snapshot, hub="a/b", revision=COMMIT, **about),
        "drive": WeightEntry(
            name="drive", title="On a drive", files=(WeightFile(name="d.pth", md5=MD5[:6]),), steps="Ask.", **about
        ),
    }
    monkeypatch.setattr(
        catalogue,
        "_catalogue",
        lambda: catalogue._Catalogue(coming=("soon",), weights={}).model_copy(update={"weights": entries}),
    )
    return entries


def put(path: Path, content: bytes = BODY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---- an address


def test_fetch_whole_then_again(bench: Bench, server: Server, cache: Path) -> None:
    server.held["/head.pt"] = BODY
    done = bench("weights", "fetch", "head")
    assert done.code == 0, done.err
    assert f"fetched: {cache / 'head' / 'head.pt'}" in done.out
    assert f"sha256 {SHA256}, fits: size, sha256, git_blob; unknown: md5" in done.out
    assert "licence: MIT" in done.out
    assert [path.name for path in (cache / "head").iterdir()] == ["head.pt"]
    again = bench("weights", "fetch", "head", "--json").json()
    assert (again["fetched"], again["where"]) == (False, str(cache / "head" / "head.pt"))
    assert again["files"][0]["sha256"] == SHA256
    assert len(server.asked) == 1


def test_fetch_resumes(bench: Bench, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.held["/head.pt"], server.breaks = BODY, [100_000]
    done = bench("weights", "fetch", "head", "--json").json()
    assert done["fetched"] is True
    assert [start for _, start in server.asked] == [None, "bytes=100000-"]
    assert (cache / "head" / "head.pt").read_bytes() == BODY


def test_another_file_of_the_same_length_is_not_kept(bench: Bench, server: Server, cache: Path) -> None:
    server.held["/head.pt"] = BODY[::-1]
    done = bench("weights", "fetch", "head")
    assert done.code == 2
    assert f"{SHA256} was expected" in done.err
    assert everything(cache) == []


def test_a_wrong_git_blob_id_is_not_kept(
    bench: Bench, server: Server, cache: Path, made_up: dict[str, WeightEntry]
) -> None:
    file = made_up["head"].files[0].model_copy(update={"sha256": None, "size_bytes": None})
    made_up["head"] = made_up["head"].model_copy(update={"files": (file,)})
    server.held["/head.pt"] = BODY[::-1]
    done = bench("weights", "fetch", "head")
    assert done.code == 2
    assert "its git_blob is" in done.err and "It was deleted: run the same command again" in done.err
    assert everything(cache) == []


def test_a_missing_page_is_told_with_what_to_do(bench: Bench, cache: Path) -> None:
    done = bench("weights", "fetch", "head")
    assert done.code == 2
    assert "answered 404" in done.err and "in a browser" in done.err
    assert everything(cache) == []


# ---- a mirror


@pytest.mark.parametrize("source", ["mirror", "mirror/head", "mirror/head/head.pt"])
def test_fetch_from_a_folder(bench: Bench, server: Server, cache: Path, tmp_path: Path, source: str) -> None:
    put(tmp_path / "mirror" / "head" / "head.pt")
    done = bench("weights", "fetch", "head", "--from", str(tmp_path / source))
    assert done.code == 0, done.err
    assert everything(cache) == ["head/head.pt"]
    assert server.asked == []


@pytest.mark.parametrize("source", ["/disk", "/disk/", "/disk/head/head.pt"])
def test_fetch_from_an_address(bench: Bench, server: Server, cache: Path, source: str) -> None:
    server.held["/disk/head/head.pt"] = BODY
    done = bench("weights", "fetch", "head", "--from", f"{server.url}{source}")
    assert done.code == 0, done.err
    assert everything(cache) == ["head/head.pt"]


def test_a_wrong_or_incomplete_mirror(bench: Bench, cache: Path, tmp_path: Path) -> None:
    put(tmp_path / "mirror" / "head.pt", BODY[:-1])
    done = bench("weights", "fetch", "head", "--from", str(tmp_path / "mirror"))
    assert done.code == 2 and "it has 255999 bytes, 256000 were expected" in done.err
    put(tmp_path / "mirror" / "diffusion" / "config.json")
    done = bench("weights", "fetch", "diffusion", "--from", str(tmp_path / "mirror"))
    assert done.code == 2 and "does not hold config.json, unet/model.safetensors or unet/model.bin" in done.err
    assert everything(cache) == []


def test_a_snapshot_from_a_folder(bench: Bench, cache: Path, tmp_path: Path) -> None:
    for name, content in FILES.items():
        put(tmp_path / "mirror" / name, content)
    done = bench("weights", "fetch", "diffusion", "--from", str(tmp_path / "mirror"), "--json").json()
    assert done["where"] == str(cache / "diffusion")
    assert everything(cache) == ["diffusion/config.json", "diffusion/unet/model.bin"]
    assert catalogue.find_weights("diffusion") == cache / "diffusion"


def test_what_needs_a_person_prints_steps(bench: Bench, cache: Path, tmp_path: Path) -> None:
    done = bench("weights", "fetch", "drive")
    assert (done.code, done.out.splitlines()[-1]) == (1, "Ask.")
    told = bench("weights", "fetch", "drive", "--json")
    assert told.code == 1 and json.loads(told.out)["steps"] == "Ask."
    assert bench("weights", "fetch", "drive", "--from", str(put(tmp_path / "renamed.pth"))).code == 0
    assert everything(cache) == ["drive/d.pth"]
    assert bench("weights", "fetch", "drive").code == 0


def test_a_file_of_the_cache_that_is_another_one(bench: Bench, cache: Path) -> None:
    put(cache / "head" / "head.pt", b"other")
    done = bench("weights", "fetch", "head")
    assert done.code == 2
    assert f"Delete {cache / 'head' / 'head.pt'} and run `bench weights fetch head`" in done.err


# ---- the hub


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as a hub, for the one function that fetches."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    fetch = functools.partial(huggingface_hub.hf_hub_download, endpoint=server.url)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    server.held |= {f"/a/b/resolve/{COMMIT}/{name}": content for name, content in FILES.items()}
    return server


def test_a_snapshot_from_the_hub(bench: Bench, hub: Server, tmp_path: Path, cache: Path) -> None:
    done = bench("weights", "fetch", "diffusion", "--json").json()
    folder = tmp_path / "hub" / "models--a--b" / "snapshots" / COMMIT
    assert done["where"] == str(folder)
    assert {path.split("/")[4] for path, _ in hub.asked} == {COMMIT}
    assert [row["checked"] for row in done["files"]] == [["hub"], ["hub"]]
    assert done["files"][1]["sha256"] == SHA256
    assert (folder / "unet" / "model.bin").read_bytes() == BODY  # the other format: the first one is not there
    assert everything(tmp_path / "cache") == []
    assert bench("weights", "check").code == 0
    (folder / "unet" / "model.bin").resolve().write_bytes(b"damaged")
    damaged = bench("weights", "check", "--json")
    assert damaged.code == 1
    assert "the hub told the checksum" in json.loads(damaged.out)["files"][1]["wrong"][0]


def test_without_a_connection_the_hub_is_an_error_with_a_way_out(bench: Bench) -> None:
    done = bench("weights", "fetch", "diffusion")  # tests are offline
    assert done.code == 2
    assert "a/b/config.json could not be fetched" in done.err
    assert "bench weights fetch diffusion --from FOLDER" in done.err


def test_a_file_that_the_hub_does_not_have(bench: Bench, hub: Server) -> None:
    hub.held.clear()
    done = bench("weights", "fetch", "diffusion")
    assert done.code == 2
    assert "a/b/config.json could not be fetched (the hub has no such file)" in done.err


# ---- list and check


def test_list(bench: Bench, cache: Path) -> None:
    put(cache / "diffusion" / "config.json")
    path = put(cache / "head" / "head.pt")
    rows = {row["weights"]: row for row in bench("weights", "list", "--json").json()}
    assert {name: row["state"] for name, row in rows.items()} == {
        "head": "present",
        "diffusion": "incomplete",
        "drive": "missing",
    }
    assert (rows["head"]["where"], rows["head"]["place"], rows["head"]["size_bytes"]) == (str(path), "cache", 256000)
    assert rows["drive"]["files"][0] == WeightFile(name="d.pth", md5=MD5[:6]).model_dump(mode="json") | {"instead": []}
    out = bench("weights", "list").out
    assert "1 of 3 are here" in out and "yet to come: soon" in out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["head", "diffusion", "drive"]
    assert "by hand" in out and "0.256" in out


def test_check_reports_what_fits_and_what_does_not(bench: Bench, cache: Path) -> None:
    assert bench("weights", "check").out == "no catalogued weights are here\n"
    path = put(cache / "head" / "head.pt")
    put(cache / "drive" / "d.pth")
    done = bench("weights", "check")
    assert done.code == 0
    assert "drive: " in done.out and "fits: md5; unknown: size, sha256, git_blob" in done.out
    assert done.out.splitlines()[-1] == "2 checked, 0 wrong"
    path.write_bytes(BODY[::-1])
    done = bench("weights", "check", "head")
    assert done.code == 1
    assert f"wrong: head: {path}: its sha256 is {hashlib.sha256(BODY[::-1]).hexdigest()}, {SHA256}" in done.out
    assert f"Delete {path} and run `bench weights fetch head`" in done.out
    report = json.loads(bench("weights", "check", "--json").out)
    assert report["problems"] == 1
    assert [bool(row["wrong"]) for row in report["files"]] == [True, False]


def test_check_of_what_is_absent(bench: Bench, cache: Path) -> None:
    done = bench("weights", "check", "drive")
    assert done.code == 1 and "it is not here. Please run `bench weights fetch drive`" in done.out
    put(cache / "diffusion" / "config.json")
    done = bench("weights", "check")
    assert done.code == 1 and "wrong: diffusion: unet/model.safetensors: it is not here" in done.out


@pytest.mark.parametrize("verb", ["fetch", "check"])
def test_unknown_names(bench: Bench, verb: str) -> None:
    done = bench("weights", verb, "hed")
    assert done.code == 2
    assert "unknown weights 'hed'; did you mean head? Known: diffusion, drive, head" in done.err
