"""OpenTelemetry traces with the GenAI conventions: a server span for each request, and below it one for each
sequence that the engine continued for it. Never with text.

Needs the extra `otel`; this module is imported only where traces are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers

import mosso
from mosso.core.requests import SamplingParams
from mosso.server.watching import Generation, Watch

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Implements server.watching.Watcher."""

    def __init__(self, provider: TracerProvider, model: str) -> None:
        self._tracer = provider.get_tracer("mosso", mosso.__version__)
        self._model = model

    def begun(self, watch: Watch, headers: Headers) -> None:
        """The client's span, if it names one (W3C traceparent), is the parent."""
        watch.notes[self] = self._tracer.start_span(
            f"{watch.operation} {self._model}",
            context=_PROPAGATOR.extract(headers),
            kind=SpanKind.SERVER,
            start_time=watch.begun_ns,
            attributes={
                "gen_ai.operation.name": watch.operation,
                "gen_ai.provider.name": "mosso",
                "gen_ai.request.model": self._model,
                "http.request.method": watch.record.method,
                "url.path": watch.record.path,
                "mosso.request.id": watch.record.id,
            },
        )

    def ended(self, watch: Watch) -> None:
        """Later calls tell of sequences only: a span that has ended stays as it is."""
        span: Span = watch.notes[self]
        for generation in watch.generations[watch.notes.get((self, "told"), 0) :]:
            self._sequence(watch, generation, span)
        watch.notes[self, "told"] = len(watch.generations)
        if span.is_recording():
            span.set_attributes(_known(_request_attributes(watch) | _answer_attributes(watch, self._model)))
            if (error := _error(watch)) is not None:
                span.set_attribute("error.type", error)
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    def _sequence(self, watch: Watch, generation: Generation, parent: Span) -> None:
        """A span of its own: its time in the queue, its first token, how it ended."""
        first = None if generation.first is None else generation.first - generation.begun
        span = self._tracer.start_span(
            "generate",
            context=set_span_in_context(parent),
            start_time=watch.unix_ns(generation.begun),
            attributes=_known(
                {
                    "mosso.sequence.id": generation.request.id,
                    "mosso.sequence.queued_seconds": generation.queued_seconds,
                    "gen_ai.response.time_to_first_chunk": first,
                    "gen_ai.usage.input_tokens": len(generation.request.prompt),
                    "gen_ai.usage.output_tokens": len(generation.tokens),
                    "gen_ai.usage.cache_read.input_tokens": generation.cached_tokens,
                    "gen_ai.response.finish_reasons": [generation.finish or "abort"],
                }
            ),
        )
        if generation.error is not None:
            span.set_status(Status(StatusCode.ERROR))
        assert generation.ended is not None
        span.end(watch.unix_ns(generation.ended))


def _request_attributes(watch: Watch) -> dict[str, AttributeValue | None]:
    if not watch.generations:
        return {}
    asked, count = watch.generations[0].request.sampling, len(watch.generations)
    return _sampling(asked) | {"gen_ai.request.choice.count": count if count > 1 else None}


def _sampling(asked: SamplingParams) -> dict[str, AttributeValue | None]:
    return {
        "gen_ai.request.max_tokens": asked.max_tokens,
        "gen_ai.request.temperature": asked.temperature,
        "gen_ai.request.top_p": asked.top_p,
        "gen_ai.request.top_k": asked.top_k or None,
        "gen_ai.request.frequency_penalty": asked.frequency_penalty or None,
        "gen_ai.request.presence_penalty": asked.presence_penalty or None,
        "gen_ai.request.seed": asked.seed,
    }


def _answer_attributes(watch: Watch, model: str) -> dict[str, AttributeValue | None]:
    record = watch.record
    found: dict[str, AttributeValue | None] = {
        "http.response.status_code": record.status or None,
        "gen_ai.response.id": record.job,
        "gen_ai.response.model": model if watch.generations else None,
        "gen_ai.response.finish_reasons": watch.reasons or None,
        "gen_ai.response.time_to_first_chunk": _first_seconds(watch),
    }
    if (usage := record.usage) is not None:
        found |= {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.prompt_tokens_details.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.completion_tokens_details.reasoning_tokens,
        }
    return found


def _first_seconds(watch: Watch) -> float | None:
    """From the request's arrival to the first token of any of its sequences."""
    firsts = [generation.first for generation in watch.generations if generation.first is not None]
    return min(firsts) - watch.record.started if firsts else None


def _error(watch: Watch) -> str | None:
    """The kind of what went wrong on our side; a client's own mistake is its status code."""
    record = watch.record
    if record.error is not None and not 400 <= record.status < 500:
        return record.error
    return str(record.status) if record.status >= 500 else None


def _known(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}


@contextmanager
def provider(exporter: SpanExporter) -> Iterator[TracerProvider]:
    """Sends spans in the background; what is left is sent at the end. OTEL_RESOURCE_ATTRIBUTES and
    OTEL_SERVICE_NAME say who sends them."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    attributes = {"service.version": mosso.__version__} | ({} if named else {SERVICE_NAME: "mosso"})
    made = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield made
    finally:
        made.shutdown()


def http_exporter(endpoint: str | None) -> SpanExporter:
    """OTLP over HTTP to the collector at `endpoint`; None: where the OTEL_EXPORTER_OTLP_* variables say."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
