"""https: a real handshake, and what cannot be served with."""

import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from mosso.core.errors import UsageError
from mosso.server import run
from mosso.server.tls import Certificate


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority, tmp_path) -> tuple[Path, Path, Path]:
    """Certificate chain, key, and both in one."""
    made = authority.issue_cert("127.0.0.1")
    paths = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "both.pem"
    paths[0].write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    paths[1].write_bytes(made.private_key_pem.bytes())
    made.private_key_and_cert_chain_pem.write_to_path(str(paths[2]))
    return paths


@pytest.fixture
def trusting(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("together", [False, True])
def test_a_client_that_trusts_the_certificate_gets_answers(serve, files, trusting, together):
    cert, key, both = files
    server = serve(tls=Certificate(both) if together else Certificate(cert, key))
    assert server.url.startswith("https://127.0.0.1:")
    with httpx.Client(base_url=server.url, verify=trusting, timeout=60) as client:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as stream:
            assert list(stream.iter_lines())[-2] == "data: [DONE]"


def test_who_does_not_trust_it_and_who_speaks_plainly_get_nothing(serve, files):
    server = serve(tls=Certificate(*files[:2]))
    with httpx.Client(timeout=60) as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            client.get(server.url + "/health")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(server.url.replace("https", "http") + "/health")


def test_old_versions_of_tls_are_refused(serve, files, trusting):
    server = serve(tls=Certificate(*files[:2]))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    with httpx.Client(verify=trusting, timeout=60) as client, pytest.raises(httpx.ConnectError):
        client.get(server.url + "/health")


def shown(server, trusting: ssl.SSLContext) -> str:
    """The number of the certificate that a new connection is shown."""
    with (
        socket.create_connection(server.address) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        return sock.getpeercert()["serialNumber"]


def put(path: Path, data: bytes) -> None:
    """In one move: the server looks at any moment, and a half-written file would be a trouble of its own."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(path)


def test_a_renewed_certificate_is_taken_over_and_a_broken_one_is_not(
    serve, files, trusting, authority, soon, monkeypatch, caplog
):
    monkeypatch.setattr(run, "LOOK_TICKS", 1)
    cert, key, _ = files
    server = serve(tls=Certificate(cert, key))
    first = shown(server, trusting)

    def troubles() -> list[str]:
        return [record.message for record in caplog.records if record.levelname == "ERROR"]

    with httpx.Client(base_url=server.url, verify=trusting, timeout=60) as client:
        client.get("/health")
        renewed = authority.issue_cert("127.0.0.1")
        put(cert, renewed.cert_chain_pems[0].bytes())  # its key comes a moment later
        soon(lambda: "the certificate stays as it was" in caplog.text)
        assert shown(server, trusting) == first
        put(key, renewed.private_key_pem.bytes())
        soon(lambda: shown(server, trusting) != first)
        key.unlink()
        soon(lambda: len(troubles()) == 2)
        assert client.get("/health").status_code == 200
    assert len(troubles()) == 2, "each trouble is said once"


def test_what_cannot_be_served_with_is_named(files, tmp_path):
    cert, key, _ = files
    other = tmp_path / "other.pem"
    other.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        load_pem_private_key(key.read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
        )
    )
    for wrong, fault in ((cert, None), (cert, other), (key, key), (cert, tmp_path / "none")):
        with pytest.raises(UsageError, match=str(wrong)):
            Certificate(wrong, fault)
    for wrong, fault in ((cert, None), (cert, other)):
        with pytest.raises(UsageError, match="not a certificate with its own key, in PEM"):
            Certificate(wrong, fault)
    with pytest.raises(UsageError, match="the key is encrypted"):
        Certificate(cert, locked)
