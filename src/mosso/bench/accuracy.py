"""How far the GPU path is from float32, beside plain bfloat16's own distance; and what may not change bits.

The reference is the plain paged forward pass (torch twins) in float32 on the same GPU; the same pass in
bfloat16 gives bfloat16's own error. Errors are relative: root mean square over the logits of a prompt's last
position, and the worst logit over the largest.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mosso.checkpoint import open_checkpoint
from mosso.core.config import ModelConfig
from mosso.kernels.operations import TWINS
from mosso.model.gpu_forward import GpuModel, GpuSpans, GpuStep, forward
from mosso.model.gpu_loading import load_gpu_weights
from mosso.model.gpu_operations import TRITON, GpuOperations, deterministic
from mosso.model.gpu_weights import GpuWeights
from mosso.model.inputs import StepInputs
from mosso.model.loading import load_weights
from mosso.model.paged import PagedKV
from mosso.model.paged import forward as paged_forward
from mosso.model.weights import Weights

PAGE = 16
LENGTHS = (1, 127, 128, 129, 4097, 20_000)
REFERENCE_CHUNK = 1024
BATCH = 64


@dataclass(frozen=True, slots=True)
class Error:
    rms: float
    worst: float

    @classmethod
    def of(cls, got: torch.Tensor, want: torch.Tensor) -> Error:
        got, want = got.double(), want.double()
        difference = got - want
        rms = difference.square().mean().sqrt() / want.square().mean().sqrt()
        return cls(float(rms), float(difference.abs().max() / want.abs().max()))


class GpuRows:
    """The GPU path with pages of its own for `rows` rows of up to `context` tokens."""

    def __init__(
        self,
        weights: GpuWeights,
        config: ModelConfig,
        rows: int,
        context: int,
        *,
        ops: GpuOperations = TRITON,
        kv_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        device, each = weights.device, -(-context // PAGE)
        kv = PagedKV.allocate(config, rows * each, rows * each, PAGE, kv_dtype, device)
        order = torch.randperm(rows * each, device=device).view(rows, each).int()
        tokens = torch.zeros(rows, context + 1, dtype=torch.int32, device=device)
        self.model = GpuModel(weights, config, kv, tokens, torch.stack((order, order)), ops)
        self.device = device

    def write(self, row: int, tokens: Sequence[int]) -> None:
        self.model.tokens[row, : len(tokens)] = self._int(tokens)

    @torch.inference_mode()
    def prefill(self, row: int, start: int, stop: int, chunk: int) -> torch.Tensor:
        """Logits [V] at position stop - 1 of a row whose tokens are written."""
        logits = torch.empty(0)
        for first in range(start, stop, chunk):
            last = min(first + chunk, stop)
            count = last - first
            step = GpuStep(
                rows=self._int([row] * count),
                positions=torch.arange(first, last, dtype=torch.int32, device=self.device),
                active=self._int([count]),
                decodes=0,
                spans=GpuSpans(self._int([row]), self._int([0, count]), self._int([last]), count),
                sample_at=self._int([count - 1]),
            )
            logits = self._logits(step)[0]
        return logits

    @torch.inference_mode()
    def decode(self, rows: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Logits [B, V] at one position of each row."""
        count = len(rows)
        return self._logits(GpuStep(self._int(rows), self._int(positions), self._int([count]), count))

    def _logits(self, step: GpuStep) -> torch.Tensor:
        model = self.model
        return model.ops.head(forward(model, step), model.weights.head, norm=model.head_norm)

    def _int(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)


def reference(weights: Weights, config: ModelConfig, tokens: Sequence[int]) -> torch.Tensor:
    """Logits [V] at the last position by the plain paged pass, in the weights' dtype."""
    device, length = weights.device, len(tokens)
    pages = -(-length // PAGE)
    kv = PagedKV.allocate(config, pages, pages, PAGE, weights.dtype, device)
    table = torch.arange(pages, dtype=torch.int32, device=device)[None]
    logits = torch.empty(0)
    for first in range(0, length, REFERENCE_CHUNK):
        last = min(first + REFERENCE_CHUNK, length)
        inputs = StepInputs(
            tokens=torch.tensor(tokens[first:last], device=device),
            positions=torch.arange(first, last, device=device),
            query_starts=torch.tensor([0, last - first], dtype=torch.int32, device=device),
            context_lens=torch.tensor([last], dtype=torch.int32, device=device),
            full_pages=table,
            window_pages=table,
            sample_at=torch.tensor([last - first - 1], device=device),
            counts=(last - first,),
            contexts=(last,),
        )
        logits = paged_forward(weights, config, kv, inputs, TWINS)[0]
    return logits


def measure(folder: Path, lengths: Sequence[int] = LENGTHS) -> Iterator[dict[str, Any]]:
    """Rows of the table, one after another. Needs a CUDA device and room for the weights three times."""
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda")
    with open_checkpoint(folder) as checkpoint:
        config = checkpoint.config
        gpu = load_gpu_weights(checkpoint, device)
        wide = load_weights(checkpoint, dtype=torch.float32, storage=torch.bfloat16, device=device)
        narrow = load_weights(checkpoint, dtype=torch.bfloat16, device=device)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, config.vocab_size, (max(lengths) + 1,), generator=generator).tolist()
    own = []
    for length in lengths:
        row = _against_float32(gpu, wide, narrow, config, drawn[:length])
        own.append(row["bfloat16_rms"])
        yield row
    middle = min(4097, max(lengths))
    for ops in (TRITON, deterministic(TRITON)):
        yield _chunks(gpu, config, drawn[:middle], ops, min(own))
    for ops in (TRITON, deterministic(TRITON)):
        yield _batches(gpu, config, drawn, ops, min(own))
    yield _eight_bits(gpu, wide, config, drawn[:middle])


def _against_float32(
    gpu: GpuWeights, wide: Weights, narrow: Weights, config: ModelConfig, tokens: Sequence[int]
) -> dict[str, Any]:
    rows = GpuRows(gpu, config, 1, len(tokens))
    rows.write(0, tokens)
    got = rows.prefill(0, 0, len(tokens), 8192)
    want, plain = reference(wide, config, tokens), reference(narrow, config, tokens)
    ours, own = Error.of(got, want), Error.of(plain, want)
    return {
        "what": f"{len(tokens)} tokens against float32",
        "rms": ours.rms,
        "worst": ours.worst,
        "bfloat16_rms": own.rms,
        "bfloat16_worst": own.worst,
        "within": ours.rms <= own.rms,
        "same_argmax": bool(got.argmax() == want.argmax()),
    }


def _chunks(
    gpu: GpuWeights, config: ModelConfig, tokens: Sequence[int], ops: GpuOperations, own: float
) -> dict[str, Any]:
    length = len(tokens)
    rows = GpuRows(gpu, config, 2, length, ops=ops)
    for row in (0, 1):
        rows.write(row, tokens)
    whole = rows.prefill(0, 0, length, length)
    rows.prefill(1, 0, length - 3, 500)
    cut = torch.stack([rows.decode([1], [position])[0] for position in range(length - 3, length)])[-1]
    return _agreement(f"{length} tokens whole and in chunks", cut, whole, ops, own)


def _batches(
    gpu: GpuWeights, config: ModelConfig, drawn: Sequence[int], ops: GpuOperations, own: float
) -> dict[str, Any]:
    """Each of BATCH rows, of different lengths, decoded alone and beside the others."""
    lengths = [1 + (37 * row) % 300 for row in range(BATCH)]
    rows = GpuRows(gpu, config, BATCH, max(lengths) + 1, ops=ops)
    for row, length in enumerate(lengths):
        rows.write(row, [drawn[(row * 997 + i) % len(drawn)] for i in range(length + 1)])
        rows.prefill(row, 0, length, 8192)
    together = rows.decode(range(BATCH), lengths)
    alone = torch.cat([rows.decode([row], [length]) for row, length in enumerate(lengths)])
    return _agreement(f"{BATCH} rows at once and one by one", together, alone, ops, own)


def _agreement(
    what: str, got: torch.Tensor, want: torch.Tensor, ops: GpuOperations, own: float
) -> dict[str, Any]:
    """Two ways to the same logits may differ by no more than `own`, the smallest of bfloat16's own errors."""
    error = Error.of(got, want)
    same = (got.argmax(-1) == want.argmax(-1)).float().mean()
    return {
        "what": what + (", deterministic" if ops.uniform else ""),
        "rms": error.rms,
        "worst": error.worst,
        "bfloat16_rms": own,
        "within": error.rms <= own,
        "equal_bits": bool(torch.equal(got, want)),
        "same_argmax": float(same),
    }


def _eight_bits(gpu: GpuWeights, wide: Weights, config: ModelConfig, tokens: Sequence[int]) -> dict[str, Any]:
    rows = GpuRows(gpu, config, 1, len(tokens), kv_dtype=torch.float8_e4m3fn)
    rows.write(0, tokens)
    got, want = rows.prefill(0, 0, len(tokens), 8192), reference(wide, config, tokens)
    error = Error.of(got, want)
    return {
        "what": f"{len(tokens)} tokens, keys and values in float8, against float32",
        "rms": error.rms,
        "worst": error.worst,
        "same_argmax": bool(got.argmax() == want.argmax()),
    }


def against_transformers(folder: Path, prompt: int = 100, output: int = 64) -> dict[str, Any]:
    """Greedy tokens of transformers' gpt-oss (experts expanded to bfloat16), and what we find likeliest."""
    transformers: Any = importlib.import_module("transformers")
    device = torch.device("cuda")
    with open_checkpoint(folder) as checkpoint:
        config = checkpoint.config
        gpu = load_gpu_weights(checkpoint, device)
        wide = load_weights(checkpoint, dtype=torch.float32, storage=torch.bfloat16, device=device)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
        device_map="cuda",
    )
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, config.vocab_size, (1, prompt), generator=generator).to(device)
    with torch.inference_mode():
        grown = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=output,
            do_sample=False,
            eos_token_id=None,
        )
        their_logits = theirs(grown).logits[0].float()
    tokens = grown[0].tolist()
    rows = GpuRows(gpu, config, 1, len(tokens))
    rows.write(0, tokens)
    ours = [rows.prefill(0, 0, prompt, 8192)]
    ours += [rows.decode([0], [position])[0] for position in range(prompt, len(tokens))]
    got, their = torch.stack(ours), their_logits[prompt - 1 :]
    want = torch.stack([reference(wide, config, tokens[:end]) for end in (prompt, len(tokens))])
    rms, their_rms = Error.of(got[[0, -1]], want).rms, Error.of(their[[0, -1]], want).rms
    return {
        "what": f"transformers' greedy {output} tokens",
        "same_argmax": float((got.argmax(-1) == their.argmax(-1)).float().mean()),
        "difference_rms": Error.of(got, their).rms,
        "rms": rms,
        "bfloat16_rms": their_rms,
        "within": rms <= their_rms,
    }
