"""HEAD is GET without the body."""

import pytest


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/health/ready", "/api/tags", "/api/version"])
def test_head_has_the_headers_of_get(server, path):
    got, asked = server.http.get(path), server.http.head(path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]
    assert asked.headers["content-type"] == got.headers["content-type"]


def test_what_cannot_be_got_cannot_be_headed(server):
    assert server.http.head("/v2").status_code == 404
    refused = server.http.head("/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert server.http.put("/v1/responses/x").headers["allow"] == "DELETE, GET"


def test_it_is_counted_under_its_route(serve):
    server = serve()
    server.http.head("/v1/models")
    assert 'route="/v1/models",status="200"} 1.0' in server.http.get("/metrics").text
