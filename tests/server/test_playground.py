"""The page and its files, without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mosso.server.playground import FOLDER


def test_the_page_and_all_that_it_names(server):
    page = server.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 3
    for path in named:
        got = server.http.get(path)
        assert got.status_code == 200, path
        assert got.content


def test_every_file_stands_under_a_policy_that_lets_nothing_in(server):
    for path in ("/", "/playground/icon.svg"):
        headers = server.http.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert set(policy.values()) <= {"'none'", "'self'"}
        assert headers["x-content-type-options"] == "nosniff"


def test_built_files_may_be_kept_for_ever(server):
    script = next(path for path in FOLDER.glob("assets/*.js"))
    first = server.http.get(f"/playground/assets/{script.name}")
    assert "immutable" in first.headers["cache-control"]
    again = server.http.get(first.request.url, headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert server.http.head(first.request.url).status_code == 200


@pytest.mark.parametrize("path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "assets/../../app.py"])
def test_no_way_out_of_the_folder(server, path):
    assert server.http.get(f"/playground/{path}").status_code == 404


def test_it_is_small_and_names_no_other_host():
    files = [path for path in Path(FOLDER).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3 << 20
    page = (FOLDER / "index.html").read_text()
    assert "://" not in page
