"""Which dialect a path speaks, as far as errors go: OpenAI's, Anthropic's or Ollama's.

The others are made chat requests before they are checked in full, so a complaint may name a field of chat's:
it is told under the name that the client knows.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic_core import to_json

from mosso.api.errors import ErrorResponse
from mosso.api.messages import anthropic_error, is_messages_path
from mosso.api.messages_schema import MessagesError
from mosso.api.ollama_schema import OllamaError

_MESSAGES_WORDS = {
    "response_format.json_schema.schema": "output_config.format.schema",
    ".function.parameters": ".input_schema",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
_OLLAMA_WORDS = {"response_format.json_schema.schema": "format", "response_format": "format"}
ERROR_MODELS: tuple[type[BaseModel], ...] = (ErrorResponse, MessagesError, OllamaError)


def dialect_error(path: str, status: int, message: str) -> bytes | None:
    """The error's body where another dialect than OpenAI's is spoken."""
    if is_messages_path(path):
        return anthropic_error(status, _own_words(message, _MESSAGES_WORDS))
    if _is_ollama_path(path):
        return to_json(OllamaError(error=_own_words(message, _OLLAMA_WORDS)))
    return None


def error_model(path: str) -> type[BaseModel]:
    """What an error's body at `path` is."""
    if is_messages_path(path):
        return MessagesError
    return OllamaError if _is_ollama_path(path) else ErrorResponse


def _is_ollama_path(path: str) -> bool:
    return path.startswith("/api/")


def _own_words(message: str, words: Mapping[str, str]) -> str:
    for of_chat, own in words.items():
        message = message.replace(of_chat, own)
    return message
