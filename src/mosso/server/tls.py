"""TLS: one certificate and its key, from PEM files, read again when they are renewed."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from mosso.core.errors import UsageError

logger = logging.getLogger("mosso.server")


class Certificate:
    """The certificate in `cert` (with the chain behind it), and its key in `key`, or in the same file.

    `context` is a server's: TLS 1.2 at least. UsageError where the files cannot be read or are not of each
    other. Renewed files change the handshakes that come after `look`, not the connections that are open.
    """

    def __init__(self, cert: Path, key: Path | None = None) -> None:
        self._cert = cert
        self._key = key
        self._trouble = ""
        try:
            self._seen = self._stamp()
            self.context = self._loaded()
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(f"cannot serve TLS with {self._names}: {_reason(error)}") from None

    def look(self) -> None:
        """Take over what changed in the files. What is wrong with them is logged, and costs nothing."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._loaded()  # a half-written pair must not touch the context in use
            self._load(self.context)
        except OSError as error:
            if str(error) != self._trouble:  # said once, not with every look
                logger.error("the certificate stays as it was: %s: %s", self._names, _reason(error))
            self._trouble = str(error)
        else:
            self._seen, self._trouble = stamp, ""
            logger.info("the certificate is read again from %s", self._names)

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._cert, self._key, _no_password)

    def _stamp(self) -> tuple[int, ...]:
        """Changes with the files; symbolic links are followed."""
        found = [self._cert.stat(), (self._key or self._cert).stat()]
        return tuple(number for now in found for number in (now.st_mtime_ns, now.st_ctime_ns, now.st_ino))

    @property
    def _names(self) -> str:
        return f"{self._cert}" if self._key is None else f"{self._cert} and {self._key}"


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):  # its own words are such as "[SSL] PEM lib"
        return f"not a certificate with its own key, in PEM{f' ({error.reason})' if error.reason else ''}"
    return error.strerror or str(error)


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise OSError("the key is encrypted")
