"""Keys over a real socket: who is let in, what each dialect is told, what of one owner another never sees."""

import json
from hashlib import sha256

import anthropic
import ollama
import openai
import pytest

from mosso.server.allowances import Limits
from mosso.server.keys import FixedKeys, Key, KeyFile
from mosso.server.tenants import EXPECTED_ANSWER, Tenants
from mosso.server.usage_store import UsageStore

HI = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
CALL = (
    "<|channel|>analysis<|message|>my secret<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>"
)
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def key(name: str, **limits: int) -> Key:
    return Key(name, (sha256(name.encode()).digest(),), limits=Limits(**limits))


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


class Clock:
    """A minute that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def usage():
    store = UsageStore()
    yield store
    store.close()


@pytest.fixture
def keyed(serve, usage):
    """keyed(*keys, script=..., **settings): a server that needs one of the keys; `tenants` is on it."""

    def start(*keys, **settings):
        usage.totals.clear()
        clock = Clock()
        tenants = Tenants(FixedKeys(*keys), usage, clock)
        script = {"script": settings.pop("script")} if "script" in settings else {}
        server = serve(tenants=tenants, **script, **settings)
        server.tenants, server.clock = tenants, clock
        return server

    return start


@pytest.fixture(scope="module")
def ann(serve_all, usage):
    """A server for all tests that use up nothing."""
    return serve_all(tenants=Tenants(FixedKeys(key("ann"), key("bob")), usage))


@pytest.mark.parametrize("headers", [bearer("ann"), {"authorization": "bearer  ann"}, {"x-api-key": "ann"},
                                     bearer("wrong") | {"x-api-key": "ann"}])  # fmt: skip
def test_a_key_opens(ann, headers):
    assert ann.post(CHAT, {"messages": HI}, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, bearer("eve"), {"x-api-key": ""}, {"authorization": "Basic ann"},
                                     {"authorization": "Bearer"}, bearer("annn"), bearer("an")])  # fmt: skip
def test_without_a_key_nothing_opens(ann, headers):
    before = len(ann.source.seen)
    answer = ann.post(CHAT, {"messages": HI}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert answer.headers["x-request-id"]
    assert len(ann.source.seen) == before


def test_every_dialect_says_so_in_its_own_way(ann):
    with (
        openai.OpenAI(base_url=f"{ann.url}/v1", api_key="eve", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"),
    ):
        client.models.list()
    with anthropic.Anthropic(base_url=ann.url, api_key="eve", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError) as raised:
            client.messages.create(model="test", messages=HI, max_tokens=5)
        assert raised.value.body["error"]["type"] == "authentication_error"
    with (
        ollama.Client(ann.url, headers=bearer("eve")) as client,
        pytest.raises(ollama.ResponseError, match="Incorrect API key provided") as raised,
    ):
        client.list()
    assert raised.value.status_code == 401


def test_every_dialect_sends_its_key(ann):
    with openai.OpenAI(base_url=f"{ann.url}/v1", api_key="ann") as client:
        assert client.chat.completions.create(model="test", messages=HI).choices
    with anthropic.Anthropic(base_url=ann.url, api_key="ann") as client:
        assert client.messages.create(model="test", messages=HI, max_tokens=500).content
    with ollama.Client(ann.url, headers=bearer("ann")) as client:
        assert client.chat("test", HI).message.content


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1/health/live", "/v1/health/ready", "/metrics", "/v1/metrics"]
)
def test_probes_are_open(ann, path):
    assert ann.http.get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/models", "/version", "/openapi.json", "/api/tags", "/no/such/path", "/health/"]
)
def test_all_else_is_closed(ann, path):
    assert ann.http.get(path).status_code == 401
    assert ann.http.head(path).status_code == 401
    assert ann.http.get(path, headers=bearer("ann")).status_code != 401


def test_metrics_may_be_closed(keyed):
    server = keyed(key("ann"), open_metrics=False)
    assert server.http.get("/metrics").status_code == 401
    assert server.http.get("/metrics", headers=bearer("ann")).status_code == 200


def test_the_log_knows_the_owner_and_never_the_key(keyed, caplog):
    caplog.set_level("INFO")
    server = keyed(Key("ann", (sha256(b"sk-mosso-secret").digest(),)))
    server.post(CHAT, {"messages": HI}, headers=bearer("sk-mosso-secret"))
    server.post(CHAT, {"messages": HI}, headers=bearer("sk-mosso-wrong"))
    assert "caller='ann'" in caplog.text
    assert "sk-mosso" not in caplog.text


def test_the_engine_is_told_whose_it_is(keyed):
    server = keyed(Key("ann", (sha256(b"ann").digest(),), priority=4))
    server.post(CHAT, {"messages": HI, "cache_salt": "s", "priority": 1}, headers=bearer("ann"))
    (seen,) = server.source.seen
    assert (seen.tenant, seen.cache_salt, seen.priority) == ("ann", "ann/s", 5)
    refused = server.post(CHAT, {"messages": HI, "priority": -1}, headers=bearer("ann"))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")


# What one owner never sees of another's


def test_responses_are_their_owners(ann):
    made = ann.post("/v1/responses", {"input": "hi"}, headers=bearer("ann")).json()
    path = f"/v1/responses/{made['id']}"
    assert ann.http.get(path, headers=bearer("ann")).status_code == 200
    for ask in (ann.http.get, ann.http.delete):
        assert ask(path, headers=bearer("bob")).status_code == 404
    assert ann.http.get(path + "/input_items", headers=bearer("bob")).status_code == 404
    assert ann.post(path + "/cancel", headers=bearer("bob")).status_code == 404
    follow = {"input": "and?", "previous_response_id": made["id"]}
    stolen = ann.post("/v1/responses", follow, headers=bearer("bob"))
    assert stolen.json()["error"]["code"] == "previous_response_not_found"
    assert ann.post("/v1/responses", follow, headers=bearer("ann")).status_code == 200


def test_background_responses_are_their_owners(ann):
    made = ann.post("/v1/responses", {"input": "hi", "background": True}, headers=bearer("ann")).json()
    path = f"/v1/responses/{made['id']}"
    assert ann.http.get(path, headers=bearer("bob")).status_code == 404
    assert ann.http.get(path, params={"stream": True}, headers=bearer("bob")).status_code == 404
    assert ann.http.get(path, headers=bearer("ann")).status_code == 200


def test_sealed_thinking_opens_for_its_owner_only(ann):
    body = {"input": "hi", "store": False, "include": ["reasoning.encrypted_content"]}
    items = ann.post("/v1/responses", body, headers=bearer("ann")).json()["output"]
    thinking = [item for item in items if item["type"] == "reasoning"]
    called = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    again = {"input": [*thinking, called, result], "store": False}
    assert ann.post("/v1/responses", again, headers=bearer("ann")).status_code == 200
    refused = ann.post("/v1/responses", again, headers=bearer("bob"))
    assert refused.json()["error"]["code"] == "invalid_encrypted_content"


def test_thinking_before_a_call_is_its_owners(keyed):
    server = keyed(key("ann"), key("bob"), script=CALL)
    made = server.post(CHAT, {"messages": HI, "tools": TOOLS}, headers=bearer("ann")).json()
    call = made["choices"][0]["message"]["tool_calls"][0]
    after = [*HI, {"role": "assistant", "tool_calls": [call]},
             {"role": "tool", "tool_call_id": call["id"], "content": "x"}]  # fmt: skip
    lengths = {}
    for name in ("ann", "bob"):
        server.post(CHAT, {"messages": after, "tools": TOOLS}, headers=bearer(name))
        lengths[name] = len(server.source.seen[-1].prompt)
    assert lengths["ann"] > lengths["bob"]


# Limits


def test_requests_a_minute_and_the_headers_that_tell(keyed):
    server = keyed(key("ann", requests_per_minute=2, tokens_per_minute=100_000))
    first = server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    total = first.json()["usage"]["total_tokens"]
    assert first.headers["x-ratelimit-limit-tokens"] == "100000"
    assert first.headers["x-ratelimit-remaining-tokens"] == str(100_000 - total)
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200
    refused = server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert server.http.get("/v1/models", headers=bearer("ann")).status_code == 200, "only generation counts"
    with anthropic.Anthropic(base_url=server.url, api_key="ann", max_retries=0) as client:
        with pytest.raises(anthropic.RateLimitError) as raised:
            client.messages.create(model="test", messages=HI, max_tokens=5)
        assert raised.value.body["error"]["type"] == "rate_limit_error"
    with (
        ollama.Client(server.url, headers=bearer("ann")) as client,
        pytest.raises(ollama.ResponseError, match="2 requests a minute") as raised,
    ):
        client.chat("test", HI)
    assert raised.value.status_code == 429
    server.clock.now += 30
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200


def test_a_clients_retry_meets_an_open_door(keyed):
    server = keyed(key("ann", requests_per_minute=1))
    server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
    server.clock.now += 59.5
    refused = server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
    assert refused.headers["retry-after"] == "1"
    server.clock.now += 1
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200


def test_one_owner_costs_another_nothing(keyed):
    server = keyed(key("ann", requests_per_minute=1), key("bob", requests_per_minute=1))
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 429
    assert server.post(CHAT, {"messages": HI}, headers=bearer("bob")).status_code == 200


def test_requests_at_once(keyed, gate, soon):
    server = keyed(key("ann", concurrency=1), key("bob", concurrency=1))
    server.source.gate = gate(13)
    body = {"messages": HI, "stream": True}
    with server.http.stream("POST", CHAT, json=body, headers=bearer("ann")) as open_stream:
        assert open_stream.status_code == 200
        refused = server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    soon(lambda: server.tenants.allowance("ann").open_requests == 0)
    server.source.gate.open()
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200


def test_tokens_of_a_stream_are_reserved_and_put_right_when_it_is_hung_up(keyed, gate, soon):
    server = keyed(key("ann", tokens_per_minute=10_000))
    server.source.gate = gate(13)
    body = {"messages": HI, "stream": True}
    with server.http.stream("POST", CHAT, json=body, headers=bearer("ann")) as answer:
        prompt = len(server.source.seen[0].prompt)
        left = int(answer.headers["x-ratelimit-remaining-tokens"])
        assert left == 10_000 - prompt - EXPECTED_ANSWER, "reserved when the stream begins"
        next(answer.iter_lines())
    soon(lambda: server.tenants.allowance("ann").used > 0)
    assert prompt < server.tenants.allowance("ann").used <= prompt + 14


def test_tokens_a_minute(keyed):
    server = keyed(key("ann", tokens_per_minute=2000))
    spent = server.post(CHAT, {"messages": HI}, headers=bearer("ann")).json()["usage"]["total_tokens"]
    for _ in range(100):
        answer = server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
        if answer.status_code == 429:
            break
        spent += answer.json()["usage"]["total_tokens"]
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert 0 < 2000 - spent < 1300
    server.clock.now += int(answer.headers["retry-after"])
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200


def test_a_prompt_over_the_minutes_limit_can_never_pass(keyed):
    server = keyed(key("ann", tokens_per_minute=50))
    refused = server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert refused.headers["x-ratelimit-remaining-tokens"] == "50"


def test_choices_share_the_cost_of_their_prompt(keyed):
    server = keyed(key("ann", tokens_per_minute=100_000))
    answer = server.post(CHAT, {"messages": HI, "n": 5}, headers=bearer("ann"))
    assert server.tenants.allowance("ann").used == answer.json()["usage"]["total_tokens"]
    body = {"prompt": ["the", "an an an"], "n": 3}
    before = server.tenants.allowance("ann").used
    answer = server.post("/v1/completions", body, headers=bearer("ann"))
    assert server.tenants.allowance("ann").used - before == answer.json()["usage"]["total_tokens"]


def test_a_quota_ends_and_stays_ended_after_a_restart(serve, tmp_path):
    path = tmp_path / "usage.sqlite3"

    def served(quota):
        store = UsageStore(path)
        server = serve(tenants=Tenants(FixedKeys(key("ann", token_quota=quota)), store))
        return server, store

    server, store = served(1)
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200
    store.close()
    server, store = served(1)
    refused = server.post(CHAT, {"messages": HI}, headers=bearer("ann"))
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == refused.json()["error"]["type"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="ann", max_retries=5) as client,
        pytest.raises(openai.RateLimitError, match="used its quota"),
    ):
        client.chat.completions.create(model="test", messages=HI)
    assert len(server.source.seen) == 0, "not even retried"
    store.close()
    server, store = served(10_000)
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 200
    store.close()


def test_responses_in_the_background_are_metered_too(keyed, soon):
    server = keyed(key("ann"))
    server.post("/v1/responses", {"input": "hi", "background": True}, headers=bearer("ann"))
    soon(lambda: server.tenants.allowance("ann").used)
    soon(lambda: server.tenants.allowance("ann").open_requests == 0)
    assert server.tenants.allowance("ann").used > len(server.source.seen[0].prompt)


def test_batches_are_metered_too(keyed, soon):
    server = keyed(key("ann"))
    line = {"custom_id": "1", "method": "POST", "url": CHAT, "body": {"model": "test", "messages": HI}}
    client = server.client.with_options(api_key="ann")
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    soon(lambda: client.batches.retrieve(batch.id).status == "completed")
    (seen,) = server.source.seen
    assert (seen.tenant, seen.cache_salt) == ("ann", "ann")
    assert server.tenants.allowance("ann").used > len(seen.prompt)


def test_what_the_engine_refuses_costs_no_tokens(keyed):
    from mosso.core.errors import OverloadedError

    server = keyed(key("ann"))
    server.source.start_error = OverloadedError("full", retry_after=3)
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 429
    assert server.tenants.allowance("ann").used == 0


def test_a_key_file_that_changes_while_the_server_runs(serve, usage, tmp_path):
    path, clock = tmp_path / "keys.toml", Clock()

    def write(name, **limits):
        lines = [f"[{name}]", f'sha256 = "{sha256(name.encode()).hexdigest()}"']
        path.write_text("\n".join(lines + [f"{limit} = {value}" for limit, value in limits.items()]))
        clock.now += 1

    write("ann", requests_per_minute=5)
    server = serve(tenants=Tenants(KeyFile(path, clock=clock), usage, Clock()))
    left = "x-ratelimit-remaining-requests"
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).headers[left] == "4"
    write("ann", requests_per_minute=3)
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).headers[left] == "1"
    write("bob")
    assert server.post(CHAT, {"messages": HI}, headers=bearer("ann")).status_code == 401
    assert left not in server.post(CHAT, {"messages": HI}, headers=bearer("bob")).headers
