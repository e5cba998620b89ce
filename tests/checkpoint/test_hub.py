"""Pulling with the real huggingface_hub, in a process of its own, from a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from mosso.checkpoint.hub import pull, resolve_repo
from mosso.core.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "openai/gpt-oss-20b"
WEIGHTS = os.urandom(1 << 20) * 24
STOP_AT = 14 << 20  # the library writes in pieces of 10 MiB
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"x",
    "README.md": b"# read me",
    "metal/model.bin": b"metal",
    "original/model.safetensors": b"original",
    "original/config.json": b'{"original": 1}',
    "original/dtypes.json": b"{}",
}


class Hub(ThreadingHTTPServer):
    """The endpoints of the hub that a download uses.

    While `stalls`, large files stop midway and hang; while `damages`, a byte of each file is wrong.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stalls = False
        self.damages = False
        self.files = dict(FILES)
        self.released = threading.Event()
        self.requested: list[tuple[str, str, int]] = []  # method, path, first byte
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        first = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.server.requested.append((self.command, path, first))
        if path in (f"/api/models/{REPO}", f"/api/models/{REPO}/revision/main"):
            siblings = [described(name, data) for name, data in self.server.files.items()]
            self.reply(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/{REPO}/revision/v9":
            self.reply(b"{}", status=404, error="RevisionNotFound")
        elif path == "/api/models/some/gated":
            self.reply(b"{}", status=403, error="GatedRepo")
        elif path.startswith(f"/{REPO}/resolve/") and (name := path.split("/", 5)[5]) in self.server.files:
            data = self.server.files[name]
            self.reply(data[:-1] + b"!" if self.server.damages else data, first)
        else:
            code = "RepoNotFound" if "/api/models/" in path else "EntryNotFound"
            self.reply(b"{}", status=404, error=code)

    def reply(self, data: bytes, first: int = 0, status: int = 200, error: str = "") -> None:
        body = data[first:]
        self.send_response(206 if first else status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.stalls and len(body) > STOP_AT:
            self.wfile.write(body[:STOP_AT])
            self.server.released.wait(240)
            self.close_connection = True
            return
        self.wfile.write(body)


def described(name: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it: large ones with their SHA-256, others with git's blob id."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 135}
    return entry


@pytest.fixture
def server() -> Iterator[Hub]:
    running = Hub()
    yield running
    running.released.set()
    running.shutdown()
    running.server_close()


def start(server_url: str, folder: Path, name: str = "20b", arguments: str = "") -> subprocess.Popen[str]:
    """`pull` in a process of its own: the library reads its address once, at import."""
    code = (
        "import sys; from mosso.checkpoint.hub import pull; from mosso.core.errors import MossoError\n"
        f"try: print(pull({name!r}, {str(folder)!r}, {arguments}))\n"
        "except MossoError as error: print(type(error).__name__, error.message); sys.exit(1)"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": server_url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(folder.parent / "home"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, progress = process.communicate(timeout=240)
    assert "Traceback" not in progress, progress
    return process.returncode, out.strip()


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_only_the_files_that_mosso_reads_are_fetched(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert finish(start(server.url, folder)) == (0, str(folder))
    expected = (
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    )
    assert files_in(folder) == {name: FILES[name] for name in expected}


def test_the_original_layout_instead(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert finish(start(server.url, folder, arguments="original=True")) == (0, str(folder))
    names = ("original/model.safetensors", "original/config.json", "original/dtypes.json")
    companions = ("tokenizer.json", "generation_config.json", "chat_template.jinja")
    assert files_in(folder) == {name: FILES[name] for name in (*names, *companions)}


def size_of(part: Path) -> int:
    """0 once it has got its own name."""
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_download_that_was_killed_goes_on_where_it_was(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    server.stalls = True
    process = start(server.url, folder)
    deadline = time.monotonic() + 200
    while not any(size_of(file) > 9 << 20 for file in folder.rglob("*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not (folder / "model.safetensors").exists()

    server.stalls = False
    server.released.set()
    server.requested.clear()
    assert finish(start(server.url, folder)) == (0, str(folder))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    starts = [
        first
        for method, path, first in server.requested
        if method == "GET" and path.endswith("model.safetensors")
    ]
    assert starts
    assert min(starts) > 0

    server.requested.clear()
    assert finish(start(server.url, folder))[0] == 0
    assert not [
        path for method, path, _ in server.requested if method == "GET" and path.endswith("model.safetensors")
    ]


def test_an_unknown_repository(server: Hub, tmp_path: Path) -> None:
    status, message = finish(start(server.url, tmp_path / "model", "openai/gpt-oss-7b"))
    assert status == 1
    assert message.startswith("UsageError the hub has no repository openai/gpt-oss-7b")


def test_an_unknown_revision(server: Hub, tmp_path: Path) -> None:
    status, message = finish(start(server.url, tmp_path / "model", arguments="revision='v9'"))
    assert (status, message) == (1, f"UsageError {REPO} has no revision v9")


def test_a_gated_repository(server: Hub, tmp_path: Path) -> None:
    status, message = finish(start(server.url, tmp_path / "model", "some/gated"))
    assert status == 1
    assert "some/gated is gated" in message


def test_no_hub_at_all(tmp_path: Path) -> None:
    status, message = finish(start("http://127.0.0.1:1", tmp_path / "model"))
    assert status == 1
    assert "could not be downloaded" in message
    assert "goes on from here" in message


def test_a_repository_without_weights(server: Hub, tmp_path: Path) -> None:
    names = ("config.json", "pytorch_model.bin", "deep/x.safetensors", "a\\b.safetensors")
    server.files = dict.fromkeys(names, b"{}")
    status, message = finish(start(server.url, tmp_path / "model"))
    assert (status, message) == (1, f"UsageError {REPO} has no *.safetensors")


def test_a_damaged_file_does_not_stay(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    server.damages = True
    status, message = finish(start(server.url, folder))
    assert status == 1
    assert "arrived damaged" in message
    assert files_in(folder) == {}
    server.damages = False
    assert finish(start(server.url, folder))[0] == 0


def test_a_new_version_replaces_the_old_one(server: Hub, tmp_path: Path) -> None:
    """Equal in size, so only the digest tells; parts of the old version are of no use and go."""
    folder = tmp_path / "model"
    server.files = {"model.safetensors": b"old weights", "config.json": b"{1}"}
    assert finish(start(server.url, folder))[0] == 0
    (folder / "model.safetensors.0123456789ab.part").write_bytes(b"old")
    server.files = {"model.safetensors": b"new weights", "config.json": b"{2}"}
    assert finish(start(server.url, folder, arguments="revision='main'"))[0] == 0
    assert files_in(folder) == server.files


def test_aliases() -> None:
    assert resolve_repo("20b") == "openai/gpt-oss-20b"
    assert resolve_repo("120b") == "openai/gpt-oss-120b"
    assert resolve_repo("some-one/a.fine_tune-2") == "some-one/a.fine_tune-2"


@pytest.mark.parametrize("name", ["", "7b", "a/b/c", "../x", "a/", "/b", "a b/c", "http://x/y"])
def test_what_is_no_hub_id(name: str) -> None:
    with pytest.raises(UsageError, match="hub id"):
        resolve_repo(name)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'mosso\[hub\]'"):
        pull("20b", tmp_path)
