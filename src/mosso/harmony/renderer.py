"""Conversation → token ids, equal to the official renderer's.

The one text that the official renderer leaves to its caller is the developer message's `# Response Formats`
section; it follows the published description of the format.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mosso.core.errors import RequestError
from mosso.core.json import JsonObject
from mosso.harmony.conversation import (
    CONSTRAIN,
    Channel,
    Conversation,
    DeveloperContent,
    Message,
    Role,
    SystemContent,
)
from mosso.harmony.tokenizer import Tokenizer
from mosso.harmony.typescript import compact_json, render_namespaces, split_lines

FUNCTIONS = "functions"  # the namespace of the user's own tools


class Renderer:
    """Renders with one vocabulary. Keeps no state between calls.

    Raises RequestError for a message that the format cannot express: a tool result without the tool's name,
    system or developer content under another role; and for a schema nested too deeply.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = tokenizer.control

    def render(
        self, conversation: Conversation, next_role: Role | None = None, *, keep_analysis: bool = False
    ) -> list[int]:
        """The messages as history, and with `next_role` the opening of its message.

        Once the assistant's latest message is a final one, thoughts before the first final are dropped, as
        the official renderer does; `keep_analysis` keeps them. Every message ends in `<|end|>`, calls in
        `<|call|>`.
        """
        messages = conversation.messages if keep_analysis else _without_old_analysis(conversation.messages)
        has_functions = _has_functions(conversation)
        tokens: list[int] = []
        for message in messages:
            tokens.extend(self._message(message, has_functions))
        if next_role is not None:
            tokens.append(self._control.start)
            tokens.extend(self._text(next_role))
        return tokens

    def render_for_completion(
        self, conversation: Conversation, next_role: Role = Role.ASSISTANT, *, keep_analysis: bool = False
    ) -> list[int]:
        """A prompt: the conversation, then `<|start|>` and the role that speaks next."""
        return self.render(conversation, next_role, keep_analysis=keep_analysis)

    def render_for_training(self, conversation: Conversation, *, keep_analysis: bool = False) -> list[int]:
        """The conversation as the model should have produced it: a last final answer ends in `<|return|>`."""
        tokens = self.render(conversation, keep_analysis=keep_analysis)
        if conversation.messages and _is_final(conversation.messages[-1]):
            tokens[-1] = self._control.return_
        return tokens

    def render_message(self, message: Message, *, has_functions: bool = False) -> list[int]:
        """One message. `has_functions`: its conversation offers functions; a system message says so."""
        return list(self._message(message, has_functions))

    def _message(self, message: Message, has_functions: bool) -> Iterator[int]:
        yield self._control.start
        yield from self._text(_author(message))
        if message.recipient is not None and message.recipient != "all":
            yield from self._text(f" to={message.recipient}")
        if message.channel is not None:
            yield self._control.channel
            yield from self._text(message.channel)
        if message.content_type is not None:
            yield from self._content_type(message.content_type)
        yield self._control.message
        yield from self._text(_content(message, has_functions))
        is_call = message.role is Role.ASSISTANT and message.recipient is not None
        yield self._control.call if is_call else self._control.end

    def _content_type(self, content_type: str) -> Iterator[int]:
        if not content_type.startswith(CONSTRAIN):
            yield from self._text(f" {content_type}")
            return
        yield from self._text(" ")
        yield self._control.constrain
        yield from self._text(content_type.removeprefix(CONSTRAIN))

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _without_old_analysis(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Drop analysis before the first final message, if the latest assistant message is final.

    Analysis between two finals stays: the official renderer looks for the first one only.
    """
    latest = next((m for m in reversed(messages) if m.role is Role.ASSISTANT), None)
    first = next((i for i, m in enumerate(messages) if m.channel == Channel.FINAL), 0)
    if latest is None or not _is_final(latest):
        return messages
    return tuple(m for i, m in enumerate(messages) if i >= first or m.channel != Channel.ANALYSIS)


def _is_final(message: Message) -> bool:
    return message.role is Role.ASSISTANT and message.channel == Channel.FINAL


def _has_functions(conversation: Conversation) -> bool:
    return any(
        namespace.name == FUNCTIONS and namespace.tools
        for message in conversation.messages
        if isinstance(message.content, DeveloperContent)
        for namespace in message.content.namespaces
    )


def _author(message: Message) -> str:
    if message.role is not Role.TOOL:
        return message.role if message.name is None else f"{message.role}:{message.name}"
    if message.name is None:
        raise RequestError("A tool's result must name the tool.", param="messages")
    return message.name


def _content(message: Message, has_functions: bool) -> str:
    match message.content:
        case SystemContent() if message.role is Role.SYSTEM:
            return _system(message.content, has_functions)
        case DeveloperContent() if message.role is Role.DEVELOPER:
            return _developer(message.content)
        case str():
            return message.content
    kind = type(message.content).__name__
    raise RequestError(f"{kind} may not stand in a message of role {message.role}.", param="messages")


def _system(content: SystemContent, has_functions: bool) -> str:
    about = []
    if content.identity is not None:
        about.append(content.identity)
    if content.knowledge_cutoff is not None:
        about.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.date is not None:
        about.append(f"Current date: {content.date}")
    sections = ["\n".join(about)] if about else []
    if content.effort is not None:
        sections.append(f"Reasoning: {content.effort}")
    if content.namespaces:
        with _depth_checked("tools"):
            sections.append(render_namespaces(content.namespaces))
    if content.channels:
        channels = (
            f"# Valid channels: {', '.join(content.channels)}. Channel must be included for every message."
        )
        if has_functions:
            channels += f"\nCalls to these tools must go to the commentary channel: '{FUNCTIONS}'."
        sections.append(channels)
    return "\n\n".join(sections)


def _developer(content: DeveloperContent) -> str:
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.namespaces:
        with _depth_checked("tools"):
            sections.append(render_namespaces(content.namespaces))
    if content.response_formats:
        formats = (_response_format(name, schema) for name, schema in content.response_formats.items())
        with _depth_checked("response_format"):
            sections += ["# Response Formats", *formats]
    return "\n\n".join(sections)


@contextmanager
def _depth_checked(param: str) -> Iterator[None]:
    """A client may nest a schema deeper than Python recurses."""
    try:
        yield
    except RecursionError:
        raise RequestError("The schema is nested too deeply.", param=param) from None


def _response_format(name: str, schema: JsonObject) -> str:
    """A named schema as JSON, its description as a comment above."""
    description = schema.get("description")
    comments = split_lines(description) if isinstance(description, str) else []
    lines = [*(f"// {line}" for line in comments), compact_json(schema)]
    return f"## {name}\n\n" + "\n".join(lines)
