"""Prometheus metrics: vLLM's names where they exist, so its dashboards work; mosso's own beside them.

Each app has its own registry. Counters that the engine keeps are copied from its stats at scrape time.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import Scope

from mosso.core.requests import EngineStats
from mosso.server.engine_metrics import MODEL, EngineCollector, OtherName
from mosso.server.record import RequestRecord
from mosso.server.watching import note_end

_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_LATENCY = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 131_072)


class Metrics:
    """All metrics of one app. It is the api room's Observer."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._engine = EngineCollector(model)
        self.registry.register(self._engine)
        self._first = self._histogram("vllm:time_to_first_token_seconds", "Time to the first token.", _TTFT)
        self._between = self._histogram(
            "vllm:inter_token_latency_seconds",
            "Time between tokens of a request.",
            _BETWEEN,
            older="vllm:time_per_output_token_seconds",
        )
        self._mean = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time between a choice's tokens.", _BETWEEN
        )
        self._queued = self._histogram("vllm:request_queue_time_seconds", "Time before a row.", _LATENCY)
        self._prefill = self._histogram(
            "vllm:request_prefill_time_seconds", "Time from a row to the first token.", _LATENCY
        )
        self._decode = self._histogram(
            "vllm:request_decode_time_seconds", "Time from the first token to the last.", _LATENCY
        )
        self._inference = self._histogram(
            "vllm:request_inference_time_seconds", "Time from a row to the last token.", _LATENCY
        )
        self._latency = self._histogram("vllm:e2e_request_latency_seconds", "Time of a choice.", _LATENCY)
        self._prompt = self._histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self._generated = self._histogram("vllm:request_generation_tokens", "Tokens of a choice.", _TOKENS)
        self._max_tokens = self._histogram("vllm:request_params_max_tokens", "Allowed tokens.", _TOKENS)
        self._n = self._histogram("vllm:request_params_n", "Choices of a request.", (1, 2, 5, 10, 20))
        self._finished = self._counter(
            "vllm:request_success", "Choices, by how they ended.", "finished_reason"
        )
        self._repairs = self._counter("mosso:repairs", "Malformed Harmony headers mended.", "kind")
        self._not_stored = self._counter(
            "mosso:responses_not_stored", "Responses that the store could not keep."
        )
        self._http = self._counter("mosso:http_requests", "HTTP requests.", "route", "status")
        self._gone = self._counter("mosso:client_disconnects", "Clients that hung up before the end.")

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *, older: str | None = None
    ) -> Histogram:
        """`older`: another name under which it is shown too."""
        histogram = Histogram(name, text, [MODEL], registry=self.registry, buckets=buckets)
        if older is not None:
            self.registry.register(OtherName(histogram, older))
        return histogram.labels(self._model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, [MODEL, *labels], registry=self.registry)

    # Observer

    def started(self, *, prompt_tokens: int, choices: int, max_tokens: int) -> None:
        self._prompt.observe(prompt_tokens)
        self._n.observe(choices)
        self._max_tokens.observe(max_tokens)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def spent(self, *, queued: float, prefill: float, decode: float, tokens: int) -> None:
        self._queued.observe(queued)
        self._prefill.observe(prefill)
        self._decode.observe(decode)
        self._inference.observe(prefill + decode)
        if tokens > 1:
            self._mean.observe(decode / (tokens - 1))

    def more_tokens(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self._between.observe(seconds / count)

    def finished(self, reason: str, *, generated_tokens: int, seconds: float) -> None:
        note_end(reason)
        self._finished.labels(self._model, reason).inc()
        self._generated.observe(generated_tokens)
        self._latency.observe(seconds)

    def repaired(self, kind: str) -> None:
        self._repairs.labels(self._model, str(kind)).inc()

    def not_stored(self) -> None:
        self._not_stored.labels(self._model).inc()

    # Server

    def served(self, scope: Scope, record: RequestRecord) -> None:
        """`route` is the route's pattern, so that ids in paths make no new label values."""
        route = getattr(scope.get("route"), "path", "unmatched")
        self._http.labels(self._model, route, str(record.status)).inc()
        if record.gone:
            self._gone.labels(self._model).inc()

    def text(self, stats: EngineStats | None) -> bytes:
        """The exposition; without stats (the engine is not there) the engine's own metrics are left out."""
        self._engine.stats = stats
        return generate_latest(self.registry)
