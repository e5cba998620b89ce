"""TLS: one certificate and its key, from PEM files."""

from __future__ import annotations

import ssl
from pathlib import Path

from mosso.core.errors import UsageError


def tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    """For a server that shows `cert` (and the chain behind it in the same file); without `key` the key is in
    there too. TLS 1.2 at least. UsageError where they cannot be read or are not of each other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, _no_password)
    except OSError as error:  # ssl.SSLError is one
        files = f"{cert}" if key is None else f"{cert} and {key}"
        raise UsageError(f"cannot serve TLS with {files}: {error.strerror or error}") from None
    return context


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise OSError("the key is encrypted")
