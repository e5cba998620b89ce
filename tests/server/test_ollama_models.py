"""What Ollama's clients ask about models: lists, details, pulls, and what is refused."""

import json

import ollama
import pytest
from mosso_fakes import small_tokenizer

import mosso
from mosso.api.settings import ModelFacts
from mosso.core.config import GPT_OSS_20B
from mosso.core.errors import UnavailableError

TOKENIZER = small_tokenizer()


@pytest.fixture(scope="module")
def shown(server):
    with ollama.Client(server.url) as client:
        yield client.show("test:latest")


def test_what_is_served(serve):
    server = serve(api={"facts": ModelFacts(GPT_OSS_20B, 13_761_300_984)})
    with ollama.Client(server.url) as client:
        first, second = client.list().models
        assert (first.model, second.model) == ("gpt-oss-test", "test")
        assert first.digest == second.digest
        assert first.size == 13_761_300_984
        assert (first.details.parameter_size, first.details.quantization_level) == ("20.9B", "MXFP4")
        (loaded,) = client.ps().models
        assert (loaded.model, loaded.context_length, loaded.size_vram) == ("gpt-oss-test", 4096, first.size)
        assert loaded.expires_at.year == 2318
        info = client.show("test").modelinfo
        assert info["general.parameter_count"] == 20_914_757_184
        assert info["gptoss.expert_count"] == 32


def test_show_has_what_editors_read(shown):
    assert shown.capabilities == ["completion", "tools", "thinking"]
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] == 4096
    assert shown.modelinfo["general.basename"] == "test"
    assert shown.details.family == "gptoss"


def test_show_takes_the_old_field(server):
    assert (
        server.post("/api/show", {"name": "test"}).json()
        == server.post("/api/show", {"model": "test"}).json()
    )


@pytest.mark.parametrize("path", ["/api/show", "/api/pull"])
def test_other_models_are_not_here(server, path):
    refused = server.post(path, {"model": "llama3"})
    assert refused.status_code == 404
    assert "llama3" in refused.json()["error"]


def test_a_model_is_listed_before_the_engine_is_ready(serve):
    server = serve()
    server.source.limits_error = UnavailableError("The engine is starting.")
    assert server.http.get("/api/ps").json()["models"][0]["context_length"] == 0
    assert server.post("/api/show", {"model": "test"}).json()["model_info"]["gptoss.context_length"] == 0


def test_pulling_the_served_model_is_done_at_once(server):
    with ollama.Client(server.url) as client:
        assert client.pull("test").status == "success"
        assert [step.status for step in client.pull("test", stream=True)] == ["pulling manifest", "success"]
        with pytest.raises(ollama.ResponseError, match="llama3") as caught:
            client.pull("llama3")
    assert caught.value.status_code == 404


def test_the_version_is_one_that_clients_take(server):
    told = server.http.get("/api/version").json()
    assert told["mosso"] == mosso.__version__
    assert tuple(map(int, told["version"].split("."))) >= (0, 13, 4)  # what Codex wants for Responses


def test_what_is_not_here_says_why(server):
    with ollama.Client(server.url) as client:
        asked = [
            lambda: client.embed("test", "hello"),
            lambda: client.embeddings("test", "hello"),
            lambda: client.copy("test", "other"),
            lambda: client.delete("test"),
            lambda: client.push("test"),
            lambda: client.create("mine", from_="test"),
        ]
        for ask in asked:
            with pytest.raises(ollama.ResponseError, match="is not supported: ") as caught:
                ask()
            assert caught.value.status_code == 400


def test_unknown_paths_have_the_dialects_error(server):
    assert server.post("/api/blobs", {}).json() == {"error": "Not Found: POST /api/blobs"}


def test_asking_for_nothing_loads_the_model(server):
    with ollama.Client(server.url) as client:
        assert client.generate("test").done_reason == "load"
        assert client.chat("test", []).done_reason == "load"
        assert [part.done for part in client.chat("test", [], stream=True)] == [True]
        with pytest.raises(ollama.ResponseError, match="llama3"):
            client.generate("llama3")
    assert json.loads(server.post("/api/generate", {"model": "test", "keep_alive": 0}).text)["done"] is True
