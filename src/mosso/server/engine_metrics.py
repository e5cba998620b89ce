"""What the engine says of itself, as Prometheus metrics: copied from its stats when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mosso.core.requests import EngineStats, Histogram

MODEL = "model_name"
Read = Callable[[EngineStats], float]

# (name, help, how it is read from the stats)
_GAUGES: tuple[tuple[str, str, Read], ...] = (
    ("vllm:num_requests_running", "Requests in the running batch.", lambda s: s.running),
    ("vllm:num_requests_waiting", "Requests that wait for room.", lambda s: s.waiting),
    ("vllm:kv_cache_usage_perc", "Share of KV blocks held by requests; 1 is full.", lambda s: _usage(s)),
    ("vllm:gpu_cache_usage_perc", "The same, under its older name.", lambda s: _usage(s)),
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
    ("mosso:row_limit", "Requests that may run at once as things are.", lambda s: s.row_limit),
    (
        "mosso:waiting_prompt_tokens",
        "Prompt tokens of the requests that wait.",
        lambda s: sum(load.prompt_tokens for load in s.loads),
    ),
)
_COUNTERS: tuple[tuple[str, str, Read], ...] = (
    ("vllm:prompt_tokens", "Prompt tokens taken in.", lambda s: s.prompt_tokens),
    ("vllm:generation_tokens", "Tokens generated.", lambda s: s.generated_tokens),
    ("vllm:num_preemptions", "Requests that lost their KV and were computed again.", lambda s: s.preemptions),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda s: s.prompt_tokens),
    ("vllm:prefix_cache_hits", "Prompt tokens found there.", lambda s: s.cached_prompt_tokens),
    ("mosso:steps", "Engine steps.", lambda s: s.steps),
    ("mosso:engine_restarts", "Engines started after one that died.", lambda s: s.restarts),
    ("mosso:request_replays", "Requests that went on in a restarted engine.", lambda s: s.replays),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[EngineStats], Histogram]], ...] = (
    ("mosso:step_seconds", "Duration of the engine's steps.", lambda s: s.step_seconds),
    ("vllm:iteration_tokens_total", "Tokens that a step of the engine computed.", lambda s: s.step_tokens),
)


def _usage(stats: EngineStats) -> float:
    return stats.kv_blocks_held / stats.kv_blocks_total if stats.kv_blocks_total else 0.0


class EngineCollector(Collector):
    """`stats` is set before each exposition; None: the engine does not tell, and has no metrics."""

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
        for name, text, read in _HISTOGRAMS:
            yield self._histogram(name, text, read(stats))
        blocks = GaugeMetricFamily("mosso:kv_blocks", "KV blocks, by state.", labels=[MODEL, "state"])
        for state in ("total", "free", "cached", "held"):
            blocks.add_metric([self._model, state], getattr(stats, f"kv_blocks_{state}"))
        yield blocks
        ended = CounterMetricFamily("mosso:engine_finished", "Engine requests.", labels=[MODEL, "reason"])
        for reason, count in stats.finished.items():
            ended.add_metric([self._model, reason], count)
        yield ended

    def _histogram(self, name: str, text: str, values: Histogram) -> Metric:
        bounds = (*map(str, map(float, values.bounds)), "+Inf")
        family = HistogramMetricFamily(name, text, labels=[MODEL])
        buckets = list(zip(bounds, map(float, accumulate(values.counts)), strict=True))
        family.add_metric([self._model], buckets, values.total)
        return family


class OtherName(Collector):
    """Shows a histogram a second time, under the name by which older dashboards know it."""

    def __init__(self, metric: Collector, name: str) -> None:
        self._metric = metric
        self._name = name

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for family in self._metric.collect():
            renamed = Metric(self._name, family.documentation, family.type)
            renamed.samples = [
                sample._replace(name=sample.name.replace(family.name, self._name))
                for sample in family.samples
            ]
            yield renamed
