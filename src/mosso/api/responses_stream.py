"""One response: token events in, the specification's stream events out. The whole answer is their fold.

A Harmony message becomes an output item:
    analysis, and whatever the model says under another role    reasoning
    commentary without recipient                                message of phase `commentary`
    final                                                       message of phase `final_answer`
    any channel with a recipient     the call's item, if that tool is built in and offered; else
                                     function_call, if the request offers functions; else reasoning

A response is one turn of the model, or several with calls of built-in tools between them: whoever runs those
tells the machine, which tells the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosso.api.chat_wire import logprob_entries
from mosso.api.responses_functions import ClientTool, free_text
from mosso.api.responses_hosted import Hosted, HostedCall, Listing, McpTool
from mosso.api.responses_items import new_id
from mosso.api.thoughts import Thought, Thoughts
from mosso.api.tool_calls import function_name
from mosso.api.usage import TokenCounts, sum_counts
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
from mosso.tools.tool import Outcome

Event = dict[str, Any]  # without its sequence number


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """What of the request shapes the answer."""

    functions: bool = False
    tools: Mapping[str, ClientTool] = field(
        default_factory=dict
    )  # the client's, by what a function is called
    hosted: Callable[[str], Hosted | None] = lambda recipient: None  # built-in tools
    most_calls: int | None = None  # of built-in tools
    annotations: Callable[[str], list[dict[str, Any]]] = lambda text: []  # of an answer's whole text
    parallel: bool = True
    logprobs: int | None = None
    seal: Callable[[str], str] | None = None  # for encrypted reasoning


@dataclass(slots=True)
class _Open:
    """The item that is being made. `news` and `entries` have not been told yet."""

    index: int
    item: dict[str, Any]
    header: MessageStarted
    hosted: Hosted | None = None
    text: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    news: str = ""
    entries: list[TokenLogprob] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "hosted" if self.hosted is not None else str(self.item["type"])

    @property
    def is_call(self) -> bool:
        return self.kind in ("function_call", "custom_tool_call", "hosted")

    def place(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": self.index}


class ResponseMachine:
    """State machine of one response. `on_call(call_id, thoughts)` is told what came before each call.

    `output` holds the items so far; those that are done no longer change. `calls` of built-in tools wait to
    be run after a turn; `prompt` and `turn` are the tokens that the turn read and has said so far;
    `counts` is what it used.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: ResponseOptions,
        *,
        prompt: Sequence[int],
        on_call: Callable[[str, Thoughts], None],
        on_repair: Callable[[str], None],
        new_id: Callable[[str], str] = new_id,
    ) -> None:
        self.counts = TokenCounts(prompt=len(prompt))
        self.prompt = prompt
        self.turn: list[int] = []
        self.calls: list[HostedCall] = []
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
        self._calls = 0  # of functions
        self._hosted_calls = 0
        self._before = TokenCounts()  # what earlier turns used
        self._thoughts: list[Thought] = []  # since the last call

    @property
    def total(self) -> TokenCounts:
        """What all turns used: a prompt counts in each turn that read it."""
        return sum_counts([[self._before], [self.counts]])

    @property
    def may_call(self) -> bool:
        """Whether the request's limit leaves room for another call of a built-in tool."""
        most = self._options.most_calls
        return most is None or self._hosted_calls < most

    def again(self, prompt: Sequence[int]) -> None:
        """Another turn of the same response begins, from this prompt."""
        assert not self.calls
        self._before = self.total
        self.counts = TokenCounts(prompt=len(prompt))
        self.prompt = prompt
        self.turn = []
        self.done, self.finish_reason = False, ""
        self._parser = StreamParser(self._tokenizer, role="assistant")

    def listed(self, listing: Listing) -> list[Event]:
        """A server was asked for its tools."""
        self._events = []
        item = listing.item(self._new_id("mcpl"))
        place = {"item_id": item["id"], "output_index": len(self.output)}
        self._emit(
            "output_item.added", output_index=len(self.output), item=item | {"tools": [], "error": None}
        )
        self._emit("mcp_list_tools.in_progress", **place)
        self._emit("mcp_list_tools.completed" if listing.error is None else "mcp_list_tools.failed", **place)
        self.output.append(item)
        self._emit("output_item.done", output_index=place["output_index"], item=dict(item))
        return self._events

    def approved(self, tool: Hosted, recipient: str, arguments: str, request_id: str) -> list[Event]:
        """A call that the model made earlier may be run now; it is the one of `calls`."""
        self._events = []
        header = MessageStarted("assistant", Channel.COMMENTARY, recipient, None)
        self._begin(header, tool, tool.item(recipient) | {"approval_request_id": request_id})
        assert self._open is not None
        self._open.news = arguments
        self._close(MessageEndReason.CALL)
        return self._events

    def running(self, call: HostedCall) -> list[Event]:
        self._events = []
        if call.tool.shape.running is not None:
            self._emit(call.tool.shape.running, **call.place())
        return self._events

    def answered(self, call: HostedCall, outcome: Outcome) -> list[Event]:
        """The call has been run."""
        self._events = []
        shape = call.tool.shape
        self.calls.remove(call)
        call.tool.finish(call.item, outcome)
        call.item["status"] = "failed" if outcome.failed and shape.failed else "completed"
        told = shape.failed if outcome.failed and shape.failed else shape.completed
        if told is not None:
            self._emit(told, **call.place())
        self._emit("output_item.done", output_index=call.index, item=dict(call.item))
        return self._events

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
        for call in self.calls:
            call.item["status"] = "incomplete"
            self._emit("output_item.done", output_index=call.index, item=dict(call.item))
        self.calls = []
        return self._events

    def _token(self, token: int, logprob: TokenLogprob | None) -> None:
        self.counts.generated += 1
        self.turn.append(token)
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
        spoken = event.role.partition(":")[0] == "assistant"
        tool = self._options.hosted(event.recipient) if spoken and event.recipient else None
        if tool is None:
            self._begin(event, None, self._item(event, spoken))
        elif self.may_call:
            self._hosted_calls += 1
            self._begin(event, tool, tool.item(event.recipient or ""))
        else:
            self._begin(event, None, self._reasoning_item())

    def _begin(self, event: MessageStarted, tool: Hosted | None, item: dict[str, Any]) -> None:
        if tool is not None:
            item = {"id": self._new_id(tool.shape.prefix), **item}
            if tool.runs:
                item["status"] = "in_progress"
            self._on_call(item["id"], tuple(self._thoughts))
            self._thoughts = []
        self._open = opened = _Open(len(self.output), item, event, tool)
        self.output.append(item)
        if tool is not None and not tool.runs:
            return  # told when it is whole
        self._emit("output_item.added", output_index=opened.index, item=dict(item))
        if tool is not None and tool.shape.begun is not None:
            self._emit(tool.shape.begun, **opened.place())
        elif not opened.is_call:
            self._emit("content_part.added", **opened.place(), content_index=0, part=self._part(""))

    def _item(self, event: MessageStarted, spoken: bool) -> dict[str, Any]:
        """The item that this header opens, still empty."""
        if spoken and event.recipient and self._options.functions:
            return self._call_item(function_name(event.recipient))
        if not spoken or event.recipient or event.channel == Channel.ANALYSIS:
            return self._reasoning_item()
        phase = "commentary" if event.channel == Channel.COMMENTARY else "final_answer"
        item = {"id": self._new_id("msg"), "type": "message", "role": "assistant", "phase": phase}
        return item | {"content": [], "status": "in_progress"}

    def _reasoning_item(self) -> dict[str, Any]:
        item = {"id": self._new_id("rs"), "type": "reasoning", "summary": [], "content": []}
        return item | {"status": "in_progress"}

    def _call_item(self, name: str) -> dict[str, Any]:
        call_id = self._new_id("call")
        self._on_call(call_id, tuple(self._thoughts))
        self._thoughts = []
        self._calls += 1
        tool = self._options.tools.get(name)
        named = {"call_id": call_id, "name": name}
        if tool is not None and tool.namespace is not None:
            named |= {"name": tool.name, "namespace": tool.namespace}
        if tool is not None and tool.is_custom:
            item = {"id": self._new_id("ctc"), "type": "custom_tool_call", **named}
            return item | {"input": "", "status": "in_progress"}
        item = {"id": self._new_id("fc"), "type": "function_call", **named}
        return item | {"arguments": "", "status": "in_progress"}

    def _part(self, text: str) -> dict[str, Any]:
        assert self._open is not None
        if self._open.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        part = {"type": "output_text", "text": text, "annotations": self._open.annotations}
        return part | {"logprobs": self._open.logprobs[:]}

    def _tell(self) -> None:
        """The open item's new text as one delta."""
        opened = self._open
        if opened is None or not opened.news or opened.kind == "custom_tool_call":
            return  # a free-text call is told when it is whole: only then is it known what of it is the input
        text, opened.news = opened.news, ""
        opened.text.append(text)
        match opened.kind:
            case "function_call":
                self._emit("function_call_arguments.delta", **opened.place(), delta=text)
            case "hosted":
                assert opened.hosted is not None
                if opened.hosted.shape.text is not None:
                    self._emit(f"{opened.hosted.shape.text}.delta", **opened.place(), delta=text)
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
        bare = opened.kind == "function_call" or isinstance(opened.hosted, McpTool)
        if bare and not self._cut and not "".join([*opened.text, opened.news]).strip():
            opened.news += "{}"  # clients parse the arguments as JSON; a call without any has none
        self._tell()
        text = "".join(opened.text)
        place = opened.place()
        if opened.hosted is not None:
            self._close_hosted(opened, opened.hosted, text)
            return
        match opened.kind:
            case "function_call":
                opened.item["arguments"] = text
                self._emit("function_call_arguments.done", **place, name=opened.item["name"], arguments=text)
            case "custom_tool_call":
                text = free_text(opened.news)
                opened.item["input"] = text
                self._emit("custom_tool_call_input.delta", **place, delta=text)
                self._emit("custom_tool_call_input.done", **place, input=text)
            case "reasoning":
                self._remember(Channel.ANALYSIS, text)
                self._emit("reasoning_text.done", **place, content_index=0, text=text)
                if self._options.seal is not None:
                    opened.item["encrypted_content"] = self._options.seal(text)
            case _:
                self._entries(opened)  # tokens whose text never came: half a character at the very end
                if opened.item["phase"] == "commentary":
                    self._remember(Channel.COMMENTARY, text)
                opened.annotations = self._options.annotations(text)
                for number, annotation in enumerate(opened.annotations):
                    told = {"content_index": 0, "annotation_index": number, "annotation": annotation}
                    self._emit("output_text.annotation.added", **place, **told)
                logprobs = opened.logprobs[:]
                self._emit("output_text.done", **place, content_index=0, text=text, logprobs=logprobs)
        if not opened.is_call:
            part = self._part(text)
            opened.item["content"] = [part]
            self._emit("content_part.done", **place, content_index=0, part=part)
        opened.item["status"] = "incomplete" if self._cut else "completed"
        self._open = None
        self._emit("output_item.done", output_index=opened.index, item=dict(opened.item))
        if opened.is_call and not self._options.parallel and reason is not MessageEndReason.CUT:
            self._conclude("tool_calls")

    def _close_hosted(self, opened: _Open, tool: Hosted, text: str) -> None:
        """The call is whole, and waits to be run or allowed; or it was cut."""
        recipient, shape = opened.header.recipient or "", tool.shape
        self._open = None
        tool.fill(opened.item, recipient, text)
        if shape.text is not None:
            self._emit(f"{shape.text}.done", **opened.place(), **{shape.field: text})
        if tool.runs and not self._cut:
            call = HostedCall(tool, opened.item, opened.index, recipient, opened.header.channel, text)
            self.calls.append(call)
            return
        if tool.runs:
            opened.item["status"] = "incomplete"
        else:
            self._calls += 1  # the response ends here, for the client to go on
            self._emit("output_item.added", output_index=opened.index, item=dict(opened.item))
        self._emit("output_item.done", output_index=opened.index, item=dict(opened.item))

    @property
    def awaits_client(self) -> bool:
        """Whether the client has to go on: it has functions to call, or a call to allow."""
        return self._calls > 0

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
