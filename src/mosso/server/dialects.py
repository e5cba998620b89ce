"""Which dialect a path speaks, as far as errors go: OpenAI's, Anthropic's or Ollama's."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_core import to_json

from mosso.api.errors import ErrorResponse
from mosso.api.messages import anthropic_error, is_messages_path
from mosso.api.messages_schema import MessagesError
from mosso.api.ollama_schema import OllamaError

ERROR_MODELS: tuple[type[BaseModel], ...] = (ErrorResponse, MessagesError, OllamaError)


def dialect_error(path: str, status: int, message: str) -> bytes | None:
    """The error's body where another dialect than OpenAI's is spoken."""
    if is_messages_path(path):
        return anthropic_error(status, message)
    return to_json(OllamaError(error=message)) if _is_ollama_path(path) else None


def error_model(path: str) -> type[BaseModel]:
    """What an error's body at `path` is."""
    if is_messages_path(path):
        return MessagesError
    return OllamaError if _is_ollama_path(path) else ErrorResponse


def _is_ollama_path(path: str) -> bool:
    return path.startswith("/api/")
