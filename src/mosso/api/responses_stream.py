"""One response: token events in, the specification's stream events out. The whole answer is their fold.

A Harmony message becomes an output item:
    analysis, and whatever the model says under another role    reasoning
    commentary without recipient                                message of phase `commentary`
    final                                                       message of phase `final_answer`
    any channel with a recipient     function_call, if the request offers functions; else reasoning
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mosso.api.chat_wire import logprob_entries
from mosso.api.responses_items import new_id
from mosso.api.thoughts import Thought, Thoughts
from mosso.api.tool_calls import function_name
from mosso.api.usage import TokenCounts
from mosso.core.requests import FinishReason, TokenEvent, TokenLogprob
from mosso.harmony.conversation import Channel
from mosso.harmony.events import (
    ContentDelta,
    MessageEnded,
    MessageEndReason,
    MessageStarted,
    ParserEvent,
    Repaired,
)
from mosso.harmony.parser import StreamParser
from mosso.harmony.tokenizer import Tokenizer

Event = dict[str, Any]  # without its sequence number


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """What of the request shapes the answer."""

    functions: bool = False
    parallel: bool = True
    logprobs: int | None = None
    seal: Callable[[str], str] | None = None  # for encrypted reasoning


@dataclass(slots=True)
class _Open:
    """The item that is being made. `news` and `entries` have not been told yet."""

    index: int
    item: dict[str, Any]
    text: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    news: str = ""
    entries: list[TokenLogprob] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return str(self.item["type"])

    def place(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": self.index}


class ResponseMachine:
    """State machine of one response. `on_call(call_id, thoughts)` is told what came before each call.

    `output` holds the items so far; those that are done no longer change.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: ResponseOptions,
        *,
        prompt_tokens: int,
        on_call: Callable[[str, Thoughts], None],
        on_repair: Callable[[str], None],
        new_id: Callable[[str], str] = new_id,
    ) -> None:
        self.counts = TokenCounts(prompt=prompt_tokens)
        self.done = False
        self.finish_reason = ""  # stop, length or tool_calls
        self.output: list[dict[str, Any]] = []
        self._tokenizer = tokenizer
        self._options = options
        self._on_call = on_call
        self._on_repair = on_repair
        self._new_id = new_id
        self._parser = StreamParser(tokenizer, role="assistant")
        self._events: list[Event] = []
        self._open: _Open | None = None
        self._cut = False  # the token limit ended the stream: the open item is incomplete
        self._calls = 0
        self._thoughts: list[Thought] = []  # since the last call

    def feed(self, event: TokenEvent) -> list[Event]:
        """The events of one token event; neighbouring text is one delta. Nothing may be fed once `done`."""
        self._events = []
        self.counts.cached = max(self.counts.cached, event.cached_tokens)
        for position, token in enumerate(event.tokens):
            self._token(token, event.logprobs[position] if event.logprobs else None)
            if self.done:
                return self._events
        if event.finish is not None:
            self._finish(event.finish)
        self._tell()
        return self._events

    def stop(self) -> list[Event]:
        """Ends what is open where it stands: the response failed or was cancelled."""
        self._events = []
        self._cut = True
        self._close(MessageEndReason.CUT)
        return self._events

    def _token(self, token: int, logprob: TokenLogprob | None) -> None:
        self.counts.generated += 1
        if self._open is not None and not self._tokenizer.is_control(token):
            if self._open.kind == "reasoning":
                self.counts.reasoning += 1
            elif logprob is not None and self._open.kind == "message":
                self._open.entries.append(logprob)
        self._apply(self._parser.feed(token))

    def _apply(self, events: list[ParserEvent]) -> None:
        for event in events:
            match event:
                case ContentDelta() if self._open is not None:
                    self._open.news += event.text
                case MessageStarted():
                    self._start(event)
                case MessageEnded():
                    self._close(event.reason)
                case Repaired():
                    self._on_repair(event.kind)
            if self.done:
                return

    def _start(self, event: MessageStarted) -> None:
        item = self._item(event)
        self._open = _Open(len(self.output), item)
        self.output.append(item)
        self._emit("output_item.added", output_index=self._open.index, item=dict(item))
        if self._open.kind != "function_call":
            self._emit("content_part.added", **self._open.place(), content_index=0, part=self._part(""))

    def _item(self, event: MessageStarted) -> dict[str, Any]:
        """The item that this header opens, still empty."""
        spoken = event.role.partition(":")[0] == "assistant"
        if spoken and event.recipient and self._options.functions:
            return self._call_item(function_name(event.recipient))
        if not spoken or event.recipient or event.channel == Channel.ANALYSIS:
            item = {"id": self._new_id("rs"), "type": "reasoning", "summary": [], "content": []}
            return item | {"status": "in_progress"}
        phase = "commentary" if event.channel == Channel.COMMENTARY else "final_answer"
        item = {"id": self._new_id("msg"), "type": "message", "role": "assistant", "phase": phase}
        return item | {"content": [], "status": "in_progress"}

    def _call_item(self, name: str) -> dict[str, Any]:
        call_id = self._new_id("call")
        self._on_call(call_id, tuple(self._thoughts))
        self._thoughts = []
        self._calls += 1
        item = {"id": self._new_id("fc"), "type": "function_call", "call_id": call_id, "name": name}
        return item | {"arguments": "", "status": "in_progress"}

    def _part(self, text: str) -> dict[str, Any]:
        assert self._open is not None
        if self._open.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._open.logprobs[:]}

    def _tell(self) -> None:
        """The open item's new text as one delta."""
        opened = self._open
        if opened is None or not opened.news:
            return
        text, opened.news = opened.news, ""
        opened.text.append(text)
        match opened.kind:
            case "function_call":
                self._emit("function_call_arguments.delta", **opened.place(), delta=text)
            case "reasoning":
                self._emit("reasoning_text.delta", **opened.place(), content_index=0, delta=text)
            case _:
                entries = self._entries(opened)
                place = {**opened.place(), "content_index": 0}
                self._emit("output_text.delta", **place, delta=text, logprobs=entries)

    def _entries(self, opened: _Open) -> list[dict[str, Any]]:
        """The log probabilities of the tokens that are told now."""
        entries: list[dict[str, Any]] = []
        if self._options.logprobs is not None:
            entries = logprob_entries(self._tokenizer, opened.entries, self._options.logprobs)
        opened.entries = []
        opened.logprobs += entries
        return entries

    def _close(self, reason: MessageEndReason) -> None:
        """The open item's last events; it is done then, or incomplete where the stream was cut."""
        opened = self._open
        if opened is None:
            return
        if (
            opened.kind == "function_call"
            and not self._cut
            and not "".join([*opened.text, opened.news]).strip()
        ):
            opened.news += "{}"  # clients parse the arguments as JSON; a call without any has none
        self._tell()
        text = "".join(opened.text)
        place = opened.place()
        match opened.kind:
            case "function_call":
                opened.item["arguments"] = text
                self._emit("function_call_arguments.done", **place, name=opened.item["name"], arguments=text)
            case "reasoning":
                self._remember(Channel.ANALYSIS, text)
                self._emit("reasoning_text.done", **place, content_index=0, text=text)
                if self._options.seal is not None:
                    opened.item["encrypted_content"] = self._options.seal(text)
            case _:
                self._entries(opened)  # tokens whose text never came: half a character at the very end
                if opened.item["phase"] == "commentary":
                    self._remember(Channel.COMMENTARY, text)
                logprobs = opened.logprobs[:]
                self._emit("output_text.done", **place, content_index=0, text=text, logprobs=logprobs)
        if opened.kind != "function_call":
            part = self._part(text)
            opened.item["content"] = [part]
            self._emit("content_part.done", **place, content_index=0, part=part)
        opened.item["status"] = "incomplete" if self._cut else "completed"
        self._open = None
        self._emit("output_item.done", output_index=opened.index, item=dict(opened.item))
        if (
            opened.kind == "function_call"
            and not self._options.parallel
            and reason is not MessageEndReason.CUT
        ):
            self._conclude("tool_calls")

    def _remember(self, channel: Channel, text: str) -> None:
        if text:
            self._thoughts.append(Thought(channel, text))

    def _finish(self, reason: FinishReason) -> None:
        self._cut = reason is FinishReason.LENGTH
        self._apply(self._parser.finish())
        if not self.done:
            self._conclude("length" if self._cut else "tool_calls" if self._calls else "stop")

    def _conclude(self, reason: str) -> None:
        self.finish_reason = reason
        self.done = True

    def _emit(self, name: str, /, **fields: Any) -> None:
        self._events.append({"type": f"response.{name}", **fields})
