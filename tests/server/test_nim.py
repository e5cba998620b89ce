"""NIM's management paths."""

import mosso


def test_what_is_served(server):
    metadata = server.http.get("/v1/metadata").json()
    assert (metadata["id"], metadata["version"]) == ("gpt-oss-test", mosso.__version__)
    assert metadata["modelInfo"] == [{"modelUrl": "", "shortName": "gpt-oss-test"}]
    assert metadata["licenseInfo"] == server.http.get("/v1/license").json()
    assert server.http.get("/v1/license").json()["name"] == "Apache-2.0"
    assert server.http.get("/v1/version").json() == {"release": mosso.__version__, "api": "v1"}


def test_metrics_under_both_paths(server):
    for path in ("/metrics", "/v1/metrics"):
        answer = server.http.get(path)
        assert answer.headers["content-type"].startswith("text/plain")
        assert "vllm:num_requests_running" in answer.text
