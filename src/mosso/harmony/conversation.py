"""A conversation as values, before it becomes tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mosso.core.json import JsonObject

CHATGPT_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
KNOWLEDGE_CUTOFF = "2024-06"
CONSTRAIN = "<|constrain|>"  # as a content type's prefix it stands for the control token


class Role(StrEnum):
    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"  # rendered under the tool's own name, e.g. functions.get_weather


class Effort(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Channel(StrEnum):
    ANALYSIS = "analysis"  # the chain of thought
    COMMENTARY = "commentary"  # tool calls and preambles
    FINAL = "final"  # the answer


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that the model may call; `parameters` is a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ToolNamespace:
    """Tools under one name: `functions` in the developer message, built-ins in the system message."""

    name: str
    description: str | None = None
    tools: tuple[FunctionTool, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemContent:
    """The system message: who the model is, today's date, effort and channels."""

    identity: str | None = CHATGPT_IDENTITY
    knowledge_cutoff: str | None = KNOWLEDGE_CUTOFF
    date: str | None = None  # YYYY-MM-DD; the caller injects it, nothing here reads a clock
    effort: Effort | None = Effort.MEDIUM
    channels: tuple[str, ...] = tuple(Channel)
    namespaces: tuple[ToolNamespace, ...] = ()


@dataclass(frozen=True, slots=True)
class DeveloperContent:
    """The developer message: what an API calls the system prompt, the functions, the response formats."""

    instructions: str | None = None
    namespaces: tuple[ToolNamespace, ...] = ()
    response_formats: Mapping[str, JsonObject] = field(default_factory=dict)  # name → schema


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `name` is the tool's full name (functions.X) for Role.TOOL; `recipient` e.g. functions.X.

    `content_type` is the header's constraint as rendered, e.g. "<|constrain|>json" or "json".
    """

    role: Role
    content: str | SystemContent | DeveloperContent
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...] = ()
