"""What the text side asks of the engine, and what comes back: token ids, never text."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from mosso.core.constraints import Turn, TurnConstraint

BACKGROUND = 1_000_000
"""Requests of this priority, or a worse one, use what the others leave: they start when no other waits, give
way to others, and only a few of them run beside others."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The defaults are the model card's: plain sampling at temperature 1.

    Order of the transforms: penalties, logit_bias, temperature, then top_k, top_p and min_p on the
    resulting distribution. Log probabilities are those of the model before any transform.
    """

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0  # over generated tokens
    frequency_penalty: float = 0.0  # over generated tokens
    repetition_penalty: float = 1.0  # over prompt and generated tokens
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    min_tokens: int = 0  # stop ids cannot be sampled before this many tokens
    stop_ids: frozenset[int] = frozenset()  # generation ends with (and reports) such a token
    logprobs: int | None = None  # None: off; else the number of alternatives beside the sampled token

    @property
    def has_penalties(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to continue. `n` choices of a client are n requests that share a prompt."""

    id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    priority: int = 0  # lower is served first
    cache_salt: str = ""  # prefixes are shared only between requests of equal salt
    tenant: str = ""  # whose it is; service is shared fairly between tenants
    choice: int = 0  # its number among those that share the prompt
    generated: tuple[int, ...] = ()  # what an engine that died had generated: the stream goes on behind it
    constraint: TurnConstraint | None = None  # the prompt then ends in `<|start|>assistant`
    recipients: tuple[str, ...] = ()  # whom the turn may call
    thinking_budget: int | None = None  # tokens of thinking; the prompt then ends as with a constraint

    @property
    def turn(self) -> Turn:
        return Turn(self.constraint, self.recipients, self.thinking_budget)


class FinishReason(StrEnum):
    STOP = "stop"  # a stop id was sampled; it is the last token of the stream
    LENGTH = "length"  # max_tokens or the context's end
    ABORT = "abort"  # the client went away or asked
    ERROR = "error"  # the engine could not go on; see TokenEvent.error


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The sampled token with its log probability, and the best tokens of its step, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """What a step gave one request. The last event of a stream, and only it, has `finish`."""

    request_id: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()  # parallel to tokens, or empty when off
    finish: FinishReason | None = None
    cached_tokens: int = 0  # prompt tokens that the prefix cache gave
    error: str | None = None
    lost: bool = False  # the error is the engine's, and the request can go on from its tokens
    refused: bool = False  # the error is the request's own: what it asks for cannot go on
    queued_seconds: float = field(default=0.0, compare=False)  # before it got a row; on the first event only
    more: bool = field(default=False, compare=False)  # of the stream is here already: its reader is behind


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine can hold; known once it is ready, constant after."""

    max_context: int  # prompt and generated tokens of one request, at most
    kv_tokens: int  # tokens of full-attention KV that fit
    max_rows: int  # requests that run at once
    vocab_size: int


STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)


class Histogram(NamedTuple):
    """How often values fell below or on each bound, and above the bound before; then how often above all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float  # of the values

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> Histogram:
        return cls(bounds, (0,) * (len(bounds) + 1), 0.0)

    def __add__(self, other: Histogram) -> Histogram:  # type: ignore[override]  # a sum, not a longer tuple
        """Both together; they have the same bounds."""
        counts = (a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(self.bounds, tuple(counts), self.total + other.total)


_NO_SECONDS, _NO_TOKENS = Histogram.of(STEP_SECONDS), Histogram.of(STEP_TOKENS)


class QueueLoad(NamedTuple):
    """Requests of one tenant and priority that the engine has."""

    priority: int
    tenant: str
    running: int
    waiting: int
    prompt_tokens: int  # of those that wait


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /metrics and /health. Counters grow for the engine's life."""

    running: int = 0
    waiting: int = 0
    kv_blocks_total: int = 0
    kv_blocks_free: int = 0
    kv_blocks_cached: int = 0  # unreferenced, but their content can still be hit
    kv_blocks_held: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    finished: dict[str, int] = field(default_factory=dict)  # by FinishReason value
    last_step_seconds: float = 0.0
    step_seconds: Histogram = _NO_SECONDS
    step_tokens: Histogram = _NO_TOKENS  # positions that steps computed
    seconds_since_step: float = 0.0  # 0 while idle: grows only when work waits and no step ends
    seconds_stalled: float = 0.0  # 0 while work moves, also within a step or a compilation: see engine.pulse
    restarts: int = 0  # of the engine, after deaths
    replays: int = 0  # requests that were given to a restarted engine
    arriving: int = 0  # requests under way to the engine, not yet counted above
    loads: tuple[QueueLoad, ...] = ()  # running and waiting, by priority and tenant
    row_limit: int = 0  # requests that run at once as things are; 0: not known
    answer_seconds: float = 0.0  # the engine's time for an average answer when as many run; 0: not known
    prompt_token_seconds: float = 0.0  # and for a token of a prompt
