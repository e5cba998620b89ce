"""Chat messages → a Harmony conversation.

System and developer messages are joined into the one developer message that Harmony has. Thinking is
shown to the model only after the last final answer, that is between the tool calls of the running turn:
this is what gpt-oss was trained on. It comes from the client where the client sends it, else from the
ThoughtStore.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from mosso.api.chat_schema import (
    AssistantMessage,
    ChatRequest,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from mosso.api.settings import ApiSettings
from mosso.api.thinking import effort_named
from mosso.api.thoughts import Thought, Thoughts, joined
from mosso.api.tool_calls import offered_functions, recipient
from mosso.core.errors import RequestError, UnsupportedError
from mosso.core.json import JsonObject
from mosso.harmony.conversation import (
    Channel,
    Conversation,
    DeveloperContent,
    Effort,
    Message,
    Role,
    SystemContent,
    ToolNamespace,
)

CALL_CONTENT_TYPE = "<|constrain|>json"
_AUTHOR_NAME = re.compile(r"[^\s<|\\/>]{1,64}")


def conversation_of(
    body: ChatRequest, settings: ApiSettings, thoughts_of: Callable[[str], Thoughts]
) -> Conversation:
    """The conversation that `body` stands for; RequestError names the message that is wrong.

    `thoughts_of` gives what is remembered of the thinking before a call, by the call's id.
    """
    system = SystemContent(
        identity=body.chat_template_kwargs.model_identity or settings.identity,
        knowledge_cutoff=settings.knowledge_cutoff,
        date=settings.date(),
        effort=effort_of(body, settings.effort),
    )
    messages = [Message(Role.SYSTEM, system)]
    developer = _developer(body, offered_functions(body))
    if developer is not None:
        messages.append(Message(Role.DEVELOPER, developer))
    messages.extend(_History(body, thoughts_of).messages())
    return Conversation(tuple(messages))


def effort_of(body: ChatRequest, default: Effort) -> Effort:
    return effort_named(body.effort, default, param="reasoning_effort")


def _developer(body: ChatRequest, functions: ToolNamespace | None) -> DeveloperContent | None:
    texts = []
    for position, message in enumerate(body.messages):
        if isinstance(message, SystemMessage):
            _refuse_name(message.name, position)
            texts.append(text_of(message.content))
    formats = _response_formats(body)
    if not texts and functions is None and not formats:
        return None
    return DeveloperContent(
        instructions="\n\n".join(texts) if texts else None,
        namespaces=(functions,) if functions else (),
        response_formats=formats,
    )


def _response_formats(body: ChatRequest) -> dict[str, JsonObject]:
    """The schema that the answer will be held to is shown to the model: it writes what it knows of better."""
    form = body.response_format.json_schema if body.response_format else None
    if form is None:
        return {}
    description = {} if form.description is None else {"description": form.description}
    return {form.name: description | form.schema_}


def text_of(content: str | Sequence[TextPart | RefusalPart] | None) -> str:
    """A message's text; parts are lines of their own."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


class _History:
    """Translates the messages in order; remembers which call id was which function."""

    def __init__(self, body: ChatRequest, thoughts_of: Callable[[str], Thoughts]) -> None:
        self._body = body
        self._thoughts_of = thoughts_of
        self._called: dict[str, str] = {}  # call id → function name

    def messages(self) -> Iterator[Message]:
        last_final = _last_final(self._body)
        for position, message in enumerate(self._body.messages):
            match message:
                case UserMessage():
                    yield _user(message, position)
                case AssistantMessage():
                    yield from self._assistant(message, position, keep_thoughts=position > last_final)
                case ToolMessage():
                    yield self._result(message, position)

    def _assistant(
        self, message: AssistantMessage, position: int, *, keep_thoughts: bool
    ) -> Iterator[Message]:
        _refuse_name(message.name, position)
        if not message.tool_calls:
            yield _answer(message, position)
            return
        before = self._before_calls(message, message.tool_calls)
        for call, thoughts in zip(message.tool_calls, before, strict=True):
            for thought in thoughts:
                if keep_thoughts or thought.channel is not Channel.ANALYSIS:
                    yield Message(Role.ASSISTANT, thought.text, channel=thought.channel)
            self._called[call.id] = call.function.name
            yield Message(
                Role.ASSISTANT,
                call.function.arguments,
                channel=Channel.COMMENTARY,
                recipient=recipient(call.function.name),
                content_type=CALL_CONTENT_TYPE,
            )

    def _before_calls(self, message: AssistantMessage, calls: Sequence[ToolCall]) -> list[Thoughts]:
        """What stood before each call: the store knows the places, the client's own words win over it."""
        stored = [self._thoughts_of(call.id) for call in calls]
        flat = [thought for thoughts in stored for thought in thoughts]
        client = {
            Channel.ANALYSIS: message.reasoning or message.reasoning_content or "",
            Channel.COMMENTARY: text_of(message.content),
        }
        first: list[Thought] = []
        for channel, text in client.items():
            if text and text != joined(flat, channel):
                first.append(Thought(channel, text))
                stored = [tuple(t for t in thoughts if t.channel is not channel) for thoughts in stored]
        if (
            first and first[0].channel is Channel.COMMENTARY
        ):  # stored thinking stays before the client's words
            return [stored[0] + tuple(first), *stored[1:]]
        return [tuple(first) + stored[0], *stored[1:]]

    def _result(self, message: ToolMessage, position: int) -> Message:
        name = self._called.get(message.tool_call_id)
        if name is None:
            raise RequestError(
                f"messages[{position}].tool_call_id: no assistant message before it has a call "
                f"with the id {message.tool_call_id[:80]!r}.",
                param=f"messages[{position}].tool_call_id",
            )
        return Message(
            Role.TOOL,
            text_of(message.content),
            name=recipient(name),
            channel=Channel.COMMENTARY,
            recipient=Role.ASSISTANT,
        )


def _last_final(body: ChatRequest) -> int:
    """Position of the last assistant message that calls nothing, or -1."""
    finals = (
        position
        for position, message in enumerate(body.messages)
        if isinstance(message, AssistantMessage) and not message.tool_calls
    )
    return max(finals, default=-1)


def _answer(message: AssistantMessage, position: int) -> Message:
    if message.content is None and message.refusal is None:
        raise RequestError(
            f"messages[{position}].content: an assistant message needs content or tool_calls.",
            param=f"messages[{position}].content",
        )
    text = text_of(message.content) if message.content is not None else message.refusal or ""
    return Message(Role.ASSISTANT, text, channel=Channel.FINAL)


def _user(message: UserMessage, position: int) -> Message:
    if message.name is not None and not _AUTHOR_NAME.fullmatch(message.name):
        raise RequestError(
            f"messages[{position}].name: up to 64 characters, without spaces and any of < | \\ / >.",
            param=f"messages[{position}].name",
        )
    return Message(Role.USER, text_of(message.content), name=message.name)


def _refuse_name(name: str | None, position: int) -> None:
    if name is not None:
        raise UnsupportedError(
            f"messages[{position}].name is only supported in user messages.",
            param=f"messages[{position}].name",
        )
