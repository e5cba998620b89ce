"""A response's turns: what the model says, the calls of built-in tools that it makes, what it says then.

The next turn's prompt is the last one, the tokens that the model made of it, and the calls' results: token
for token what was computed already, so that the prefix cache gives all of it, thinking included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from mosso.api.generation import Choice, closing, generate
from mosso.api.observer import Observer
from mosso.api.responses_hosted import Gone, HostedCall
from mosso.api.responses_stream import Event, ResponseMachine
from mosso.api.responses_tool_schema import McpApprovalRequestItem
from mosso.api.responses_toolset import Toolset
from mosso.api.running import Held
from mosso.api.structure import with_turn
from mosso.core.constraints import Turn
from mosso.core.errors import OverloadedError
from mosso.core.requests import Request
from mosso.core.source import TokenSource
from mosso.harmony.conversation import Channel, Conversation, Message, Role
from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer
from mosso.tools.tool import CUT, Outcome

LEAST_ROOM = 64  # tokens that a turn after a call must have left to be worth making
MOST_WAITS = 30  # for room in the engine, before a turn that is not the response's first fails


class Turns:
    """Makes the turns of one response. `max_tokens`: of all turns together, None: what the context holds.

    `later()`: what the next turn may say, as of now. `held`: by which others reach the turn that runs.
    """

    def __init__(
        self,
        source: TokenSource,
        tokenizer: Tokenizer,
        observer: Observer,
        machine: ResponseMachine,
        *,
        max_tokens: int | None,
        later: Callable[[], Turn],
        held: Held,
    ) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._observer = observer
        self._machine = machine
        self._max_tokens = max_tokens
        self._later = later
        self._held = held

    async def events(self, first: Request) -> AsyncGenerator[Sequence[Event]]:
        """All events of all turns. Closing it aborts the turn, or the call, that runs."""
        machine, request, number = self._machine, first, 0
        while True:
            async for events in self._turn(request, number):
                yield events
            results: list[Message] = []
            for call in list(machine.calls):
                async for events, outcome in self._run(call):
                    yield events
                    if outcome is not None:
                        results.append(_result(call, outcome))
            if not results or machine.awaits_client:
                return
            number += 1
            following = self._following(first, request, results, number)
            if following is None:
                machine.finish_reason = "length"
                return
            request = following
            machine.again(request.prompt)

    async def approved(
        self, calls: Sequence[McpApprovalRequestItem], toolset: Toolset, results: dict[str, str]
    ) -> AsyncGenerator[Sequence[Event]]:
        """Runs calls that the client has allowed; their texts are put in `results` by approval request."""
        for asked in calls:
            recipient = toolset.mcp_recipient(asked.server_label, asked.name)
            tool = toolset.mcp_tool(asked.server_label, asked.name) or Gone(asked.server_label, asked.name)
            yield self._machine.approved(tool, recipient, asked.arguments, asked.id)
            (call,) = self._machine.calls
            async for events, outcome in self._run(call):
                yield events
                if outcome is not None:
                    results[asked.id] = outcome.text

    async def _turn(self, request: Request, number: int) -> AsyncGenerator[Sequence[Event]]:
        """What is full is waited for, except by a response that has not begun."""
        request = self._held.next(request)
        self._observer.started(
            prompt_tokens=len(request.prompt), choices=1, max_tokens=request.sampling.max_tokens
        )
        for waits in range(MOST_WAITS):
            told = False
            try:
                choice = Choice(request, self._machine)
                async with closing(generate(self._source, [choice], self._observer)) as batches:
                    async for _, events in batches:
                        told = True
                        yield events
                return
            except OverloadedError as error:
                if not number or told or waits == MOST_WAITS - 1 or error.retry_after is None:
                    raise
                await asyncio.sleep(min(error.retry_after, 5.0))

    async def _run(self, call: HostedCall) -> AsyncGenerator[tuple[Sequence[Event], Outcome | None]]:
        yield self._machine.running(call), None
        outcome = await call.tool.run(call.recipient, call.text)
        yield self._machine.answered(call, outcome), outcome

    def _following(
        self, first: Request, last: Request, results: Sequence[Message], number: int
    ) -> Request | None:
        """The next turn; None where there is no room for one."""
        machine = self._machine
        said = machine.turn
        if said[-1] in self._tokenizer.stop_ids:  # a call that ended otherwise was one all the same
            said = [*said[:-1], self._tokenizer.control.call]
        room = self._source.limits.max_context - len(last.prompt) - len(said) - LEAST_ROOM
        told = self._told(results, room)
        if told is None:
            return None
        prompt = (*last.prompt, *said, *told)
        left = self._source.limits.max_context - len(prompt)
        if self._max_tokens is not None:
            left = min(left, self._max_tokens - machine.total.generated)
        if left < 1:
            return None
        sampling = replace(first.sampling, max_tokens=left)
        request = replace(first, id=f"{first.id}.{number}", prompt=prompt, sampling=sampling)
        return with_turn(request, self._later())

    def _told(self, results: Sequence[Message], room: int) -> list[int] | None:
        """The results as tokens, with the opening of the next turn. They are cut to half of the room left."""
        tokens = self._rendered(results)
        if len(tokens) > room // 2:
            each = room // 2 // len(results)
            tokens = self._rendered([self._cut(result, each) for result in results])
        return tokens if len(tokens) < room else None

    def _rendered(self, results: Sequence[Message]) -> list[int]:
        return self._renderer.render(Conversation(tuple(results)), Role.ASSISTANT, keep_analysis=True)

    def _cut(self, result: Message, most: int) -> Message:
        assert isinstance(result.content, str)
        tokens = self._tokenizer.encode(result.content)
        if len(tokens) <= most:
            return result
        return replace(result, content=self._tokenizer.decode(tokens[: max(most, 0)]) + CUT)


def _result(call: HostedCall, outcome: Outcome) -> Message:
    """In the call's channel, as the model's own tools answer in its thinking."""
    channel = call.channel or Channel.COMMENTARY
    return Message(Role.TOOL, outcome.text, name=call.recipient, channel=channel, recipient=Role.ASSISTANT)
