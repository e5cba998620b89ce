"""The sampling fields that every generating endpoint shares, and their way into SamplingParams."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import Field

from mosso.api.caller import Caller
from mosso.api.settings import SamplingDefaults
from mosso.api.tiers import ServiceTier, rank_of
from mosso.api.wire import WireModel, WireRequest
from mosso.core.constraints import TurnConstraint
from mosso.core.errors import RequestError, UnsupportedError
from mosso.core.requests import Request, SamplingParams

MAX_TOP_LOGPROBS = 20
COLDEST = 1e-5  # below it, logits divided by the temperature leave float32; greedy is what it would mean
T = TypeVar("T")
SEED_BITS = 63
_SEED_STEP = 0x9E3779B97F4A7C15  # the golden ratio's bits: neighbouring choices get seeds far apart

StopText = Annotated[str, Field(min_length=1, max_length=1024)]


class StreamOptions(WireModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class SamplingFields(WireRequest):
    """Fields that mean the same in chat and in text completions."""

    model: str | None = None
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopText | list[StopText] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=64)
    ignore_eos: bool = False
    min_tokens: int = Field(0, ge=0)
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    service_tier: ServiceTier | None = None
    cache_salt: str = Field("", max_length=256)
    user: str | None = None  # no effect here, as at OpenAI

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def check_stream_options(fields: SamplingFields) -> None:
    options = fields.stream_options
    if options is None:
        return
    if not fields.stream:
        raise RequestError("stream_options is only allowed when stream is true.", param="stream_options")
    if options.include_obfuscation:
        raise UnsupportedError(
            "stream_options.include_obfuscation is not supported: chunks are never padded.",
            param="stream_options.include_obfuscation",
        )


def check_stop_strings(fields: SamplingFields, most: int) -> None:
    if len(fields.stop_strings) > most:
        raise RequestError(f"stop: at most {most} stop strings are allowed.", param="stop")


def sampling_params(
    fields: SamplingFields,
    defaults: SamplingDefaults,
    *,
    max_tokens: int,
    logprobs: int | None,
    stop_ids: frozenset[int],
    vocab_size: int,
) -> SamplingParams:
    """`stop_ids` are the model's own; `max_tokens` is already bounded by the context."""
    top_p = _given(fields.top_p, defaults.top_p)
    temperature = _given(fields.temperature, defaults.temperature)
    if fields.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens is {fields.min_tokens}, but at most {max_tokens} tokens can be generated.",
            param="min_tokens",
        )
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature if top_p > 0 and temperature >= COLDEST else 0.0,  # top_p 0: the best token
        top_p=top_p if top_p > 0 else 1.0,
        top_k=min(max(_given(fields.top_k, defaults.top_k), 0), vocab_size),
        min_p=_given(fields.min_p, defaults.min_p),
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        repetition_penalty=_given(fields.repetition_penalty, defaults.repetition_penalty),
        logit_bias=_logit_bias(fields, vocab_size),
        seed=None if fields.seed is None else fields.seed % (1 << SEED_BITS),
        min_tokens=fields.min_tokens,
        stop_ids=_stop_ids(fields, stop_ids, vocab_size),
        logprobs=logprobs,
    )


def choice_requests(
    job_id: str,
    prompt: tuple[int, ...],
    sampling: SamplingParams,
    fields: SamplingFields,
    caller: Caller,
    constraint: TurnConstraint | None = None,
) -> list[Request]:
    """The `n` engine requests of one prompt; they share it, and with it its cached prefix."""
    return [
        Request(
            id=f"{job_id}-{choice}",
            prompt=prompt,
            sampling=replace(sampling, seed=choice_seed(sampling.seed, choice)),
            priority=rank_of(caller, fields.priority, fields.service_tier),
            tenant=caller.scope,
            choice=choice,
            cache_salt=caller.salt(fields.cache_salt),
            constraint=constraint,
        )
        for choice in range(fields.n)
    ]


def choice_seed(seed: int | None, choice: int) -> int | None:
    """Choice 0 keeps the client's seed, so n=1 and the first of many give the same tokens."""
    return None if seed is None else (seed + choice * _SEED_STEP) % (1 << SEED_BITS)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _stop_ids(fields: SamplingFields, model_stop_ids: frozenset[int], vocab_size: int) -> frozenset[int]:
    extra = fields.stop_token_ids or []
    for position, token in enumerate(extra):
        if token >= vocab_size:
            raise RequestError(
                f"{token} is not a token id; ids end at {vocab_size - 1}.",
                param=f"stop_token_ids[{position}]",
            )
    return frozenset(extra) if fields.ignore_eos else model_stop_ids | frozenset(extra)


def _logit_bias(fields: SamplingFields, vocab_size: int) -> tuple[tuple[int, float], ...]:
    biases: dict[int, float] = {}
    for text, bias in (fields.logit_bias or {}).items():
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < vocab_size):
            raise RequestError(
                f"logit_bias: {text[:40]!r} is not a token id; ids are 0 to {vocab_size - 1}.",
                param="logit_bias",
            )
        biases[int(text)] = bias
    return tuple(sorted(biases.items()))
