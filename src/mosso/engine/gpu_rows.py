"""What the host knows of each device row: how its request samples. Arrays by row, gathered at once."""

from __future__ import annotations

import numpy as np

from mosso.core.requests import Request

MOST = np.iinfo(np.int32).max


class RowParams:
    """By row, the last one being the scratch row, which is greedy and has generated nothing."""

    def __init__(self, rows: int) -> None:
        self.scratch = rows - 1
        self.requests: list[Request | None] = [None] * rows
        self.temperature = np.zeros(rows, np.float32)
        self.top_p = np.ones(rows, np.float32)
        self.min_p = np.zeros(rows, np.float32)
        self.top_k = np.zeros(rows, np.int32)
        self.seed = np.zeros(rows, np.int64)
        self.prompt_len = np.ones(rows, np.int32)
        self.min_tokens = np.zeros(rows, np.int32)
        self.truncates = np.zeros(rows, np.bool_)
        self.shaped = np.zeros(rows, np.bool_)  # penalties or logit_bias
        self.logprobs = np.zeros(rows, np.bool_)

    def start(self, row: int, request: Request) -> None:
        params = request.sampling
        assert params.seed is not None, "the loop gives every request a seed"
        self.requests[row] = request
        self.temperature[row] = params.temperature
        self.top_p[row] = params.top_p
        self.min_p[row] = params.min_p
        self.top_k[row] = max(0, min(params.top_k, MOST))
        self.seed[row] = params.seed
        self.prompt_len[row] = len(request.prompt)
        self.min_tokens[row] = min(params.min_tokens, MOST) if params.stop_ids else 0
        self.truncates[row] = params.temperature > 0 and (
            params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        )
        self.shaped[row] = params.has_penalties or bool(params.logit_bias)
        self.logprobs[row] = params.logprobs is not None

    def request(self, row: int) -> Request:
        request = self.requests[row]
        assert request is not None, f"row {row} was never started"
        return request

    def outputs(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Tokens that each row generated up to its known token at `positions`."""
        return positions + 1 - self.prompt_len[rows]

    def all_plain(self, rows: np.ndarray, outputs: np.ndarray) -> bool:
        """Whether temperature is all that these rows ask for: such tokens are drawn without logits."""
        special = self.truncates[rows] | self.shaped[rows] | self.logprobs[rows]
        return not (special | (outputs < self.min_tokens[rows])).any()
