"""One choice of a text completion: token events in, pieces of raw text out. Control tokens have no text."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

from mosso.api.stop_strings import StopStrings
from mosso.api.usage import TokenCounts
from mosso.core.requests import FinishReason, TokenEvent, TokenLogprob
from mosso.harmony.tokenizer import Tokenizer


@dataclass(slots=True)
class TextPiece:
    """More text, the log probabilities of its tokens with their offsets, and how it ended if it did."""

    text: str
    logprobs: list[tuple[int, TokenLogprob]] = field(default_factory=list)
    finish: str | None = None


class TextChoice:
    """State machine of one choice. `offset`: characters of echoed prompt before the generated text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stops: tuple[str, ...] = (),
        user_stop_ids: frozenset[int] = frozenset(),
        prompt_tokens: int = 0,
        offset: int = 0,
    ) -> None:
        self.counts = TokenCounts(prompt=prompt_tokens)
        self.done = False
        self.finish_reason = ""
        self._tokenizer = tokenizer
        self._stops = StopStrings(stops)
        self._user_stop_ids = user_stop_ids
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting: list[tuple[int, TokenLogprob]] = []  # until their text is shown
        self._fed = 0
        self._shown = 0

    def feed(self, event: TokenEvent) -> list[TextPiece]:
        """At most one piece. Nothing may be fed once `done`."""
        self.counts.cached = max(self.counts.cached, event.cached_tokens)
        text = ""
        for position, token in enumerate(event.tokens):
            self.counts.generated += 1
            last = event.finish is FinishReason.STOP and position == len(event.tokens) - 1
            if last and token in self._user_stop_ids:
                break
            if event.logprobs and not (last and self._tokenizer.is_control(token)):
                self._waiting.append((self._fed, event.logprobs[position]))
            text += self._text(self._decoder.decode(self._tokenizer.token_bytes(token)))
            if self._stops.matched:
                return [self._piece(text, "stop")]
        if event.finish is None:
            piece = self._piece(text, None)
            return [piece] if piece.text or piece.logprobs else []
        text += self._text(self._decoder.decode(b"", final=True))
        text += self._stops.flush()
        self._fed += 1  # every token is shown now, those without text too
        return [
            self._piece(text, "length" if event.finish is FinishReason.LENGTH else "stop", everything=True)
        ]

    def _text(self, text: str) -> str:
        self._fed += len(text)
        return self._stops.feed(text) if text and not self._stops.matched else ""

    def _piece(self, text: str, finish: str | None, *, everything: bool = False) -> TextPiece:
        self._shown += len(text)
        until = self._fed if everything else self._shown
        ready = [(self._offset + start, entry) for start, entry in self._waiting if start < until]
        self._waiting = self._waiting[len(ready) :]
        if finish is not None:
            self.finish_reason, self.done = finish, True
        return TextPiece(text, ready, finish)
