"""Every setting of the engine, each with one default. Nothing here imports torch.

A setting is named after its flag: `token_budget` is `--token-budget`; errors name the flag. Settings that
depend on the device, and the sizes that a preset gives, are None until `resolved` has filled them in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from mosso.core.errors import UsageError
from mosso.engine.cores import usable_cores

MIB = 1 << 20
GIB = 1 << 30

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]
KVDtype = Literal["auto", "bfloat16", "float8"]
Experts = Literal["auto", "packed", "expanded"]
Preset = Literal["latency", "balanced", "throughput"]

EXPANDED_LIMIT = 512 * MIB
"""Where no kernel reads MXFP4 itself (no C compiler), `experts="auto"` expands up to this many bytes: the
demo and test models, never 20b."""

CPU_KV_MEMORY = 1024 * MIB
GPU_MEMORY = 0.93  # a share
LARGE_WEIGHTS = 32 * GIB
"""Above it a GPU has half the rows: their windows take what the weights left. For throughput it reads prompts
in longer steps, so that each of 128 experts has enough to do."""

LITTLE_ROOM = 4 * GIB
"""Where weights leave a GPU less, every preset has the sizes of `latency`: rows and long steps would take
what tokens need. So a GPU of 16 GB holds 20b and some 50,000 tokens."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a preset sets."""

    token_budget: int
    max_rows: int
    prefill_budget: int


PRESETS: dict[tuple[str, str], Sizes] = {
    ("cpu", "latency"): Sizes(token_budget=256, max_rows=16, prefill_budget=64),
    ("cpu", "balanced"): Sizes(token_budget=1024, max_rows=64, prefill_budget=1024),
    ("cpu", "throughput"): Sizes(token_budget=2048, max_rows=256, prefill_budget=2048),
    ("cuda", "latency"): Sizes(token_budget=2048, max_rows=64, prefill_budget=512),
    ("cuda", "balanced"): Sizes(token_budget=8192, max_rows=256, prefill_budget=2048),
    ("cuda", "throughput"): Sizes(token_budget=8192, max_rows=512, prefill_budget=8192),
}


def preset_sizes(preset: Preset, device: str, weight_bytes: int, memory: int | None = None) -> Sizes:
    """memory: bytes that may be taken on the device; None: enough."""
    if device == "cuda" and memory is not None and memory - weight_bytes < LITTLE_ROOM:
        preset = "latency"
    sizes = PRESETS[device, preset]
    if device == "cuda" and weight_bytes > LARGE_WEIGHTS:
        longer = 2 if preset == "throughput" else 1
        return Sizes(longer * sizes.token_budget, sizes.max_rows // 2, longer * sizes.prefill_budget)
    return sizes


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How one engine runs one model. Raises UsageError that names the flag at fault."""

    model: Path  # a checkpoint folder
    device: Device = "auto"  # auto: CUDA where there is such a device
    preset: Preset = "balanced"  # gives the sizes below that are None
    dtype: Dtype = "auto"  # auto: float32 on the CPU, bfloat16 on CUDA
    kv_dtype: KVDtype = "auto"  # of keys and values in memory; auto: what is computed in
    experts: Experts = "auto"  # packed: MXFP4; expanded: in `dtype`; auto: as stored, but see EXPANDED_LIMIT
    page_size: int = 16  # positions in one KV page
    token_budget: int | None = None  # tokens that one step computes, at most
    prefill_budget: int | None = None  # of these, prompt tokens beside rows that decode
    max_rows: int | None = None  # requests that run at once
    max_context: int | None = None  # prompt and generated tokens of one request; None: what fits
    gpu_memory: float = GPU_MEMORY  # all that the process takes on the device: a share (at most 1) or bytes
    kv_memory: int | None = (
        None  # bytes of KV cache, both groups; None: 1 GiB, on CUDA what gpu_memory leaves
    )
    threads: int | None = None  # CPU threads of one operation; None: the physical cores we may use
    prefix_cache: bool = True
    deterministic: bool = False  # on CUDA: results that do not depend on what shares a batch, more slowly
    background_rows: int | None = None  # of requests in the background beside others; None: an eighth
    max_slowdown: float | None = None  # so many requests run that a stream is as many times slower than alone
    max_waiting: int = 1024  # requests that queue before new ones are refused
    check: bool = False  # verify the scheduler's invariants after every step (slow)

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            choices = get_args(allowed)
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        self._require("page_size", self.page_size in (8, 16, 32, 64, 128, 256), "8, 16, 32, 64, 128 or 256")
        for name in ("token_budget", "prefill_budget", "max_rows", "kv_memory", "max_waiting"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        if self.token_budget is not None and self.max_rows is not None:
            self._require(
                "token_budget",
                self.token_budget >= self.max_rows,
                f"at least --max-rows ({self.max_rows}), so that every running request gets its next token",
            )
        self._require("max_context", self.max_context is None or self.max_context >= 2, "at least 2")
        self._require("max_slowdown", self.max_slowdown is None or self.max_slowdown >= 1, "at least 1")
        self._require(
            "background_rows", self.background_rows is None or self.background_rows >= 0, "at least 0"
        )
        self._require("threads", self.threads is None or 1 <= self.threads <= 1024, "1 to 1024")
        self._require(
            "gpu_memory", self.gpu_memory > 0, "more than 0: a share of the device's memory, or bytes"
        )
        if self.device == "cpu":
            self._require(
                "kv_dtype",
                self.kv_dtype in ("auto", self.dtype_name),
                f"auto or --dtype ({self.dtype_name}) on the CPU",
            )
        if self.device == "cuda":
            self._require("dtype", self.dtype != "float32", "bfloat16 on CUDA")
            self._require("experts", self.experts != "expanded", "packed on CUDA")

    def resolved(
        self, *, cuda: bool, weight_bytes: int = 0, device_memory: int | None = None
    ) -> EngineSettings:
        """With nothing left open but what only loading can tell (on CUDA, the KV memory).

        cuda: whether there is such a device. weight_bytes: of the model, as stored. device_memory: bytes that
        may be taken on it; None: enough.
        """
        device = ("cuda" if cuda else "cpu") if self.device == "auto" else self.device
        sizes = preset_sizes(self.preset, device, weight_bytes, device_memory)
        max_rows = self.max_rows or sizes.max_rows
        token_budget = self.token_budget or max(sizes.token_budget, max_rows)
        if self.max_rows is None:
            max_rows = min(max_rows, token_budget)
        return replace(
            self,
            device=device,
            max_rows=max_rows,
            token_budget=token_budget,
            prefill_budget=self.prefill_budget or min(sizes.prefill_budget, token_budget),
            kv_memory=self.kv_memory or (CPU_KV_MEMORY if device == "cpu" else None),
        )

    @property
    def suits_cuda(self) -> bool:
        """Nothing is asked that CUDA cannot do. Whether the experts are MXFP4 the checkpoint tells."""
        return self.device != "cpu" and self.dtype != "float32" and self.experts != "expanded"

    @property
    def num_threads(self) -> int:
        return self.threads if self.threads is not None else usable_cores()

    @property
    def rows(self) -> int:
        """max_rows of resolved settings."""
        assert self.max_rows is not None, "not resolved"
        return self.max_rows

    @property
    def budget(self) -> int:
        """token_budget of resolved settings."""
        assert self.token_budget is not None, "not resolved"
        return self.token_budget

    @property
    def dtype_name(self) -> str:
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def kv_dtype_name(self) -> str:
        return self.dtype_name if self.kv_dtype == "auto" else self.kv_dtype

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} must be {rule}; it is {getattr(self, name)}")


_CHOICES = {"device": Device, "preset": Preset, "dtype": Dtype, "kv_dtype": KVDtype, "experts": Experts}
