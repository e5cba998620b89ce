"""Items of the Responses API → a Harmony conversation.

An item is a Harmony message: thinking is analysis, a message of phase `commentary` a preamble, other messages
of the assistant are finals, calls and their outputs go to and come from `functions`. As everywhere, the model
sees its thinking again only after its last final answer. What a client left out between calls comes from the
ThoughtStore.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from mosso.api.responses_schema import (
    TYPED_ITEM,
    FunctionCallItem,
    FunctionCallOutputItem,
    FunctionTool,
    InputText,
    Item,
    MessageItem,
    ReasoningItem,
    Refusal,
    ResponsesRequest,
)
from mosso.api.responses_structure import shown_formats
from mosso.api.thoughts import Thoughts
from mosso.api.tool_calls import FUNCTIONS, check_schema, recipient, shown_name
from mosso.api.wire import as_request_error
from mosso.core.errors import RequestError
from mosso.harmony.conversation import Channel, DeveloperContent, Message, Role, ToolNamespace
from mosso.harmony.conversation import FunctionTool as HarmonyFunction

CALL_CONTENT_TYPE = "<|constrain|>json"
MAX_ITEMS = 100_000
_PREFIX = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def read_items(given: str | Sequence[Any]) -> list[Item]:
    """The request's `input` as items, each with an id; RequestError names the one that is wrong."""
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    if len(given) > MAX_ITEMS:
        raise RequestError(f"input: at most {MAX_ITEMS} items in one request.", param="input")
    return [_read_item(raw, position) for position, raw in enumerate(given)]


def _read_item(raw: Any, position: int) -> Item:
    if not isinstance(raw, dict):
        where = f"input[{position}]"
        raise RequestError(f"{where}: an item is a JSON object.", param=where, code="invalid_type")
    data = {name: value for name, value in raw.items() if value is not None}
    if "type" not in data and "role" in data:
        data["type"] = "message"
    try:
        item: Item = TYPED_ITEM.validate_python(data)
    except ValidationError as error:
        raise _placed(as_request_error(error, data), f"input[{position}]") from None
    _check_parts(item, f"input[{position}].content")
    if item.id is None:
        item.id = new_id(_PREFIX[item.type])
    return item


def _placed(error: RequestError, where: str) -> RequestError:
    """The complaint about one item, with its place in `input`."""
    if error.param is None:
        return RequestError(f"{where}: {error.message}", param=where, code=error.code)
    param = f"{where}.{error.param}"
    return RequestError(error.message.replace(error.param, param, 1), param=param, code=error.code)


def _check_parts(item: Item, where: str) -> None:
    """Input parts belong to what people say, output parts to what the model said."""
    if not isinstance(item, MessageItem) or isinstance(item.content, str):
        return
    for number, part in enumerate(item.content):
        spoken = not isinstance(part, InputText)
        if spoken and item.role != "assistant":
            raise RequestError(
                f"{where}[{number}].type: {part.type} does not go with role {item.role}; "
                "input_text is expected.",
                param=f"{where}[{number}].type",
            )


def item_json(item: Item) -> dict[str, Any]:
    """The item as it is stored and listed: text of a message in parts."""
    data = item.model_dump(exclude_none=True, by_alias=True)
    if isinstance(item, MessageItem):
        kind = "output_text" if item.role == "assistant" else "input_text"
        if isinstance(item.content, str):
            data["content"] = [{"type": kind, "text": item.content}]
        for part in data["content"]:
            if part["type"] == "output_text":
                part.setdefault("annotations", [])
    data.setdefault("status", "completed")
    return data


def developer_content(body: ResponsesRequest, items: Sequence[Item]) -> DeveloperContent | None:
    """`instructions`, then what system and developer messages say, and the functions on offer."""
    texts = [body.instructions] if body.instructions else []
    texts += [text_of(item) for item in items if _is_instruction(item)]
    functions = _functions(body)
    formats = shown_formats(body)
    if not texts and not functions and not formats:
        return None
    return DeveloperContent(
        instructions="\n\n".join(texts) if texts else None,
        namespaces=(ToolNamespace(FUNCTIONS, tools=functions),) if functions else (),
        response_formats=formats,
    )


def _is_instruction(item: Item) -> bool:
    return isinstance(item, MessageItem) and item.role in ("system", "developer")


def text_of(item: Item) -> str:
    """What an item says; parts are lines of their own."""
    match item:
        case MessageItem(content=str(text)):
            return text
        case MessageItem(content=parts):
            assert not isinstance(parts, str)
            return "\n".join(part.refusal if isinstance(part, Refusal) else part.text for part in parts)
        case FunctionCallItem():
            return item.arguments
        case FunctionCallOutputItem():
            output = item.output
            return output if isinstance(output, str) else "\n".join(part.text for part in output)
        case ReasoningItem():
            return "\n\n".join(part.text for part in item.content or [])


def _functions(body: ResponsesRequest) -> tuple[HarmonyFunction, ...]:
    """Checked definitions; none with tool_choice none, as what the model does not see it does not call."""
    seen: set[str] = set()
    for position, tool in enumerate(body.tools):
        if not isinstance(tool, FunctionTool):
            continue
        where = f"tools[{position}]"
        if tool.name in seen:
            raise RequestError(f"There are two tools named {tool.name!r}.", param=f"{where}.name")
        if tool.parameters:
            check_schema(tool.parameters, f"{where}.parameters")
        seen.add(tool.name)
    if body.tool_choice == "none":
        return ()
    return tuple(
        HarmonyFunction(shown_name(tool.name), tool.description or "", tool.parameters or None)
        for tool in body.functions
    )


def history(
    items: Sequence[Item], thoughts_of: Callable[[str], Thoughts], thinking_of: Callable[[ReasoningItem], str]
) -> Iterator[Message]:
    """The items as Harmony messages, instructions left out.

    `thoughts_of(call_id)` is what the server remembers of the thinking before a call; `thinking_of` reads a
    reasoning item, sealed or not. RequestError for an output whose call is not there.
    """
    last_final = max((i for i, item in enumerate(items) if _is_final(item)), default=-1)
    called: dict[str, str] = {}
    told = False  # thinking or a preamble stands before the next call
    for position, item in enumerate(items):
        match item:
            case ReasoningItem():
                told = True
                if position > last_final and (text := thinking_of(item)):
                    yield Message(Role.ASSISTANT, text, channel=Channel.ANALYSIS)
            case FunctionCallItem():
                called[item.call_id] = item.name
                for thought in () if told else thoughts_of(item.call_id):
                    if position > last_final or thought.channel is not Channel.ANALYSIS:
                        yield Message(Role.ASSISTANT, thought.text, channel=thought.channel)
                told = False
                yield _call(item)
            case FunctionCallOutputItem():
                yield _output(item, called)
            case MessageItem() if item.role == "assistant":
                told = True
                channel = Channel.FINAL if _is_final(item) else Channel.COMMENTARY
                yield Message(Role.ASSISTANT, text_of(item), channel=channel)
            case MessageItem() if item.role == "user":
                told = False
                yield Message(Role.USER, text_of(item))


def _is_final(item: Item) -> bool:
    return isinstance(item, MessageItem) and item.role == "assistant" and item.phase != "commentary"


def _call(item: FunctionCallItem) -> Message:
    return Message(
        Role.ASSISTANT,
        item.arguments,
        channel=Channel.COMMENTARY,
        recipient=recipient(item.name),
        content_type=CALL_CONTENT_TYPE,
    )


def _output(item: FunctionCallOutputItem, called: dict[str, str]) -> Message:
    name = called.get(item.call_id)
    if name is None:
        raise RequestError(
            f"No tool call found for function call output with call_id {item.call_id[:80]!r}.", param="input"
        )
    return Message(
        Role.TOOL,
        text_of(item),
        name=recipient(name),
        channel=Channel.COMMENTARY,
        recipient=Role.ASSISTANT,
    )
