"""Prometheus metrics: vLLM's names where they exist, so its dashboards work; mosso's own beside them.

Each app has its own registry. Counters that the engine keeps are copied from its stats at scrape time.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from mosso.core.requests import EngineStats
from mosso.server.record import RequestRecord

MODEL = "model_name"
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_LATENCY = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 131_072)

# (name, help, how it is read from the stats)
_GAUGES = (
    ("vllm:num_requests_running", "Requests in the running batch.", lambda s: s.running),
    ("vllm:num_requests_waiting", "Requests that wait for room.", lambda s: s.waiting),
    ("vllm:kv_cache_usage_perc", "Share of KV blocks held by requests; 1 is full.", lambda s: _usage(s)),
    ("mosso:last_step_seconds", "Duration of the engine's latest step.", lambda s: s.last_step_seconds),
    (
        "mosso:seconds_since_step",
        "How long work has waited for a step to end.",
        lambda s: s.seconds_since_step,
    ),
    (
        "mosso:seconds_stalled",
        "How long the engine has not moved while work waits; liveness follows it.",
        lambda s: s.seconds_stalled,
    ),
)
_COUNTERS = (
    ("vllm:prompt_tokens", "Prompt tokens taken in.", lambda s: s.prompt_tokens),
    ("vllm:generation_tokens", "Tokens generated.", lambda s: s.generated_tokens),
    ("vllm:num_preemptions", "Requests that lost their KV and were computed again.", lambda s: s.preemptions),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda s: s.prompt_tokens),
    ("vllm:prefix_cache_hits", "Prompt tokens found there.", lambda s: s.cached_prompt_tokens),
    ("mosso:steps", "Engine steps.", lambda s: s.steps),
    ("mosso:engine_restarts", "Engines started after one that died.", lambda s: s.restarts),
    ("mosso:request_replays", "Requests that went on in a restarted engine.", lambda s: s.replays),
)


def _usage(stats: EngineStats) -> float:
    return stats.kv_blocks_held / stats.kv_blocks_total if stats.kv_blocks_total else 0.0


class Metrics:
    """All metrics of one app. It is the api room's Observer."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._engine = _EngineCollector(model)
        self.registry.register(self._engine)
        self._first = self._histogram("vllm:time_to_first_token_seconds", "Time to the first token.", _TTFT)
        self._between = self._histogram(
            "vllm:inter_token_latency_seconds", "Time between tokens of a request.", _BETWEEN
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

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, [MODEL], registry=self.registry, buckets=buckets).labels(self._model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, [MODEL, *labels], registry=self.registry)

    # Observer

    def started(self, *, prompt_tokens: int, choices: int, max_tokens: int) -> None:
        self._prompt.observe(prompt_tokens)
        self._n.observe(choices)
        self._max_tokens.observe(max_tokens)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def more_tokens(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self._between.observe(seconds / count)

    def finished(self, reason: str, *, generated_tokens: int, seconds: float) -> None:
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


class _EngineCollector(Collector):
    def __init__(self, model: str) -> None:
        self.stats: EngineStats | None = None
        self._model = model

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        stats = self.stats
        if stats is None:
            return
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=[MODEL])
            gauge.add_metric([self._model], float(value(stats)))
            yield gauge
        for name, text, value in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=[MODEL])
            counter.add_metric([self._model], float(value(stats)))
            yield counter
        blocks = GaugeMetricFamily("mosso:kv_blocks", "KV blocks, by state.", labels=[MODEL, "state"])
        for state in ("total", "free", "cached", "held"):
            blocks.add_metric([self._model, state], getattr(stats, f"kv_blocks_{state}"))
        yield blocks
        ended = CounterMetricFamily("mosso:engine_finished", "Engine requests.", labels=[MODEL, "reason"])
        for reason, count in stats.finished.items():
            ended.add_metric([self._model, reason], count)
        yield ended
