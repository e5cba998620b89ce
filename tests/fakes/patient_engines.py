"""Engines that do not run away from whoever reads them, however long that process is paused."""

from __future__ import annotations

import socket
import subprocess

import pytest

from mosso.engine import client


def keep_engines_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine started from here has told and nobody has read is a handful of messages, then it waits.

    By default some hundreds fit the socket, with which a short answer is over before a slow test has killed
    or stopped its engine.
    """
    spawn = client._spawn

    def near(theirs: socket.socket) -> subprocess.Popen[bytes]:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system makes it its least
        return spawn(theirs)

    monkeypatch.setattr(client, "_spawn", near)
