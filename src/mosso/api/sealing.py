"""Thinking that a client keeps for us and cannot read or change."""

from __future__ import annotations

import json

from cryptography.fernet import Fernet, InvalidToken

from mosso.core.errors import RequestError


class Sealer:
    """Seals text for one scope (an API key's tenant) with a key of the server's: 32 bytes as Fernet wants
    them. Without a key it makes one, and what it sealed can be opened for its own life only."""

    def __init__(self, key: bytes | None = None) -> None:
        self._fernet = Fernet(key or Fernet.generate_key())

    def seal(self, scope: str, text: str) -> str:
        return self._fernet.encrypt(json.dumps([scope, text]).encode()).decode()

    def open(self, scope: str, sealed: str) -> str:
        """RequestError for what this key did not seal, or not for this scope."""
        try:
            sealed_for, text = json.loads(self._fernet.decrypt(sealed.encode()))
        except InvalidToken:
            sealed_for, text = None, ""
        if sealed_for != scope:
            raise RequestError(
                "An encrypted_content of the input was not sealed by this server, or was changed.",
                param="input",
                code="invalid_encrypted_content",
            )
        return str(text)
