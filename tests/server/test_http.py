"""The wire itself: statuses, headers, bodies that no SDK would send, health and metrics."""

import json
import logging
from dataclasses import replace

import pytest

import mosso
from mosso.core.errors import EngineError, UnavailableError
from mosso.core.requests import EngineStats, Histogram

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}
JSON = {"content-type": "application/json"}


def error_of(response) -> dict:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return response.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b'{"messages": "\xff"}', b'{"temperature": NaN}',
     b'{"temperature": Infinity}', b'{"a":' * 5000 + b"1" + b"}" * 5000, b"[" * 100_000],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/detokenize"])
def test_bodies_that_are_no_json_object(server, path, body):
    response = server.http.post(path, content=body, headers=JSON)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_json"


@pytest.mark.parametrize(
    "body", [b"{}", b'{"messages": [], "model": 5}', b'{"prompt": {}}', b'{"tokens": "x"}']
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/detokenize"])
def test_bodies_that_are_no_request(server, path, body):
    assert server.http.post(path, content=body).status_code == 400


def test_a_body_over_the_limit(server):
    response = server.http.post(CHAT, content=b"x" * (50 << 20), headers=JSON)
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"
    assert server.post(CHAT, BODY).status_code == 200


def test_a_body_of_unknown_length_over_the_limit(serve):
    server = serve(max_body_bytes=100_000)
    sent = 0

    def pieces():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 10_000

    assert server.http.post(CHAT, content=pieces()).status_code == 413
    assert server.http.post(CHAT, content=iter([json.dumps(BODY).encode()])).status_code == 200


def test_a_long_body_is_translated_beside_the_event_loop(serve):
    server = serve(thread_body_bytes=10)
    assert server.post(CHAT, BODY).status_code == 200
    assert server.post(CHAT, BODY | {"n": 0}).status_code == 400


def test_unknown_paths_and_methods_have_the_same_shape(server):
    response = server.http.get("/v2/chat")
    assert response.status_code == 404
    assert error_of(response)["message"] == "Not Found: GET /v2/chat"
    assert error_of(response)["code"] == "not_found"
    response = server.http.get(CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert error_of(response)["code"] == "method_not_allowed"


def test_the_stream_on_the_wire(server):
    with server.http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        lines = list(response.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[::2])
    assert set(lines[1::2]) == {""}


def test_tokenize_and_back(server):
    made = server.post("/tokenize", {"prompt": "the Hallö"}).json()
    assert made["count"] == len(made["tokens"]) == 8
    assert "token_strs" not in made
    assert server.post("/detokenize", {"tokens": made["tokens"]}).json() == {"prompt": "the Hallö"}


def test_request_ids(server):
    given = server.http.get("/version", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    for bad in ("a b", "x" * 129, ""):
        made = server.http.get("/version", headers={"x-request-id": bad}).headers["x-request-id"]
        assert made.startswith("req_")


def test_one_log_line_a_request_without_its_text(server, caplog, soon):
    caplog.set_level(logging.INFO, logger="mosso.server")
    body = {"messages": [{"role": "user", "content": "my secret"}], "stream": True}
    server.post(CHAT, body, headers={"x-request-id": "logged"})
    soon(lambda: any("'logged'" in record.message for record in caplog.records))
    (record,) = [record for record in caplog.records if "'logged'" in record.message]
    assert record.mosso["status"] == 200
    assert record.mosso["completion_tokens"] > 0
    assert record.mosso["job"].startswith("chatcmpl-")
    assert "secret" not in caplog.text
    server.post(CHAT, {"nope": "secret"}, headers={"x-request-id": "refused"})
    soon(lambda: any("'refused'" in record.message for record in caplog.records))
    (record,) = [record for record in caplog.records if "'refused'" in record.message]
    assert (record.mosso["status"], record.mosso["error"]) == (400, "RequestError")


def test_probes_are_not_logged(server, caplog):
    caplog.set_level(logging.INFO, logger="mosso.server")
    server.http.get("/health")
    assert "health" not in caplog.text.replace("httpx", "")


def test_home_version_and_openapi(server):
    assert "<title>mosso</title>" in server.http.get("/").text
    assert server.http.get("/version").json() == {"version": mosso.__version__}
    document = server.http.get("/openapi.json").json()
    operation = document["paths"][CHAT]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ChatRequest"}
    assert set(operation["responses"]) == {"200", "400", "404", "413", "429", "500", "503"}
    assert "text/event-stream" in operation["responses"]["200"]["content"]
    assert references(document) <= {
        f"#/components/schemas/{name}" for name in document["components"]["schemas"]
    }
    assert server.http.get("/openapi.json").json() == document


def references(part) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


# Health


def health(server) -> dict[str, int]:
    paths = ("/health", "/v1/health/live", "/v1/health/ready")
    got = {path.rpartition("/")[2]: server.http.get(path) for path in paths}
    for response in got.values():
        assert response.json()["object"] == "health.response"
    return {name: response.status_code for name, response in got.items()}


def test_healthy(server):
    assert health(server) == {"health": 200, "live": 200, "ready": 200}
    assert server.http.get("/v1/health/ready").json() == {
        "object": "health.response", "message": "Service is ready.", "status": "ready"
    }  # fmt: skip


def test_a_loading_engine_is_alive_but_not_ready(serve):
    server = serve()
    server.source.limits_error = UnavailableError("The model is loading.")
    assert health(server) == {"health": 503, "live": 200, "ready": 503}
    assert server.post(CHAT, BODY).status_code == 503
    assert server.http.get("/v1/models").json()["data"][0]["max_model_len"] is None


@pytest.mark.parametrize("error", [UnavailableError("gone"), EngineError("burnt")])
def test_a_dead_engine_is_dead(serve, error):
    server = serve()
    server.source.stats_error = error
    assert health(server) == {"health": 503, "live": 503, "ready": 503}
    assert server.http.get("/metrics").status_code == 200


def test_an_engine_that_hangs_while_work_waits(serve):
    server = serve(stuck_seconds=5)
    server.source.stats_value = EngineStats(waiting=1, seconds_since_step=60, seconds_stalled=4)
    assert health(server) == {"health": 200, "live": 200, "ready": 200}
    server.source.stats_value = EngineStats(waiting=1, seconds_stalled=6)
    assert health(server) == {"health": 503, "live": 503, "ready": 503}


def test_an_engine_that_does_not_answer(serve, monkeypatch):
    import asyncio

    server = serve(stats_seconds=0.01)
    monkeypatch.setattr(server.source, "stats", lambda: asyncio.sleep(60))
    assert health(server) == {"health": 503, "live": 503, "ready": 503}
    assert b"vllm:num_requests_running{" not in server.http.get("/metrics").content


def test_draining_is_not_ready_and_takes_no_work(serve, gate):
    server = serve(drain_seconds=250)
    server.source.gate = held = gate(10)
    with server.http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
        server.app.state.lifecycle.drain()
        assert health(server) == {"health": 200, "live": 200, "ready": 503}
        refused = server.post(CHAT, BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        held.open()
        assert list(response.iter_lines())[-2] == "data: [DONE]"


# Metrics


def metric(server, name) -> float:
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith(name):
            return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


def test_metrics(serve, soon):
    server = serve("no header<|return|>")
    server.source.stats_value = replace(
        server.source.stats_value, running=3, generated_tokens=9, finished={"stop": 2}
    )
    server.post(CHAT, BODY)
    server.post(CHAT, {})
    label = 'model_name="gpt-oss-test"'
    soon(lambda: metric(server, f'mosso:http_requests_total{{{label},route="{CHAT}",status="400"}}') == 1)
    assert metric(server, f"vllm:num_requests_running{{{label}}}") == 3
    assert metric(server, f"vllm:generation_tokens_total{{{label}}}") == 9
    assert metric(server, f"vllm:kv_cache_usage_perc{{{label}}}") == 0.2
    assert metric(server, f'mosso:kv_blocks{{{label},state="free"}}') == 8
    assert metric(server, f"mosso:steps_total{{{label}}}") == 3
    assert metric(server, f'mosso:engine_finished_total{{{label},reason="stop"}}') == 2
    assert metric(server, f'vllm:request_success_total{{finished_reason="stop",{label}}}') == 1
    assert metric(server, f'mosso:repairs_total{{kind="missing_header",{label}}}') == 1
    assert metric(server, f"vllm:time_to_first_token_seconds_count{{{label}}}") == 1
    assert metric(server, f"vllm:inter_token_latency_seconds_count{{{label}}}") == 9
    assert metric(server, f"vllm:time_per_output_token_seconds_count{{{label}}}") == 9
    for name in ("queue", "prefill", "decode", "inference"):
        assert metric(server, f"vllm:request_{name}_time_seconds_count{{{label}}}") == 1
    assert metric(server, f"vllm:request_time_per_output_token_seconds_count{{{label}}}") == 1
    server.http.get("/v1/nowhere/1")
    soon(lambda: metric(server, f'mosso:http_requests_total{{{label},route="unmatched",status="404"}}') == 1)


DASHBOARD = """
e2e_request_latency_seconds_bucket prompt_tokens_total generation_tokens_total num_requests_running
inter_token_latency_seconds_bucket time_per_output_token_seconds_bucket
time_to_first_token_seconds_bucket num_requests_waiting kv_cache_usage_perc gpu_cache_usage_perc
request_prompt_tokens_bucket num_preemptions_total request_generation_tokens_bucket
request_queue_time_seconds_sum request_prefill_time_seconds_sum request_decode_time_seconds_sum
request_inference_time_seconds_count prefix_cache_queries_total prefix_cache_hits_total
iteration_tokens_total_bucket request_params_max_tokens_sum request_params_n_count
"""


def test_every_series_of_a_dashboard_is_there_before_the_first_request(serve):
    """Names that vLLM's own dashboards ask for."""
    lines = serve().http.get("/metrics").text.splitlines()
    for name in DASHBOARD.split():
        assert any(line.startswith(f"vllm:{name}{{") and "model_name=" in line for line in lines), name


def test_the_engines_steps_as_histograms(serve):
    server = serve()
    seconds = Histogram((0.5, 1.0), (3, 1, 2), 7.25)
    server.source.stats_value = EngineStats(step_seconds=seconds, restarts=2, replays=5)
    label = 'model_name="gpt-oss-test"'
    assert metric(server, f'mosso:step_seconds_bucket{{le="0.5",{label}}}') == 3
    assert metric(server, f'mosso:step_seconds_bucket{{le="1.0",{label}}}') == 4
    assert metric(server, f'mosso:step_seconds_bucket{{le="+Inf",{label}}}') == 6
    assert metric(server, f"mosso:step_seconds_count{{{label}}}") == 6
    assert metric(server, f"mosso:step_seconds_sum{{{label}}}") == 7.25
    assert metric(server, f"mosso:engine_restarts_total{{{label}}}") == 2
    assert metric(server, f"mosso:request_replays_total{{{label}}}") == 5


def test_an_empty_engine_uses_no_kv(serve):
    server = serve()
    server.source.stats_value = EngineStats()
    assert metric(server, "vllm:kv_cache_usage_perc") == 0


def test_apps_share_no_metrics(serve):
    one, two = serve(), serve()
    one.post(CHAT, BODY)
    assert metric(one, "vllm:request_success_total") == 1
    with pytest.raises(AssertionError):
        metric(two, "vllm:request_success_total")


def test_a_fault_of_ours_is_a_500_of_the_usual_shape(serve, caplog, monkeypatch):
    server = serve()
    monkeypatch.setattr(server.source, "script", None)
    response = server.post(CHAT, BODY)
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "unexpected error" in caplog.text


def test_the_event_loop_is_free_while_a_stream_waits(serve, gate):
    server = serve()
    server.source.gate = held = gate(10)
    with server.http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        assert server.http.get("/version").status_code == 200  # while the stream is open
        held.open()
        assert list(lines)[-2] == "data: [DONE]"
