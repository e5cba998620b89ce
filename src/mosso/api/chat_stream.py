"""One choice of a chat answer: token events in, deltas out. The whole answer is a fold over the same deltas.

What a Harmony message becomes:
    analysis                           reasoning
    final                              content
    commentary without recipient       content too: a preamble, words to the user before a call
    any channel with a recipient       a tool call, if the request offers functions; else reasoning
    a message of another role          reasoning: the model talks to itself
Several messages of one kind are set apart by an empty line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mosso.api.deltas import CallArguments, CallStarted, ContentText, Delta, Finished, ReasoningText
from mosso.api.stop_strings import StopStrings
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

SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What of the request shapes the answer."""

    functions: bool = False  # functions are offered
    parallel: bool = True  # more than one call is wanted
    stops: tuple[str, ...] = ()
    user_stop_ids: frozenset[int] = frozenset()  # end the answer and are no part of it
    logprobs: bool = False


class Kind(Enum):
    """What the open message is to the client."""

    NONE = "none"
    REASONING = "reasoning"
    CONTENT = "content"
    CALL = "call"


class ChatChoice:
    """State machine of one choice. `on_call(call_id, thoughts)` is told what came before each call."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: ChatOptions,
        *,
        prompt_tokens: int = 0,
        new_call_id: Callable[[], str],
        on_call: Callable[[str, Thoughts], None],
        on_repair: Callable[[str], None],
    ) -> None:
        self.counts = TokenCounts(prompt=prompt_tokens)
        self.done = False
        self.finish_reason = ""
        self._tokenizer = tokenizer
        self._options = options
        self._new_call_id = new_call_id
        self._on_call = on_call
        self._on_repair = on_repair
        self._parser = StreamParser(tokenizer, role="assistant")
        self._stops = StopStrings(options.stops)
        self._out: list[Delta] = []
        self._over = False  # no more tokens come
        self._kind = Kind.NONE
        self._final = False  # the open message is in the final channel
        self._spoken: set[Kind] = set()  # kinds that have shown text already
        self._separate = False  # the next text of this kind begins with SEPARATOR
        self._calls = 0
        self._arguments_blank = True
        self._thoughts: list[tuple[Channel, list[str]]] = []  # since the last call
        # Log probabilities wait here until the text of their token is shown: (its start, entry). Positions
        # are characters of content.
        self._waiting: list[tuple[int, TokenLogprob]] = []
        self._fed = 0
        self._shown = 0

    def feed(self, event: TokenEvent) -> list[Delta]:
        """The deltas of one event; neighbours of one kind are merged. Nothing may be fed once `done`."""
        self._out = []
        self.counts.cached = max(self.counts.cached, event.cached_tokens)
        logprobs = event.logprobs
        for position, token in enumerate(event.tokens):
            last = event.finish is FinishReason.STOP and position == len(event.tokens) - 1
            self._token(token, logprobs[position] if logprobs else None, last)
            if self.done:
                return self._out
        if event.finish is not None:
            self._finish(event.finish)
        return self._out

    def _token(self, token: int, logprob: TokenLogprob | None, last: bool) -> None:
        self.counts.generated += 1
        if last and token in self._options.user_stop_ids:
            return
        if self._kind is not Kind.NONE and not self._tokenizer.is_control(token):
            if self._kind is Kind.REASONING:
                self.counts.reasoning += 1
            elif logprob is not None and self._kind is Kind.CONTENT and self._options.logprobs:
                self._waiting.append((self._fed, logprob))
        self._apply(self._parser.feed(token))

    def _apply(self, events: list[ParserEvent]) -> None:
        for event in events:
            match event:
                case ContentDelta():
                    self._text(event.text)
                case MessageStarted():
                    self._start(event)
                case MessageEnded():
                    self._end(event.reason)
                case Repaired():
                    self._on_repair(event.kind)
            if self.done:
                return

    def _start(self, event: MessageStarted) -> None:
        self._kind = self._kind_of(event)
        self._final = self._kind is Kind.CONTENT and event.channel != Channel.COMMENTARY
        self._separate = self._kind in self._spoken
        if self._kind is Kind.CALL:
            self._start_call(function_name(event.recipient or ""))
        elif self._kind is Kind.REASONING:
            self._thoughts.append((Channel.ANALYSIS, []))
        elif not self._final:
            self._thoughts.append((Channel.COMMENTARY, []))

    def _kind_of(self, event: MessageStarted) -> Kind:
        if event.role.partition(":")[0] != "assistant":
            return Kind.REASONING
        if event.recipient:
            return Kind.CALL if self._options.functions else Kind.REASONING
        return Kind.REASONING if event.channel == Channel.ANALYSIS else Kind.CONTENT

    def _start_call(self, name: str) -> None:
        call_id = self._new_call_id()
        thoughts = tuple(Thought(channel, "".join(pieces)) for channel, pieces in self._thoughts if pieces)
        self._on_call(call_id, thoughts)
        self._thoughts = []
        self._arguments_blank = True
        self._out.append(CallStarted(self._calls, call_id, name))
        self._calls += 1

    def _end(self, reason: MessageEndReason) -> None:
        kind, self._kind = self._kind, Kind.NONE
        if kind is Kind.CALL:
            if self._arguments_blank and reason is not MessageEndReason.CUT:
                self._arguments("{}")  # clients parse the arguments as JSON; a call without any has none
            if not self._options.parallel and not self._over:
                self._conclude("tool_calls")
        elif kind is Kind.CONTENT and self._final:
            self._show(self._stops.flush())

    def _text(self, text: str) -> None:
        if self._kind is Kind.CALL:
            self._arguments_blank = self._arguments_blank and text.isspace()
            self._arguments(text)
            return
        if not self._final:
            self._thoughts[-1][1].append(text)
        if self._separate:
            text, self._separate = SEPARATOR + text, False
        self._spoken.add(self._kind)
        if self._kind is Kind.REASONING:
            self._reason(text)
        else:
            self._content(text)

    def _content(self, text: str) -> None:
        self._fed += len(text)
        self._show(self._stops.feed(text) if self._final else text)
        if self._stops.matched:
            self._waiting = []
            self._conclude("stop")

    def _show(self, text: str) -> None:
        self._shown += len(text)
        ready = 0
        while ready < len(self._waiting) and self._waiting[ready][0] < self._shown:
            ready += 1
        logprobs = [entry for _, entry in self._waiting[:ready]]
        del self._waiting[:ready]
        if not text and not logprobs:
            return
        last = self._out[-1] if self._out else None
        if isinstance(last, ContentText):
            last.text += text
            last.logprobs += logprobs
        else:
            self._out.append(ContentText(text, logprobs))

    def _reason(self, text: str) -> None:
        last = self._out[-1] if self._out else None
        if isinstance(last, ReasoningText):
            last.text += text
        else:
            self._out.append(ReasoningText(text))

    def _arguments(self, text: str) -> None:
        last = self._out[-1] if self._out else None
        index = self._calls - 1
        if isinstance(last, CallArguments) and last.index == index:
            last.text += text
        else:
            self._out.append(CallArguments(index, text))

    def _finish(self, reason: FinishReason) -> None:
        self._over = True
        self._apply(self._parser.finish())
        if self.done:
            return
        self._show(self._stops.flush())
        if self._waiting:  # tokens whose text never came: half a character at the very end
            self._shown = self._fed + 1
            self._show("")
        if reason is FinishReason.LENGTH:
            self._conclude("length")
        else:
            self._conclude("tool_calls" if self._calls else "stop")

    def _conclude(self, reason: str) -> None:
        self.finish_reason = reason
        self._out.append(Finished(reason, self._stops.matched))
        self.done = True
