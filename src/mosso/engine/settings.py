"""Every setting of the engine, each with one default. Nothing here imports torch.

A setting is named after its flag: `token_budget` is `--token-budget`; errors name the flag.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mosso.core.errors import UsageError
from mosso.engine.cores import usable_cores

MIB = 1 << 20

Device = Literal["cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]
Experts = Literal["auto", "packed", "expanded"]

EXPANDED_LIMIT = 512 * MIB
"""Where no kernel reads MXFP4 itself (no C compiler), `experts="auto"` expands up to this many bytes: the
demo and test models, never 20b."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How one engine runs one model. Raises UsageError that names the flag at fault."""

    model: Path  # a checkpoint folder
    device: Device = "cpu"
    dtype: Dtype = "auto"  # auto: float32 on the CPU, bfloat16 on CUDA
    experts: Experts = "auto"  # packed: MXFP4; expanded: in `dtype`; auto: as stored, but see EXPANDED_LIMIT
    page_size: int = 16  # positions in one KV page
    token_budget: int = 1024  # tokens that one step computes, at most
    max_rows: int = 64  # requests that run at once
    max_context: int | None = None  # prompt and generated tokens of one request; None: what fits
    kv_memory: int = 1024 * MIB  # bytes of KV cache, both groups together
    threads: int | None = None  # CPU threads of one operation; None: the physical cores we may use
    prefix_cache: bool = True
    max_waiting: int = 1024  # requests that queue before new ones are refused
    check: bool = False  # verify the scheduler's invariants after every step (slow)

    def __post_init__(self) -> None:
        for name, allowed in (("device", Device), ("dtype", Dtype), ("experts", Experts)):
            self._require(
                name, getattr(self, name) in get_args(allowed), f"one of {', '.join(get_args(allowed))}"
            )
        self._require("page_size", self.page_size in (8, 16, 32, 64, 128, 256), "8, 16, 32, 64, 128 or 256")
        for name in ("token_budget", "max_rows", "kv_memory", "max_waiting"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require(
            "token_budget",
            self.token_budget >= self.max_rows,
            f"at least --max-rows ({self.max_rows}), so that every running request gets its next token",
        )
        self._require("max_context", self.max_context is None or self.max_context >= 2, "at least 2")
        self._require("threads", self.threads is None or 1 <= self.threads <= 1024, "1 to 1024")

    @property
    def num_threads(self) -> int:
        return self.threads if self.threads is not None else usable_cores()

    @property
    def dtype_name(self) -> str:
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.device == "cpu" else "bfloat16"

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} must be {rule}; it is {getattr(self, name)}")
