"""The OpenAPI document is true: schemathesis finds no answer, whole or streamed, that it does not declare."""

import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from mosso_fakes import harmony, small_tokenizer

from mosso.core.errors import OverloadedError, UnavailableError
from mosso.core.requests import FinishReason, TokenEvent
from mosso.server.keys import FixedKeys, Key
from mosso.server.tenants import Tenants
from mosso.server.usage_store import UsageStore

HERE = Path(__file__).parent


KEY = "sk-mosso-ann"
TOKENIZER = small_tokenizer()


@pytest.fixture
def keyed(serve):
    """A server that needs the key."""
    usage = UsageStore()
    ann = Key("ann", (sha256(KEY.encode()).digest(),))
    yield serve(tenants=Tenants(FixedKeys(ann), usage), api={"aliases": ("demo",)})
    usage.close()


def schemathesis(url: str, *arguments: str) -> str:
    """What the tool says; its settings are those of this folder."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)  # half a minute on a machine that does nothing else
def test_every_check_of_schemathesis(serve):
    server = serve(api={"aliases": ("demo",)})
    server.source.batch = 8
    said = schemathesis(server.url, "--seed", "1")
    generated = re.search(r"(\d+) generated", said)
    assert generated
    assert int(generated[1]) > 2000


def test_every_check_where_a_key_is_needed(keyed):
    header = f"Authorization: Bearer {KEY}"
    keyed.source.batch = 8
    schemathesis(keyed.url, "--seed", "1", "--phases", "fuzzing", "-n", "5", "-H", header)


def burning(request):
    yield TokenEvent(request.id, harmony(TOKENIZER, "<|channel|>final<|message|>He"))
    yield TokenEvent(request.id, (), finish=FinishReason.ERROR, error="it burns")


@pytest.mark.parametrize(
    "trouble",
    [
        {"script": burning},
        {"limits_error": UnavailableError("The engine is starting.")},
        {"start_error": OverloadedError("full", retry_after=2)},
    ],
)
def test_what_is_answered_in_trouble_is_declared_too(serve, trouble):
    """Failures before the first token are statuses, those after it events."""
    server = serve(api={"aliases": ("demo",)})
    for name, value in trouble.items():
        setattr(server.source, name, value)
    without = ("--exclude-checks", "not_a_server_error")
    schemathesis(server.url, "--seed", "1", "--phases", "fuzzing", "-n", "5", *without)


def test_which_operations_need_a_key(keyed):
    assert keyed.http.get("/openapi.json").status_code == 401
    document = keyed.http.get("/openapi.json", headers={"x-api-key": KEY}).json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "x-api-key"}
    health, chat = document["paths"]["/health"]["get"], document["paths"]["/api/chat"]["post"]
    assert "security" not in health
    assert chat["security"] == [{"bearer": []}, {"x-api-key": []}]
    refused = chat["responses"]["401"]["content"]["application/json"]["schema"]
    assert refused == {"$ref": "#/components/schemas/OllamaError"}


def test_no_operation_has_the_frameworks_own_refusal(server):
    document = server.http.get("/openapi.json").json()
    answers = [operation["responses"] for item in document["paths"].values() for operation in item.values()]
    assert not any("422" in declared for declared in answers)
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", "ErrorResponse"),
        ("/v1/messages", "MessagesError"),
        ("/api/chat", "OllamaError"),
    ],
)
def test_errors_have_the_shape_of_their_dialect(server, path, shape):
    declared = server.http.get("/openapi.json").json()["paths"][path]["post"]["responses"]["400"]
    assert declared["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{shape}"}
