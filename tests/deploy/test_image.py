"""The image itself: built without rights, and serving as the user that it names. `make image-check`.

Not run by default: it takes some minutes and root, which makes the base system and the user that builds.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
USER = "mosso-image"
TOOLS = ("debootstrap", "buildah", "newuidmap", "useradd", "runuser")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.image,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.getuid() != 0, reason="the base system needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


def buildah(*arguments: str) -> list[str]:
    home = Path("~" + USER).expanduser()
    environment = [f"HOME={home}", f"XDG_RUNTIME_DIR={home}", "STORAGE_DRIVER=vfs"]
    return ["env", "--chdir", str(home), *environment, "runuser", "-u", USER, "--", "buildah", *arguments]


def output_of(*arguments: str) -> str:
    done = subprocess.run(buildah(*arguments), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def config_of(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output_of("inspect", "--type", "image", image))["Docker"]["config"]
    return found


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    subprocess.run(["useradd", "--create-home", USER], check=False, capture_output=True)
    subprocess.run([HERE / "build_image.sh", HERE.parents[1], USER], check=True, timeout=1800)
    yield "localhost/mosso"
    output_of("rmi", "--all", "--force")


def test_what_it_says_of_itself(image):
    config = config_of(image)
    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["mosso"], ["serve"])
    assert set(config["Volumes"]) == {"/cache"}
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert "MOSSO_HOST=0.0.0.0" in config["Env"]


def test_it_serves_as_its_user_and_is_healthy(image):
    port = free_port()
    container = output_of("from", image)
    command = buildah(
        "run", "--isolation", "chroot", "--user", "10001:10001", container,
        "--", "mosso", "serve", "demo", "--port", str(port),
    )  # fmt: skip
    with subprocess.Popen(command) as server:
        try:
            answers(server, f"http://127.0.0.1:{port}")
            check = config_of(image)["Healthcheck"]["Test"][1:]
            output_of("run", "--isolation", "chroot", "--env", f"MOSSO_PORT={port}", container, "--", *check)
        finally:
            stop(server, port)


READ_ONLY = """
set -e
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs -o uid=10001,gid=10001,mode=755 tmpfs "$1/cache"
root=$1
shift
exec chroot --userspec=10001:10001 "$root" /usr/bin/env -i "$@"
"""
"""As compose and the chart run it: nothing can be written but /tmp and the volume. The mounts end with it."""


def test_it_serves_where_its_root_cannot_be_written(image):
    container = output_of("from", image)
    root = output_of("unshare", "buildah", "mount", container)
    settings = config_of(image)["Env"]

    def inside(*command: str) -> list[str]:
        unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", READ_ONLY, "bash"]
        return [*unshared, root, *settings, *command]

    refused = subprocess.run(inside("touch", "/opt/mosso/new"), capture_output=True, text=True, check=False)
    assert "Read-only file system" in refused.stderr
    port = free_port()
    with subprocess.Popen(inside("mosso", "serve", "demo", "--port", str(port))) as server:
        try:
            answers(server, f"http://127.0.0.1:{port}")
        finally:
            stop(server, port)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(server: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + 120
    while not ready(url):
        assert server.poll() is None
        assert time.monotonic() < end
        time.sleep(0.5)
    body = {"messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    assert "5" in answer["choices"][0]["message"]["content"]


def stop(server: subprocess.Popen[bytes], port: int) -> None:
    """By name: a signal to what runs the container reaches nobody within."""
    subprocess.run(["pkill", "-TERM", "-f", f"mosso serve demo --port {port}$"], check=False)
    server.wait(60)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
