"""Traces: spans in memory through the SDK, and one over a socket to a receiver of OTLP."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mosso_fakes import SECRET
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mosso.core.errors import EngineError
from mosso.server.tracing import Tracing, http_exporter, provider

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-oss-test", "messages": [{"role": "user", "content": f"say {SECRET}"}]}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(resource=Resource.create({}), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(self.provider, "gpt-oss-test")

    @property
    def requests(self):
        return [span for span in self.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]

    @property
    def sequences(self):
        return [span for span in self.exporter.get_finished_spans() if span.name == "generate"]


@pytest.fixture
def spans():
    made = Spans()
    yield made
    made.provider.shutdown()


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat(serve, spans, soon, stream) -> None:
    server = serve(watchers=[spans.tracing])
    body = BODY | {"seed": 7, "temperature": 0.5, "max_tokens": 40, "n": 2, "stream": stream}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "req-1"}
    response = server.post(CHAT, body, headers=headers)
    assert response.status_code == 200
    soon(lambda: spans.requests)
    (span,) = spans.requests
    assert span.name == "chat gpt-oss-test"
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    found = dict(span.attributes)
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < (span.end_time - span.start_time) / 1e9
    assert found.pop("gen_ai.response.id").startswith("chatcmpl-")
    usage = [found.pop(f"gen_ai.usage.{name}") for name in USAGE]
    if not stream:
        told = response.json()["usage"]
        assert usage == [
            told["prompt_tokens"],
            told["completion_tokens"],
            told["prompt_tokens_details"]["cached_tokens"],
            told["completion_tokens_details"]["reasoning_tokens"],
        ]
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mosso",
        "gen_ai.request.model": "gpt-oss-test",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 40,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 7,
        "gen_ai.response.model": "gpt-oss-test",
        "gen_ai.response.finish_reasons": ("stop", "stop"),
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "mosso.request.id": "req-1",
        "url.path": CHAT,
    }
    assert span.status.status_code is StatusCode.UNSET
    assert len(spans.sequences) == 2
    for sequence in spans.sequences:
        assert sequence.parent.span_id == span.context.span_id
        assert span.start_time <= sequence.start_time <= sequence.end_time <= span.end_time
        assert sequence.attributes["gen_ai.response.finish_reasons"] == ("stop",)
        assert sequence.attributes["gen_ai.usage.output_tokens"] > 0
    assert SECRET not in "".join(each.to_json() for each in spans.exporter.get_finished_spans())


USAGE = ("input_tokens", "output_tokens", "cache_read.input_tokens", "reasoning.output_tokens")


def test_without_a_parent_each_request_is_a_trace(serve, spans, soon) -> None:
    server = serve(watchers=[spans.tracing])
    server.post(CHAT, BODY)
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    server.http.get("/v1/models")
    server.http.get(CHAT)
    soon(lambda: len(spans.requests) == 2)
    one, two = spans.requests
    assert one.parent is None
    assert one.context.trace_id != two.context.trace_id
    assert two.name == "text_completion gpt-oss-test"


def test_a_clients_mistake_is_no_error_of_ours(serve, spans, soon) -> None:
    serve(watchers=[spans.tracing]).post(CHAT, {"messages": SECRET})
    soon(lambda: spans.requests)
    (span,) = spans.requests
    assert span.attributes["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET
    assert "gen_ai.request.max_tokens" not in span.attributes
    assert SECRET not in span.to_json()


def test_an_engine_that_fails_is_an_error(serve, spans, soon) -> None:
    server = serve(watchers=[spans.tracing])
    server.source.start_error = EngineError(f"burnt {SECRET}")
    assert server.post(CHAT, BODY).status_code == 500
    soon(lambda: spans.requests)
    (span,) = spans.requests
    assert span.attributes["error.type"] == "EngineError"
    assert span.status.status_code is StatusCode.ERROR
    (sequence,) = spans.sequences
    assert sequence.status.status_code is StatusCode.ERROR
    assert SECRET not in "".join(each.to_json() for each in spans.exporter.get_finished_spans())


def test_a_response_in_the_background_ends_its_span(serve, spans, soon) -> None:
    server = serve(watchers=[spans.tracing])
    begun = server.post("/v1/responses", {"input": "a", "background": True, "store": True}).json()
    soon(lambda: server.http.get(f"/v1/responses/{begun['id']}").json()["status"] == "completed")
    soon(lambda: spans.requests)
    assert len(spans.sequences) == 1
    assert spans.sequences[0].attributes["gen_ai.usage.output_tokens"] > 0


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, self.headers.get("content-encoding"), body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


def test_over_a_socket_to_a_collector(serve, monkeypatch, soon) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    with HTTPServer(("127.0.0.1", 0), Receiver) as collector:
        collector.got = []
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{collector.server_port}"
        with provider(http_exporter(f"{url}/")) as made:
            server = serve(watchers=[Tracing(made, "gpt-oss-test")])
            assert server.post(CHAT, BODY).status_code == 200
            soon(lambda: server.app.state.lifecycle.active == 0)
            server.stop()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with provider(http_exporter(None)) as made:
            made.get_tracer("t").start_span("by variable").end()
        collector.shutdown()
        thread.join()
    names = []
    for path, encoding, body in collector.got:
        assert (path, encoding) == ("/v1/traces", None)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            assert ("service.name", "ours") in [
                (each.key, each.value.string_value) for each in resource.resource.attributes
            ]
            names += [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["by variable", "chat gpt-oss-test", "generate"]
