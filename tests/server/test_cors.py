"""Browsers: no page of another origin may call, but those that are named."""

from hashlib import sha256

import pytest

from mosso.server.keys import FixedKeys, Key
from mosso.server.tenants import Tenants
from mosso.server.usage_store import UsageStore

CHAT = "/v1/chat/completions"
PAGE = "https://page.example"
BODY = {"messages": [{"role": "user", "content": "hi"}]}
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


def allowed(answer) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def test_off_by_default(server):
    assert allowed(server.post(CHAT, BODY, headers={"origin": PAGE})) is None
    preflight = server.http.options(CHAT, headers=PREFLIGHT)
    assert preflight.status_code == 405
    assert allowed(preflight) is None


@pytest.fixture
def keyed(serve):
    """With keys, limits, and one page that may call."""
    usage = UsageStore()
    keys = FixedKeys(Key("ann", (sha256(b"ann").digest(),)))
    yield serve(tenants=Tenants(keys, usage), cors_origins=(PAGE,))
    usage.close()


def test_a_named_page_may_call(keyed):
    preflight = keyed.http.options(CHAT, headers=PREFLIGHT)
    assert preflight.status_code == 200, "a preflight shows no key"
    assert allowed(preflight) == PAGE
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = keyed.post(CHAT, BODY, headers={"origin": PAGE, "authorization": "Bearer ann"})
    assert (answer.status_code, allowed(answer)) == (200, PAGE)
    assert "x-ratelimit-remaining-requests" in answer.headers["access-control-expose-headers"].lower()


def test_a_page_may_read_why_it_was_refused(keyed):
    answer = keyed.post(CHAT, BODY, headers={"origin": PAGE})
    assert (answer.status_code, allowed(answer)) == (401, PAGE)


def test_another_page_may_not(keyed):
    stranger = {"origin": "https://evil.example"}
    assert keyed.http.options(CHAT, headers=PREFLIGHT | stranger).status_code == 400
    assert allowed(keyed.post(CHAT, BODY, headers=stranger | {"authorization": "Bearer ann"})) is None


def test_every_page_may_where_all_are_named(serve):
    server = serve(cors_origins=("*",))
    assert allowed(server.post(CHAT, BODY, headers={"origin": PAGE})) == "*"
