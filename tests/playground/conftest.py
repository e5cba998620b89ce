"""The playground in a real Chromium: before the demo, and before servers that say what a test scripts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_gate import Gate
from needs import needs
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scripted_server import scripted

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
)  # fmt: skip
expect.set_options(timeout=60_000)  # a busy machine's


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(needs(CHROMIUM is not None, "there is no Chromium"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One a module: with it runs an event loop in this thread, where tests of other modules run theirs."""
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=120_000)
        yield browser
        browser.close()


KEPT = """() => new Promise((done, failed) => {
  const open = indexedDB.open('keyval-store');
  open.onerror = failed;
  open.onsuccess = () => {
    const got = open.result.transaction('keyval').objectStore('keyval').get('mosso-playground');
    got.onerror = failed;
    got.onsuccess = () => { open.result.close(); done(JSON.stringify(got.result ?? null)); };
  };
})"""


class Tab:
    """A page of its own profile. Whatever the console complains of fails the test that opened it."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": {"width": 1360, "height": 850}} | options)
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.bodies: list[dict[str, Any]] = []  # of requests for responses
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(f"{url}/")
        expect(self.message).to_be_visible()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)
        if request.url.endswith("/v1/responses") and request.method == "POST":
            self.bodies.append(request.post_data_json)

    @property
    def message(self) -> Any:
        return self.page.get_by_label("Message", exact=True)

    def ask(self, text: str) -> None:
        expect(self.page.locator("[aria-busy=true]")).to_have_count(0)
        self.message.fill(text)
        self.message.press("Enter")

    def answered(self, count: int = 1) -> None:
        """Waits until so many answers have come to their end."""
        expect(self.page.get_by_test_id("speed")).to_have_count(count)
        expect(self.page.locator("[aria-busy=true]")).to_have_count(0)

    def until(self, holds: Callable[[], object]) -> None:
        """Waits for what no locator tells, while the page goes on."""
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, "it never happened"
            self.page.wait_for_timeout(20)

    def kept(self, *texts: str) -> None:
        """Waits until the browser keeps this, and answers that are whole; the page writes once a second."""

        def holds() -> bool:
            told = self.page.evaluate(KEPT)
            return all(text in told for text in texts) and '"status":"running"' not in told

        self.until(holds)

    def press(self, name: str) -> None:
        """A button of an answer that grows: a click would wait until nothing moves any more."""
        self.page.get_by_role("button", name=name).press("Enter")

    def settings(self, tab: str = "Model") -> None:
        self.page.get_by_role("tab", name=tab).click()

    def switch(self, name: str) -> None:
        self.page.get_by_role("switch", name=name).click()

    def picture(self, name: str) -> None:
        """For the documents, where MOSSO_PICTURES names their folder."""
        if folder := os.environ.get("MOSSO_PICTURES"):
            self.page.mouse.move(700, 700)
            self.page.wait_for_timeout(400)  # what fades in or out
            self.page.screenshot(path=f"{folder}/{name}.png")

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []
        assert self.foreign == []


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """open_tab(url): a tab that must end without a complaint."""
    with ExitStack() as tabs:

        def open_(url: str, **options: Any) -> Tab:
            tab = Tab(browser, url, **options)
            tabs.callback(tab.close)
            return tab

        yield open_


@contextmanager
def serving(log: Path, *flags: str) -> Iterator[str]:
    """The URL of `mosso serve demo`, which must end well."""
    with log.open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mosso.cli", "serve", "--port", "0", "--log-level", "warning", *flags],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, log.read_text()
        yield found.group().rstrip("/")
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        process.stdout.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("playground") / "log") as url:
        yield url


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """serve(*flags): the URL of a demo server of the test's own."""
    with ExitStack() as servers:
        yield lambda *flags: servers.enter_context(serving(tmp_path / "log", *flags))


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """For servers that start from here on."""
    return Gate(tmp_path, monkeypatch)


@pytest.fixture
def say() -> Iterator[Callable[..., str]]:
    """say(final, thinking=""): the URL of a server whose every answer is this."""
    with ExitStack() as servers:

        def start(final: str, thinking: str = "Hm.") -> str:
            thought = f"<|channel|>analysis<|message|>{thinking}<|end|>"
            answer = f"<|start|>assistant<|channel|>final<|message|>{final}<|return|>"
            return servers.enter_context(scripted(thought + answer))[0]

        yield start
