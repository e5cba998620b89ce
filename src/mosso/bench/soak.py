"""Does the engine last? Random traffic for a while, with what must always hold checked all along.

Traffic comes in phases, each with its own pace and ceiling of requests in flight, so that the engine idles,
runs alone, fills up and queues. A third of the requests is aborted, in the two ways that a server aborts: by
asking, and by leaving the stream. Nothing here depends on the engine's speed.

What is wrong is collected as sentences: a soak goes on after a first finding, unless the engine is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mosso.bench.constraint import RECORD, endless
from mosso.core.constraints import TurnConstraint
from mosso.core.counting import counted
from mosso.core.errors import EngineError, MossoError, RequestError
from mosso.core.requests import (
    EngineLimits,
    EngineStats,
    FinishReason,
    Request,
    SamplingParams,
    TokenEvent,
)
from mosso.engine.client import EngineClient

LONGEST_PROMPT = 4000
LONGEST_OUTPUT = 400
ABORTED = 1 / 3
FORMED = 0.1  # of the requests have a form that never ends, where the vocabulary admits forms
FORMS = tuple(TurnConstraint(endless(schema)) for schema in (RECORD, {"type": "string"}))
IMPOSSIBLE = 0.01  # of the requests ask for what can never fit, and must be refused
OVERFULL = 1.25  # requests in flight, at most, for each that can run at once
PHASES = 6  # at least
PHASE_SECONDS = 8.0  # at most
HANG_SECONDS = 120.0  # with work and without a step
IDLE_SECONDS = 30.0  # after the last stream ended, until nothing is held
HOST_GROWTH = 96 << 20  # bytes a process may grow by after the first quarter
DEVICE_GROWTH = 128 << 20
FINDINGS = 20  # sentences kept; the rest is counted


@dataclass(frozen=True, slots=True)
class Job:
    """A request and what becomes of it: when its client loses interest, and how it says so."""

    request: Request
    leaves_after: int | None = None  # tokens; None: stays to the end
    asks: bool = False  # aborts by asking, then reads to the end; else it leaves the stream
    impossible: bool = False


class Traffic:
    """Makes jobs. Prompts are random ids; a share of them begins like an earlier one."""

    def __init__(self, limits: EngineLimits, seed: int, formed: float) -> None:
        self._rng = random.Random(seed)
        self._limits = limits
        self._formed = formed
        self._count = 0
        longest = max(1, min(LONGEST_PROMPT, limits.max_context // 2))
        self._longest = longest
        self._prefixes = [self._ids(self._rng.randint(1, longest)) for _ in range(8)]

    def job(self) -> Job:
        rng = self._rng
        self._count += 1
        name = f"soak-{self._count}"
        if rng.random() < IMPOSSIBLE:
            prompt = self._ids(self._limits.max_context + 1)
            return Job(Request(name, prompt, SamplingParams(max_tokens=8)), impossible=True)
        prompt = self._prompt()
        most = max(1, min(LONGEST_OUTPUT, self._limits.max_context - len(prompt)))
        request = Request(name, prompt, self._sampling(rng.randint(1, most)), rng.randrange(3))
        if rng.random() < self._formed:
            request = replace(
                request,
                sampling=replace(request.sampling, min_tokens=0),  # what stops may be what the form demands
                constraint=rng.choice(FORMS),
                thinking_budget=rng.choice((0, 8, LONGEST_OUTPUT)),
            )
        if rng.random() >= ABORTED:
            return Job(request)
        return Job(request, rng.randrange(request.sampling.max_tokens), asks=rng.random() < 0.5)

    def phase(self) -> tuple[float, int]:
        """Mean seconds between arrivals, and requests in flight at most."""
        most = max(1, int(OVERFULL * self._limits.max_rows))
        full = self._rng.random() < 1 / 3
        return _log_uniform(self._rng, 0.0005, 0.2), most if full else round(_log_uniform(self._rng, 1, most))

    def pause(self, mean: float) -> float:
        return self._rng.expovariate(1 / mean)

    def _ids(self, count: int) -> tuple[int, ...]:
        return tuple(self._rng.choices(range(self._limits.vocab_size), k=count))

    def _prompt(self) -> tuple[int, ...]:
        """Short ones as often as long ones; four in ten share their beginning, some of these all of it."""
        length = round(_log_uniform(self._rng, 1, self._longest))
        if self._rng.random() >= 0.4:
            return self._ids(length)
        prefix = self._rng.choice(self._prefixes)
        return (prefix + self._ids(self._rng.choice((0, 1, length))))[: self._longest]

    def _sampling(self, max_tokens: int) -> SamplingParams:
        rng = self._rng
        fields: dict[str, Any] = {"temperature": rng.choice((0.0, 0.6, 1.0, 1.0, 1.5))}
        if rng.random() < 0.3:
            fields["top_p"] = rng.uniform(0.1, 1.0)
        if rng.random() < 0.3:
            fields["top_k"] = rng.randint(1, min(200, self._limits.vocab_size))
        if rng.random() < 0.1:
            fields["min_p"] = rng.uniform(0.0, 0.2)
        if rng.random() < 0.25:
            fields["logprobs"] = rng.randint(0, min(20, self._limits.vocab_size))
        if rng.random() < 0.1:
            fields["presence_penalty"] = rng.uniform(-2, 2)
            fields["frequency_penalty"] = rng.uniform(-2, 2)
            fields["repetition_penalty"] = rng.uniform(0.8, 1.5)
        if rng.random() < 0.1:
            fields["stop_ids"] = frozenset(self._ids(4))
            fields["min_tokens"] = rng.randint(0, max_tokens)
        if rng.random() < 0.3:
            fields["seed"] = rng.getrandbits(63)
        return SamplingParams(max_tokens=max_tokens, **fields)


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


@dataclass(slots=True)
class Tally:
    """What was counted, and what was found wrong."""

    requests: int = 0
    finished: int = 0
    aborted: int = 0
    refused: int = 0
    formed: int = 0
    tokens: int = 0
    logprobs: int = 0
    wrong: int = 0
    findings: list[str] = field(default_factory=list)

    def found(self, sentence: str) -> None:
        self.wrong += 1
        if len(self.findings) < FINDINGS:
            self.findings.append(sentence)


def check_event(event: TokenEvent, sampling: SamplingParams, vocab_size: int) -> str | None:
    """What is wrong with an event, or None."""
    if event.finish is FinishReason.ERROR:
        return f"ended with an error: {event.error}"
    if any(not 0 <= token < vocab_size for token in event.tokens):
        return f"got a token outside the vocabulary of {vocab_size}: {event.tokens}"
    if len(event.logprobs) != (len(event.tokens) if sampling.logprobs is not None else 0):
        return f"got {len(event.logprobs)} log probabilities for {len(event.tokens)} tokens"
    for token, entry in zip(event.tokens, event.logprobs, strict=False):
        pairs = ((entry.token, entry.logprob), *entry.top)
        if entry.token != token or len(entry.top) != sampling.logprobs:
            return f"got log probabilities of another token or number: {entry}"
        if any(not 0 <= other < vocab_size for other, _ in pairs):
            return f"got a log probability for a token outside the vocabulary: {entry}"
        if any(not math.isfinite(value) or value > 1e-3 for _, value in pairs):
            return f"got a log probability that is none: {entry}"
    return None


class Soak:
    """One run against one engine. Owns the tasks of the requests in flight."""

    def __init__(self, client: EngineClient, seed: int, formed: float) -> None:
        self.client = client
        self.limits = client.limits
        self.tally = Tally()
        self._traffic = Traffic(self.limits, seed, formed)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def arrivals(self, seconds: float) -> None:
        """Start jobs until the time is up; those in flight go on."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            mean, ceiling = self._traffic.phase()
            phase_end = min(end, now + min(PHASE_SECONDS, seconds / PHASES))
            while (now := time.monotonic()) < phase_end:
                await asyncio.sleep(min(self._traffic.pause(mean), phase_end - now))
                if len(self._tasks) < ceiling:
                    self._start(self._traffic.job())
                elif not self.client.is_alive:
                    return

    async def idle(self) -> EngineStats:
        """When every stream has ended and the engine holds nothing, or has had its time for that."""
        while self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        deadline = time.monotonic() + IDLE_SECONDS
        stats = await self.client.stats()
        while stats.running + stats.waiting + stats.kv_blocks_held and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            stats = await self.client.stats()
        return stats

    async def watch(self) -> None:
        """Ends when the engine is gone or stands still; EngineError says which."""
        while self.client.is_alive:
            await asyncio.sleep(1.0)
            still = (await self.client.stats()).seconds_since_step
            if still > HANG_SECONDS:
                raise EngineError(f"the engine has work but no step ended for {still:.0f} s")
        raise EngineError("the engine is gone")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, job: Job) -> None:
        self.tally.requests += 1
        self.tally.formed += job.request.constraint is not None
        task = asyncio.create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job) -> None:
        tally, request = self.tally, job.request
        try:
            if job.leaves_after == 0:
                await self._leave_early(job)
            else:
                await self._read(job)
        except RequestError as error:
            tally.refused += 1
            if not job.impossible:
                tally.found(f"{request.id} was refused though it fits: {error.message}")
        except MossoError as error:
            tally.found(f"{request.id} broke: {error.message}")

    async def _leave_early(self, job: Job) -> None:
        """Hang up after a moment, often before there is a token."""
        try:
            async with asyncio.timeout(0.02):
                await self._read(job)
        except TimeoutError:
            self.tally.aborted += 1

    async def _read(self, job: Job) -> None:
        tally, request, count = self.tally, job.request, 0
        finish: FinishReason | None = None
        stream: AsyncGenerator[TokenEvent, None] = self.client.stream(request)
        async with contextlib.aclosing(stream):
            async for event in stream:
                if wrong := check_event(event, request.sampling, self.limits.vocab_size):
                    tally.found(f"{request.id} {wrong}")
                count += len(event.tokens)
                tally.tokens += len(event.tokens)
                tally.logprobs += len(event.logprobs)
                finish = event.finish
                if job.leaves_after and finish is None and count >= job.leaves_after:
                    if not job.asks:
                        tally.aborted += 1
                        return
                    await self.client.abort(request.id)
        self._ended(job, finish, count)

    def _ended(self, job: Job, finish: FinishReason | None, count: int) -> None:
        tally, sampling = self.tally, job.request.sampling
        if job.impossible:
            tally.found(f"{job.request.id} ran though its prompt is longer than the context")
        if finish is FinishReason.ABORT:
            tally.aborted += 1
            if not job.asks:
                tally.found(f"{job.request.id} was aborted though nobody asked")
            return
        tally.finished += 1
        full = count == sampling.max_tokens
        if count > sampling.max_tokens or (finish is FinishReason.LENGTH and not full):
            tally.found(f"{job.request.id} ended by {finish} after {count} of {sampling.max_tokens} tokens")
        if finish is FinishReason.STOP and not sampling.stop_ids:
            tally.found(f"{job.request.id} stopped though it has no stop ids")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes resident in the host's memory and used on the device; None where nothing tells."""

    moment: float
    parent: int | None
    engine: int | None
    device: int | None


class MemoryLog:
    """Samples of both processes and the device, and by how much they grew after the first quarter."""

    def __init__(self, engine_pid: int, on_device: bool) -> None:
        self._pid = engine_pid
        self._on_device = on_device
        self._start = time.monotonic()
        self.samples: list[Memory] = []

    async def sample(self) -> Memory:
        device = await _device_bytes(self._pid) if self._on_device else None
        moment = time.monotonic() - self._start
        self.samples.append(Memory(moment, _resident(os.getpid()), _resident(self._pid), device))
        return self.samples[-1]

    def growth(self, name: str) -> int | None:
        """The most of the last quarter of the time less the most of the first; None where nothing tells."""
        end = self.samples[-1].moment if self.samples else 0.0
        first = [value for s in self.samples if s.moment <= end / 4 and (value := getattr(s, name))]
        last = [value for s in self.samples if s.moment >= end * 3 / 4 and (value := getattr(s, name))]
        return max(last) - max(first) if first and last else None


def _resident(pid: int) -> int | None:
    """Bytes of a process in memory, where /proc tells."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


async def _device_bytes(pid: int) -> int | None:
    """Bytes of the GPU that CUDA shows first which a process uses; where that cannot be told, as from within
    a container, all that is used of it. None without nvidia-smi."""
    for line in await _nvidia_smi("--query-compute-apps=pid,used_memory"):
        name, _, used = line.partition(",")
        if name.strip() == str(pid) and used.strip().isdecimal():
            return int(used) << 20
    total = await _nvidia_smi("--query-gpu=memory.used")
    return int(total[0]) << 20 if total and total[0].strip().isdecimal() else None


async def _nvidia_smi(query: str) -> list[str]:
    """Lines of numbers, in MiB; none where it cannot be asked."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    try:
        process = await asyncio.create_subprocess_exec(
            *("nvidia-smi", query, "--format=csv,noheader,nounits", "-i", first),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return []
    out, _ = await process.communicate()
    return out.decode().splitlines()


async def _takes_forms(client: EngineClient) -> bool:
    """Whether its vocabulary is known well enough for forms."""
    request = Request("soak-form", (0,), SamplingParams(max_tokens=1), constraint=FORMS[0], thinking_budget=0)
    try:
        async with contextlib.aclosing(client.stream(request)) as stream:
            async for _ in stream:
                pass
    except RequestError:
        return False
    return True


async def soak(
    client: EngineClient, seconds: float, seed: int, say: Callable[[str], None], every: float = 10.0
) -> dict[str, Any]:
    """Run for `seconds` and until idle; `say` gets a line about `every` so many seconds and the verdict.

    In the result `findings` holds a sentence for each thing that is wrong; empty: all held.
    """
    formed = await _takes_forms(client)
    if not formed:
        say("no request has a form: this engine's vocabulary admits none")
    run = Soak(client, seed, FORMED if formed else 0.0)
    used = client.settings
    log = MemoryLog(client.pid, on_device=used is not None and used.device == "cuda")
    start = time.monotonic()
    reporter = asyncio.create_task(_report(run, log, say, min(every, seconds / 8)))
    watcher = asyncio.create_task(run.watch())
    work = asyncio.create_task(_work(run, seconds))
    try:
        await asyncio.wait((work, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and (error := watcher.exception()):
            run.tally.found(str(error))
    finally:
        for task in (reporter, watcher, work):
            task.cancel()
        await asyncio.gather(reporter, watcher, work, return_exceptions=True)
        await run.close()
    await log.sample()
    elapsed = time.monotonic() - start
    stats = await client.stats()
    allowance = host_allowance(client)
    check_end(run.tally, stats, log, allowance)
    say(verdict(run.tally, log, allowance))
    return _summary(run.tally, stats, log, elapsed)


def host_allowance(client: EngineClient) -> int:
    """Bytes the engine may grow by. On the CPU its KV pages come to be when they are first touched."""
    used = client.settings
    assert used is not None
    return HOST_GROWTH + (used.kv_memory or 0 if used.device == "cpu" else 0)


async def _work(run: Soak, seconds: float) -> EngineStats:
    await run.arrivals(seconds)
    return await run.idle()


async def _report(run: Soak, log: MemoryLog, say: Callable[[str], None], every: float) -> None:
    start = then = time.monotonic()
    tokens = 0
    while True:
        memory = await log.sample()
        await asyncio.sleep(every)
        now = time.monotonic()
        stats = await run.client.stats()
        say(_line(now - start, run.tally, (run.tally.tokens - tokens) / (now - then), stats, memory))
        then, tokens = now, run.tally.tokens


def _line(seconds: float, tally: Tally, rate: float, stats: EngineStats, memory: Memory) -> str:
    def mib(count: int | None) -> str:
        return "?" if count is None else f"{count / (1 << 20):.0f}"

    device = f", device {mib(memory.device)}" if memory.device is not None else ""
    return (
        f"{seconds:6.0f} s: {tally.requests} requests ({tally.aborted} aborted, {tally.refused} refused,"
        f" {tally.wrong} wrong), {rate:.0f} tokens/s, {stats.running} running, {stats.waiting} waiting,"
        f" {stats.kv_blocks_held} of {stats.kv_blocks_total} pages held, {stats.preemptions} preempted;"
        f" MiB: here {mib(memory.parent)}, engine {mib(memory.engine)}{device}"
    )


def check_end(tally: Tally, stats: EngineStats, log: MemoryLog, allowance: int) -> None:
    for what in ("running", "waiting", "kv_blocks_held"):
        if left := getattr(stats, what):
            tally.found(f"idle, yet {what} is {left}")
    if not tally.tokens:
        tally.found("not one token was generated")
    bounds = (("parent", HOST_GROWTH), ("engine", allowance), ("device", DEVICE_GROWTH))
    for what, bound in bounds:
        growth = log.growth(what)
        if growth is not None and growth > bound:
            tally.found(
                f"{what} memory grew by {growth / (1 << 20):.0f} MiB after the first quarter,"
                f" more than {bound / (1 << 20):.0f}"
            )


def verdict(tally: Tally, log: MemoryLog, allowance: int) -> str:
    """One sentence; it says where the engine grew by what only its KV pages excuse."""
    found = counted(tally.wrong, "thing") + " wrong" if tally.wrong else "nothing wrong"
    growth = log.growth("engine") or 0
    if not HOST_GROWTH < growth <= allowance:
        return found
    grown, kv = (f"{size / (1 << 20):.0f} MiB" for size in (growth, allowance - HOST_GROWTH))
    return (
        f"{found}; the engine grew by {grown}, which {kv} of KV memory may explain, "
        "as on the CPU it comes to be when it is first touched"
    )


def _summary(tally: Tally, stats: EngineStats, log: MemoryLog, seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "requests": tally.requests,
        "finished": tally.finished,
        "aborted": tally.aborted,
        "refused": tally.refused,
        "formed": tally.formed,
        "tokens": tally.tokens,
        "logprobs": tally.logprobs,
        "prompt_tokens": stats.prompt_tokens,
        "cached_prompt_tokens": stats.cached_prompt_tokens,
        "steps": stats.steps,
        "preemptions": stats.preemptions,
        "kv_blocks_held": stats.kv_blocks_held,
        "growth_bytes": {name: log.growth(name) for name in ("parent", "engine", "device")},
        "wrong": tally.wrong,
        "findings": tally.findings,
    }
