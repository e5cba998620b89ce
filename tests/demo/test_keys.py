"""Two owners of keys on one demo: nothing that one's requests left behind serves the other."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI, RateLimitError

LONG = [{"role": "user", "content": "What is 3 plus 4? " + "Think of apples. " * 40}]


def new_key(*arguments: object) -> str:
    command = [sys.executable, "-m", "mosso.cli", "keys", "new", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def owners(serving_demo, tmp_path):
    """(server, a client of ann's, one of bob's), with nothing cached and nothing used up"""
    file = tmp_path / "keys.toml"
    keys = new_key(file, "ann"), new_key(file, "bob", "--token-quota", 2000)
    with serving_demo(tmp_path / "log", "--api-keys", str(file), "--log-level", "warning") as server:
        ann, bob = (server.client.with_options(api_key=key) for key in keys)
        yield server, ann, bob
    log = (tmp_path / "log").read_text()
    assert not any(key in log for key in keys)


def cached(client: OpenAI) -> int:
    answer = client.chat.completions.create(model="demo", messages=LONG, max_tokens=2)
    return answer.usage.prompt_tokens_details.cached_tokens


def test_a_cached_prefix_is_its_owners(owners) -> None:
    _, ann, bob = owners
    assert cached(ann) == 0
    assert cached(ann) > 0, "her own is found"
    assert cached(bob) == 0, "another's is not"
    assert cached(bob) > 0


def test_a_stored_response_is_its_owners(owners) -> None:
    _, ann, bob = owners
    made = ann.responses.create(model="demo", input="What is 3 plus 4?")
    assert ann.responses.retrieve(made.id).output_text == made.output_text
    with pytest.raises(NotFoundError):
        bob.responses.retrieve(made.id)


def test_strangers_and_those_who_have_used_up_their_share(owners) -> None:
    server, ann, bob = owners
    with pytest.raises(AuthenticationError):
        server.client.models.list()
    assert httpx.get(f"{server.url}/v1/health/ready", timeout=60).status_code == 200

    def use_up() -> None:
        for _ in range(20):
            cached(bob)

    with pytest.raises(RateLimitError) as raised:
        use_up()
    assert raised.value.code == "insufficient_quota"
    assert cached(ann) == 0, "she is served as before"
