"""What the api room is told once, when the app is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from mosso.core.config import ModelConfig
from mosso.harmony.conversation import CHATGPT_IDENTITY, KNOWLEDGE_CUTOFF, Effort

ReasoningFields = Literal["both", "reasoning", "reasoning_content", "none"]


def today() -> str:
    """This machine's date, YYYY-MM-DD."""
    return datetime.now().astimezone().date().isoformat()


def unix_now() -> int:
    """Seconds since 1970, as the `created` fields want them."""
    return int(datetime.now().timestamp())


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What holds where a client says nothing; the checkpoint's generation_config, as a value."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is told of the model to clients that ask; `nbytes` of its weights, as stored."""

    config: ModelConfig
    nbytes: int
    quantization: str = "MXFP4"


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What files and batches may have. Sizes in bytes, times in seconds."""

    max_file_bytes: int = 200 << 20  # of one upload
    max_line_bytes: int = 32 << 20
    max_requests: int = 50_000  # of one batch
    max_active: int = 100  # batches of one scope that are not over
    concurrency: int | None = None  # requests of all batches at once; None: as many as the engine runs
    tick_seconds: float = 1.0  # how often a batch looks at the clock
    retry_seconds: float = 1.0  # before what failed for a while is tried again
    store_patience_seconds: float = 300.0  # a store that cannot write for so long ends the batch


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """`model` is the name that is served and listed; `aliases` are accepted beside it.

    `date` and `now` are the only clocks of this room: a test (or a person who wants prompts that never
    change) fixes them. `reasoning_fields` names the fields that carry the thinking, in messages and deltas.
    """

    model: str
    aliases: tuple[str, ...] = ()
    facts: ModelFacts | None = None
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    effort: Effort = Effort.MEDIUM
    reasoning_fields: ReasoningFields = "both"
    identity: str | None = CHATGPT_IDENTITY
    knowledge_cutoff: str | None = KNOWLEDGE_CUTOFF
    date: Callable[[], str] = today
    now: Callable[[], int] = unix_now
    max_choices: int = 128
    max_stops: int = 16
    max_thoughts: int = 8192
    max_thought_bytes: int = 64 << 20
    batches: BatchSettings = field(default_factory=BatchSettings)

    @property
    def model_names(self) -> tuple[str, ...]:
        return (self.model, *self.aliases)
