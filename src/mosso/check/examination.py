"""Runs the cases one after another, whatever the server does to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import httpx

from mosso.check import chat, dialects, errors, harmony, responses, streams, tools
from mosso.check.case import Case, Fault, NotThere, cases_of
from mosso.check.server import Server
from mosso.core.errors import UsageError


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One case's end; `why` is empty where it passed. `seconds` is its duration."""

    name: str
    about: str
    outcome: Outcome
    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    url: str
    model: str
    results: tuple[Result, ...]

    def count(self, outcome: Outcome) -> int:
        return sum(result.outcome is outcome for result in self.results)

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and something was found to be right."""
        return not self.count(Outcome.FAILED) and self.count(Outcome.PASSED) > 0

    def as_json(self) -> dict[str, Any]:
        counts = {str(outcome): self.count(outcome) for outcome in Outcome}
        return {"url": self.url, "model": self.model, **counts, "cases": [asdict(r) for r in self.results]}


def all_cases() -> tuple[Case, ...]:
    """In the order of the examination; `harmony` looks at what the others were told, so it is the last."""
    modules = (chat, streams, tools, errors, responses, dialects, harmony)
    return tuple(case for module in modules for case in cases_of(module))


def chosen(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases of these names or groups, all without any; UsageError for a name that is none."""
    cases = all_cases()
    for name in names:
        if not any(_matches(case, name) for case in cases):
            groups = sorted({case.name.partition(".")[0] for case in cases})
            raise UsageError(f"There is no case {name!r}; the groups are {', '.join(groups)}.")
    return tuple(case for case in cases if not names or any(_matches(case, name) for name in names))


def _matches(case: Case, name: str) -> bool:
    return case.name == name or case.name.startswith(f"{name}.")


async def examine(
    url: str,
    cases: Iterable[Case],
    *,
    model: str | None = None,
    api_key: str | None = None,
    timeout: float = 120.0,
    told: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Runs the cases; `told` hears of each as it ends. UsageError where no server answers at all."""
    async with Server(url, model=model or "", api_key=api_key, timeout=timeout) as server:
        if model is None:
            server.model = await first_model(server)
        results = []
        for case in cases:
            results.append(await run(case, server))
            told(results[-1])
        return Report(server.root, server.model, tuple(results))


async def first_model(server: Server) -> str:
    """The server's first model; its list may be as broken as anything, and then any name must do."""
    try:
        listed = await server.get("/v1/models")
        if listed.status == 401:
            raise UsageError(f"{server.root} asks for a key (401): give one that it takes with --api-key")
        return str(listed.body["data"][0]["id"])
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UsageError(f"{server.root} is not an address: {error}") from error
    except httpx.ConnectError as error:
        raise UsageError(f"no server answers at {server.root}: {error}") from error
    except (httpx.HTTPError, TimeoutError, LookupError, TypeError):
        return "gpt-oss"


async def run(case: Case, server: Server) -> Result:
    """One case; what the server sends can make it fail, but not us."""
    started = time.perf_counter()
    outcome, why = Outcome.FAILED, ""
    try:
        await case.run(server)
        outcome = Outcome.PASSED
    except Fault as fault:
        why = str(fault)
    except NotThere as reason:
        outcome, why = Outcome.SKIPPED, str(reason)
    except (httpx.TimeoutException, TimeoutError):
        why = "no answer came in time"
    except httpx.HTTPError as error:
        why = f"the connection broke: {error or type(error).__name__}"
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # a form that no case foresaw
        why = f"the answer has not the published form: {type(error).__name__} {error}"
    return Result(case.name, case.about, outcome, why, time.perf_counter() - started)
