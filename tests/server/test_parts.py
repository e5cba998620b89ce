import signal
import socket
import subprocess
import sys

import pytest
import uvicorn

from mosso.core.errors import UnavailableError, UsageError
from mosso.server.lifecycle import Lifecycle
from mosso.server.run import Server, bind, run, url_of


def test_work_is_counted_and_refused_while_draining():
    life = Lifecycle(1000)
    with life.work():
        assert life.active == 1
        assert not life.may_exit()
        life.drain()
        assert not life.may_exit()
        with pytest.raises(UnavailableError), life.work():
            raise AssertionError
    assert life.may_exit()
    assert life.active == 0


def test_the_drain_ends_when_its_time_is_up():
    life = Lifecycle(0)
    with life.work():
        life.drain()
        assert life.may_exit()


def test_work_that_fails_is_no_longer_in_hand():
    life = Lifecycle(1)
    with pytest.raises(ZeroDivisionError), life.work():
        raise ZeroDivisionError
    assert life.active == 0


def test_an_address_in_use_is_named():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            bind("127.0.0.1", port)


def test_an_address_that_does_not_exist_is_named():
    with pytest.raises(UsageError, match=r"cannot listen on 203\.0\.113\.1:80"):
        bind("203.0.113.1", 80)


def test_urls_can_be_opened():
    with bind("0.0.0.0", 0) as anywhere:
        assert url_of(anywhere).startswith("http://localhost:")
    if socket.has_dualstack_ipv6():
        with bind("::1", 0) as six:
            assert url_of(six).startswith("http://[::1]:")


def test_the_first_signal_drains_and_the_second_leaves(caplog):
    life, forced = Lifecycle(1000), []
    server = Server(uvicorn.Config(lambda: None), life, on_force=lambda: forced.append(True))
    with caplog.at_level("INFO", "mosso"), life.work():
        server.handle_exit(signal.SIGTERM, None)
    assert "draining: 1 request in hand" in caplog.text
    assert life.draining
    assert not server.should_exit
    assert not forced
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert server.force_exit
    assert forced


def test_a_thread_that_works_does_not_keep_the_process():
    code = (
        "import threading, time; from mosso.server.run import leave_soon\n"
        "threading.Thread(target=time.sleep, args=(300,)).start(); leave_soon(7, seconds=0.1)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=200, check=False).returncode == 7


async def test_servers_that_announce_their_life_are_answered(server):
    told = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive():
        return next(told)

    async def send(message):
        sent.append(message["type"])

    await server.app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_run_gives_the_result():
    async def main() -> int:
        return 5

    assert run(main) == 5
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
