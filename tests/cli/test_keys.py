"""`mosso keys`, and the flags of `mosso serve` that say who may use it."""

from __future__ import annotations

import logging
import socket
import stat
from hashlib import sha256

import pytest

from mosso.cli.access import Access, _keys, open_tenants, take_access, warn_of_strangers
from mosso.cli.stores import default_path
from mosso.core.errors import UsageError
from mosso.server.allowances import Limits
from mosso.server.keys import FixedKeys, KeyRing, read_keys

OPTIONS = {"tls_cert": None, "tls_key": None, "cors_origins": (), "api_keys": None, "metrics": "open"}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.toml"


def test_a_new_key_is_printed_once_and_kept_as_a_hash(run, file):
    made = run("keys", "new", file, "ann", "--requests-per-minute", 60, "--token-quota", 1000)
    assert made.exit_code == 0
    secret = made.output.strip()
    assert secret not in file.read_text()
    assert sha256(secret.encode()).hexdigest() in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = KeyRing(read_keys(file)).find(secret.encode())
    assert (found.name, found.limits) == ("ann", Limits(requests_per_minute=60, token_quota=1000))


def test_a_key_for_the_variable_needs_no_file(run, monkeypatch):
    monkeypatch.setenv("MOSSO_API_KEY", run("keys", "new").output)
    keys = take_access(dict(OPTIONS)).keys
    assert keys.ring.find(b"x") is None
    assert keys.ring.named("default") is not None


def test_names_are_listed_replaced_and_removed(run, file):
    first = run("keys", "new", file, "ann", "--concurrency", 2).output.strip()
    run("keys", "new", file, "bob", "--priority", 5)
    file.write_text("# who may\n" + file.read_text())
    assert run("keys", "list", file).output == "ann concurrency=2\nbob priority=5\n"
    second = run("keys", "new", file, "ann", "--another").output.strip()
    ring = KeyRing(read_keys(file))
    assert ring.find(first.encode()) is ring.find(second.encode()) is ring.named("ann")
    assert run("keys", "list", file).output.startswith("ann keys=2 concurrency=2\n")
    assert run("keys", "remove", file, "ann").exit_code == 0
    assert run("keys", "list", file).output == "bob priority=5\n"
    assert file.read_text().startswith("# who may\n"), "a person's own words stay"
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing is left beside it"
    run("keys", "remove", file, "bob")
    none = run("keys", "list", file)
    assert (none.stdout, none.stderr) == ("", "no keys\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "{file}"], "NAME is missing"),
        (["new", "{file}", "a/b"], "must be named by"),
        (["new", "{file}", "ann"], "already; --another"),
        (["new", "{file}", "eve", "--another"], "no key named 'eve'"),
        (["new", "{file}", "ann", "--another", "--concurrency", "1"], "limits belong to the name"),
        (["new", "--concurrency", "1"], "limits are kept in FILE"),
        (["new", "{file}/x", "ann"], "cannot write"),
        (["new", "{file}x", "ann", "--another"], "cannot read"),
        (["list", "{file}x"], "cannot read"),
        (["remove", "{file}", "eve"], "no key named 'eve'"),
    ],
)
def test_mistakes_are_named_and_change_nothing(run, file, arguments, said):
    run("keys", "new", file, "ann")
    before = file.read_text()
    result = run("keys", *[argument.replace("{file}", str(file)) for argument in arguments])
    assert result.exit_code == 1
    assert said in result.output
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_broken_file_is_not_made_worse(run, file):
    file.write_text("[ann]\nsha256 = 5\n")
    result = run("keys", "new", file, "bob")
    assert "[ann] sha256 must be" in result.output
    assert file.read_text() == "[ann]\nsha256 = 5\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tls_key": "key.pem"}, "--tls-key needs --tls-cert"),
        ({"cors_origins": ("example.org",)}, "--cors-origin example.org"),
        ({"cors_origins": ("https://example.org/",)}, "without a path"),
    ],
)
def test_wrong_flags_of_serve_are_named(options, said):
    with pytest.raises(UsageError, match=said):
        take_access(OPTIONS | options)


def test_right_flags_of_serve(run, file, monkeypatch):
    monkeypatch.delenv("MOSSO_API_KEY", raising=False)
    assert take_access(dict(OPTIONS)) == Access(None, None, open_metrics=True, cors_origins=())
    run("keys", "new", file, "ann")
    monkeypatch.setenv("MOSSO_API_KEY", "from the variable")
    access = take_access(OPTIONS | {"api_keys": file, "metrics": "keyed", "cors_origins": ("*",)})
    assert access.keys.ring.named("ann")
    assert access.keys.ring.find(b"from the variable").name == "default"
    assert (access.open_metrics, access.cors_origins) == (False, ("*",))
    monkeypatch.setenv("MOSSO_API_KEY", "")
    with pytest.raises(UsageError, match="MOSSO_API_KEY is empty"):
        take_access(dict(OPTIONS))


def test_serve_names_a_key_file_that_is_broken(run, file):
    file.write_text("[ann]\n")
    result = run("serve", "--port", 0, "--api-keys", file)
    assert result.exit_code == 1
    assert "[ann] sha256 is missing" in result.output


KEYED = Access(_keys(None, "secret"), None, open_metrics=True, cors_origins=())


def used(access, store, port) -> int:
    with open_tenants(access, store, port) as tenants, tenants.allowance("default").tokens(0, 1) as meter:
        meter.used = 1
    with open_tenants(access, store, port) as tenants:
        return tenants.allowance("default").used


def test_usage_is_kept_beside_the_store_of_responses(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    default_path(8000).parent.mkdir(parents=True)
    assert used(KEYED, tmp_path / "own.sqlite3", 8000) == 1
    assert used(KEYED, None, 8000) == 1
    assert used(KEYED, None, 8000) == 2
    assert used(KEYED, None, 0) == 0, "a server on any port keeps nothing"
    assert caplog.records == []
    with open_tenants(Access(None, None, True, ()), None, 8000) as tenants:
        assert tenants is None


def test_usage_that_cannot_be_kept(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "none"))
    assert used(KEYED, None, 8000) == 0
    assert "kept in memory only" in caplog.text
    with (
        pytest.raises(UsageError, match="cannot keep the usage"),
        open_tenants(KEYED, tmp_path / "no" / "x", 8000),
    ):
        pass


@pytest.mark.parametrize(
    ("host", "access", "warned"),
    [
        ("127.0.0.1", Access(None, None, True, ()), False),
        ("0.0.0.0", Access(None, None, True, ()), True),
        ("0.0.0.0", KEYED, False),
    ],
)
def test_strangers_who_need_no_key_are_warned_of(host, access, warned, caplog):
    caplog.set_level(logging.WARNING)
    with socket.socket() as sock:
        sock.bind((host, 0))
        warn_of_strangers(access, sock)
    assert ("whoever reaches any address of this machine" in caplog.text) is warned


def test_the_keys_of_a_variable_never_change():
    assert isinstance(KEYED.keys, FixedKeys)
