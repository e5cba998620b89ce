"""An engine and its event loop, in a thread of their own: so that scripts, notebooks (where a loop runs
already) and other people's loops all use them alike.

Ownership: the runtime owns the thread, the loop and the engine's process. `close` ends all three and may be
called from anywhere, any number of times; it is also called when the runtime is collected or Python ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Generic, TypeVar

from mosso.api.chat import ChatService
from mosso.api.completions import CompletionService
from mosso.api.observer import NullObserver
from mosso.api.settings import ApiSettings
from mosso.core.errors import UnavailableError, UsageError
from mosso.engine.client import EngineClient
from mosso.engine.settings import EngineSettings
from mosso.harmony.tokenizer import Tokenizer

T = TypeVar("T")
Put = Callable[[Any], None]


class _Call(Generic[T]):
    """Work that whoever waits for it may leave at any moment, also while it is handed to the loop."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._left = False

    async def run(self) -> T:
        if self._left:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        return await self._work

    def leave(self) -> None:
        """On the loop. Nothing where the work has ended."""
        self._left = True
        if self._task is None:
            self._work.close()
        else:
            self._task.cancel()


class End:
    """The last thing of a pumped stream; `error` is what it ended with."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Runtime:
    """Made running; raises what kept the engine from it."""

    def __init__(self, engine: EngineSettings, settings: ApiSettings) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mosso", daemon=True)
        self._thread.start()
        self._close = weakref.finalize(self, _stop, self._loop, self._thread, None, self._pid)
        try:
            client, tokenizer = self.run(_started(engine))
        except BaseException:
            self._close()
            raise
        self._close.detach()
        self._close = weakref.finalize(self, _stop, self._loop, self._thread, client, self._pid)
        self.notes = client.notes
        self.limits = client.limits
        self.tokenizer = tokenizer
        self.chat = ChatService(client, tokenizer, settings, NullObserver())
        self.completions = CompletionService(client, tokenizer, settings, NullObserver())

    @property
    def closed(self) -> bool:
        return not self._close.alive

    def close(self) -> None:
        self._close()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` on the engine's loop. Cancelling the future cancels the work."""
        self._check(work)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _check(self, work: Coroutine[Any, Any, Any]) -> None:
        """UnavailableError where nothing can be run any more."""
        if not self._close.alive:
            work.close()
            raise UnavailableError("this LLM is closed")
        if os.getpid() != self._pid:  # a fork has no threads
            work.close()
            raise UnavailableError("this LLM belongs to the process that made it: make one after the fork")

    def may_wait(self) -> None:
        """UsageError on the engine's own loop: to wait there for what it does would never end."""
        if threading.current_thread() is self._thread:
            raise UsageError(
                "a coroutine that is a tool cannot wait here: use the methods that begin with `a`"
            )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """`work`'s result, waited for; an interrupt (Ctrl-C) cancels it, at whatever line it comes."""
        self._check(work)
        call = _Call(work)
        try:
            self.may_wait()
            future = asyncio.run_coroutine_threadsafe(call.run(), self._loop)
            # A signal just before a thread sleeps does not wake it: whoever waits without end may miss it.
            while not future.done():
                concurrent.futures.wait((future,), timeout=1)
            return future.result()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs there any more
                self._loop.call_soon_threadsafe(call.leave)
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """The same for a caller with a loop of its own; its cancellation cancels the work."""
        return await asyncio.wrap_future(self.submit(work))

    def pump(self, stream: AsyncGenerator[Any], put: Put) -> concurrent.futures.Future[None]:
        """Read `stream` on the engine's loop and `put` each item, an `End` last. Cancelling closes it."""
        return self.submit(_pumped(stream, put))


async def _started(engine: EngineSettings) -> tuple[EngineClient, Tokenizer]:
    starting = asyncio.create_task(EngineClient.start(engine))
    try:
        tokenizer = await asyncio.to_thread(Tokenizer.from_folder, engine.model)
    except BaseException:
        starting.cancel()
        (started,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(started, EngineClient):
            await started.close()
        raise
    client = await starting
    return client, tokenizer.within(client.limits.max_context)


async def _pumped(stream: AsyncGenerator[Any], put: Put) -> None:
    error: BaseException | None = None
    try:
        async for item in stream:
            put(item)
    except BaseException as why:
        error = why
        if not isinstance(why, Exception):
            raise
    finally:
        await stream.aclose()
        put(End(error))


def _stop(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: EngineClient | None, pid: int
) -> None:
    """End the engine, then what still runs, then the thread. Must not refer to the runtime, which is gone."""
    if os.getpid() != pid:  # a fork's copy: all of it is still the other process's
        return

    async def end() -> None:
        if client is not None:
            try:
                await client.close()
            except RuntimeError:  # Python ends: there are no threads to wait in any more
                client._reap()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await loop.shutdown_default_executor()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    if threading.current_thread() is not thread:  # collected there, by the last thing that ran: it goes on
        thread.join()
        loop.close()
