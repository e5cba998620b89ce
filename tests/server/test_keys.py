"""API keys: their file, read again when it changes, and whose a secret is."""

import logging
import os
from hashlib import sha256

import pytest

from mosso.core.errors import UsageError
from mosso.server.allowances import Limits
from mosso.server.keys import (
    LOOK_SECONDS,
    Key,
    KeyFile,
    KeyRing,
    digest_of,
    key_of_variable,
    new_secret,
    read_keys,
)

ANN, BOB = b"sk-mosso-ann", b"sk-mosso-bob"
HEX = {secret: sha256(secret).hexdigest() for secret in (ANN, BOB, b"other")}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(f'[ann]\nsha256 = "{HEX[ANN]}"\n')
    return path


@pytest.fixture
def clock():
    return Clock()


def test_a_secret_opens_for_its_owner_only():
    ann, bob = Key("ann", (digest_of(ANN), digest_of(b"new"))), Key("bob", (digest_of(BOB),))
    ring = KeyRing([ann, bob])
    assert [ring.find(secret) for secret in (ANN, b"new", BOB)] == [ann, ann, bob]
    for stranger in (b"", b"sk-mosso-ann ", HEX[ANN].encode(), digest_of(ANN)):
        assert ring.find(stranger) is None
    assert ring.named("bob") is bob
    assert ring.named("eve") is None


def test_every_key_is_compared_whoever_asks(monkeypatch):
    compared = []
    monkeypatch.setattr("mosso.server.keys.compare_digest", lambda a, b: compared.append(a) or a == b)
    ring = KeyRing([Key(name, (digest_of(name.encode()),)) for name in "abcd"])
    for secret in (b"a", b"d", b"none"):
        compared.clear()
        ring.find(secret)
        assert len(compared) == 4


def test_secrets_are_long_and_never_the_same():
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("sk-mosso-") and len(secret) >= 9 + 43 for secret in secrets)


def test_all_settings_of_a_key(file):
    file.write_text(
        f'# for the reader\n["bob_2-x"]\nsha256 = ["{HEX[BOB]}", "{HEX[ANN]}"]\npriority = -3\n'
        "requests_per_minute = 6\ntokens_per_minute = 1_000\nconcurrency = 2\ntoken_quota = 5\n"
    )
    assert read_keys(file) == [Key("bob_2-x", (digest_of(BOB), digest_of(ANN)), -3, Limits(6, 1000, 2, 5))]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[ann", "keys.toml"),
        pytest.param("ann = " + "[" * 5000, "nested too deeply", id="deep"),
        ("ann = 1", r"\[ann\] must be a table"),
        ('["a/b"]\nsha256 = "x"', "must be named by"),
        ("[ann]\npriority = 1", r"\[ann\] sha256 is missing"),
        ('[ann]\nsha256 = "secret"', "sha256 must be 64 hexadecimal digits"),
        ("[ann]\nsha256 = []", "sha256 must be"),
        ("[ann]\nsha256 = [1]", "sha256 must be"),
        ('[ann]\nsha256 = "{ann}"\nconcurency = 1', "concurency: no such setting"),
        ('[ann]\nsha256 = "{ann}"\nconcurrency = 0', "concurrency must be a whole number from 1 on"),
        ('[ann]\nsha256 = "{ann}"\ntoken_quota = 1.5', "token_quota must be a whole number"),
        ('[ann]\nsha256 = "{ann}"\npriority = true', "priority must be a whole number"),
        ('[ann]\nsha256 = "{ann}"\n[bob]\nsha256 = "{ann}"', "'ann' and 'bob' have the same API key"),
    ],
)
def test_what_is_wrong_is_named(file, text, fault):
    file.write_text(text.replace("{ann}", HEX[ANN]))
    with pytest.raises(UsageError, match=fault) as raised:
        read_keys(file)
    assert "secret" not in str(raised.value)


def test_bytes_that_are_no_text(file):
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"keys\.toml"):
        read_keys(file)


def test_a_changed_file_is_read_again(file, clock, caplog):
    caplog.set_level(logging.INFO)
    keys = KeyFile(file, clock=clock)
    assert keys.ring.find(ANN).name == "ann"
    file.write_text(f'[robert]\nsha256 = "{HEX[BOB]}"\n')  # of another length: a clock's ticks may be long
    assert keys.ring.find(ANN), "not looked at yet"
    clock.now += LOOK_SECONDS
    assert keys.ring.find(ANN) is None
    assert keys.ring.find(BOB).name == "robert"
    ring = keys.ring
    clock.now += LOOK_SECONDS
    assert keys.ring is ring, "an unchanged file is not read"
    assert caplog.text.count("read again") == 1


def test_a_file_that_is_put_in_the_place_of_the_old_one(file, clock):
    keys = KeyFile(file, clock=clock)
    before = file.stat()
    fresh = file.with_name("fresh")
    fresh.write_text(f'[bob]\nsha256 = "{HEX[BOB]}"\n')
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.replace(file)
    clock.now += LOOK_SECONDS
    assert keys.ring.find(BOB)


@pytest.mark.parametrize("breaking", ["broken", "gone"])
def test_a_broken_file_keeps_the_old_keys_and_says_so_once(file, clock, caplog, breaking):
    keys = KeyFile(file, clock=clock)
    whole = file.read_text()
    if breaking == "broken":
        file.write_text("[ann]\nsha256 = 7\n")
    else:
        file.unlink()
    for _ in range(3):
        clock.now += LOOK_SECONDS
        assert keys.ring.find(ANN)
    assert [record.message for record in caplog.records if "stay as they were" in record.message] != []
    assert len(caplog.records) == 1
    file.write_text(whole.replace("[ann]", "[evelyn]"))
    clock.now += LOOK_SECONDS
    assert keys.ring.find(ANN).name == "evelyn"


def test_keys_that_are_always_there(file, clock):
    always = key_of_variable(" from-the-variable\n")
    keys = KeyFile(file, (always,), clock)
    assert keys.ring.find(b"from-the-variable") is always
    file.write_text('[default]\nsha256 = "' + HEX[b"other"] + '"\n')
    clock.now += LOOK_SECONDS
    assert keys.ring.find(b"other") is None, "the name is taken"
    assert keys.ring.find(ANN)


def test_a_first_file_must_be_there_and_a_variable_not_empty(tmp_path):
    with pytest.raises(UsageError, match="cannot read the API keys"):
        KeyFile(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="MOSSO_API_KEY is empty"):
        key_of_variable(" ")
