"""Items of the Responses API → a Harmony conversation.

An item is a Harmony message: thinking is analysis, a message of phase `commentary` a preamble, other messages
of the assistant are finals, calls and their outputs go to and come from `functions`. As everywhere, the model
sees its thinking again only after its last final answer. What a client left out between calls comes from the
ThoughtStore.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from mosso.api.responses_functions import client_tools, plain_name
from mosso.api.responses_hosted import browser_call, error_text
from mosso.api.responses_schema import (
    TYPED_ITEM,
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputText,
    Item,
    MessageItem,
    ReasoningItem,
    Refusal,
    ResponsesRequest,
)
from mosso.api.responses_structure import shown_formats
from mosso.api.responses_tool_schema import (
    CodeCallItem,
    McpApprovalRequestItem,
    McpApprovalResponseItem,
    McpCallItem,
    SearchCallItem,
)
from mosso.api.responses_toolset import Toolset
from mosso.api.thoughts import Thoughts
from mosso.api.tool_calls import FUNCTIONS, recipient
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
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "code_interpreter_call": "ci",
    "web_search_call": "ws",
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


def developer_content(
    body: ResponsesRequest, items: Sequence[Item], toolset: Toolset
) -> DeveloperContent | None:
    """`instructions`, then what system and developer messages say, and the functions on offer."""
    texts = [body.instructions] if body.instructions else []
    texts += [text_of(item) for item in items if _is_instruction(item)]
    functions = (*_functions(body), *toolset.functions)
    notes = "\n".join(toolset.notes) or None if functions else None
    formats = shown_formats(body)
    if not texts and not functions and not formats:
        return None
    return DeveloperContent(
        instructions="\n\n".join(texts) if texts else None,
        namespaces=(ToolNamespace(FUNCTIONS, notes, functions),) if functions else (),
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
        case FunctionCallOutputItem() | CustomToolCallOutputItem():
            output = item.output
            return output if isinstance(output, str) else "\n".join(part.text for part in output)
        case ReasoningItem():
            return "\n\n".join(part.text for part in item.content or [])
        case _:
            return ""


def _functions(body: ResponsesRequest) -> tuple[HarmonyFunction, ...]:
    """None with tool_choice none: what the model does not see it does not call."""
    tools = client_tools(body)
    return () if body.tool_choice == "none" else tuple(tool.function() for tool in tools)


@dataclass(frozen=True, slots=True)
class Memory:
    """What history needs beside the items. `thoughts_of(call_id)` is what the server remembers of the
    thinking before a call; `thinking_of` reads a reasoning item, sealed or not; `recipient_of(label, tool)`
    is an MCP tool's Harmony name; `results`: of approved calls that have been run since, by request."""

    thoughts_of: Callable[[str], Thoughts]
    thinking_of: Callable[[ReasoningItem], str]
    recipient_of: Callable[[str, str], str]
    results: Mapping[str, str] = field(default_factory=dict)


def history(items: Sequence[Item], memory: Memory) -> Iterator[Message]:
    """The items as Harmony messages, instructions left out.

    RequestError for an output whose call is not there, and for an answer to a request that is not.
    """
    return _History(items, memory).messages()


class _History:
    def __init__(self, items: Sequence[Item], memory: Memory) -> None:
        self._items = items
        self._memory = memory
        self._last_final = max((i for i, item in enumerate(items) if _is_final(item)), default=-1)
        self._called: dict[str, str] = {}  # call id → the function's Harmony name
        self._asked: dict[str, McpApprovalRequestItem] = {}  # by id
        self._answered = {i.approval_request_id for i in items if isinstance(i, McpApprovalResponseItem)}
        self._told = False  # thinking or a preamble stands before the next call

    def messages(self) -> Iterator[Message]:
        for position, item in enumerate(self._items):
            recent = position > self._last_final
            match item:
                case ReasoningItem():
                    self._told = True
                    if recent and (text := self._memory.thinking_of(item)):
                        yield Message(Role.ASSISTANT, text, channel=Channel.ANALYSIS)
                case FunctionCallItem():
                    name = self._named(item)
                    yield from self._before(item.call_id, recent)
                    yield _call(name, item.arguments)
                case CustomToolCallItem():
                    name = self._named(item)
                    yield from self._before(item.call_id, recent)
                    yield _call(name, item.input, content_type=None)
                case FunctionCallOutputItem() | CustomToolCallOutputItem():
                    yield _output(item, self._called)
                case McpCallItem():
                    yield from self._mcp_call(item, recent)
                case CodeCallItem() if recent:
                    yield from self._code_call(item)
                case SearchCallItem() if recent:
                    yield from self._search_call(item)
                case McpApprovalRequestItem():
                    yield from self._approval_request(item, recent)
                case McpApprovalResponseItem():
                    yield from self._approval_response(item)
                case MessageItem() if item.role == "assistant":
                    self._told = True
                    channel = Channel.FINAL if _is_final(item) else Channel.COMMENTARY
                    yield Message(Role.ASSISTANT, text_of(item), channel=channel)
                case MessageItem() if item.role == "user":
                    self._told = False
                    yield Message(Role.USER, text_of(item))

    def _named(self, item: FunctionCallItem | CustomToolCallItem) -> str:
        name = recipient(plain_name(item.name, item.namespace))
        self._called[item.call_id] = name
        return name

    def _before(self, call_id: str, recent: bool) -> Iterator[Message]:
        """What stood before a call, where the items do not say it."""
        for thought in () if self._told else self._memory.thoughts_of(call_id):
            if recent or thought.channel is not Channel.ANALYSIS:
                yield Message(Role.ASSISTANT, thought.text, channel=thought.channel)
        self._told = False

    def _mcp_call(self, item: McpCallItem, recent: bool) -> Iterator[Message]:
        name = self._memory.recipient_of(item.server_label, item.name)
        if item.approval_request_id is None or item.approval_request_id not in self._asked:
            yield from self._before(item.id or "", recent)
            yield _call(name, item.arguments)
        yield _result(name, error_text(item.error) if item.error is not None else item.output or "")

    def _code_call(self, item: CodeCallItem) -> Iterator[Message]:
        text = "\n".join(output.logs for output in item.outputs or [])
        return self._own_call(item.id, "python", item.code or "", "code", text)

    def _search_call(self, item: SearchCallItem) -> Iterator[Message]:
        name, arguments = browser_call(item.action)
        text = "\n".join(result.text for result in item.results or [])
        return self._own_call(item.id, name, json.dumps(arguments), "code", text)

    def _own_call(
        self, call_id: str | None, name: str, content: str, content_type: str, result: str
    ) -> Iterator[Message]:
        """A call of a tool of the model's own, in its thinking."""
        yield from self._before(call_id or "", True)
        yield Message(
            Role.ASSISTANT, content, channel=Channel.ANALYSIS, recipient=name, content_type=content_type
        )
        yield Message(Role.TOOL, result, name=name, channel=Channel.ANALYSIS, recipient=Role.ASSISTANT)

    def _approval_request(self, item: McpApprovalRequestItem, recent: bool) -> Iterator[Message]:
        name = self._memory.recipient_of(item.server_label, item.name)
        yield from self._before(item.id, recent)
        yield _call(name, item.arguments)
        if item.id in self._answered:
            self._asked[item.id] = item
        else:
            yield _result(name, "The user was asked whether this may be run, and did not say.")

    def _approval_response(self, item: McpApprovalResponseItem) -> Iterator[Message]:
        request = self._asked.get(item.approval_request_id)
        if request is None:
            raise RequestError(
                f"No approval request found with the id {item.approval_request_id[:80]!r}.", param="input"
            )
        name = self._memory.recipient_of(request.server_label, request.name)
        if not item.approve:
            reason = f" {item.reason}" if item.reason else ""
            yield _result(name, f"The user does not want this to be run.{reason}")
        elif item.approval_request_id in self._memory.results:
            yield _result(name, self._memory.results[item.approval_request_id])


def approved_calls(items: Sequence[Item]) -> list[McpApprovalRequestItem]:
    """The calls that were approved and have not been run."""
    asked = {item.id: item for item in items if isinstance(item, McpApprovalRequestItem)}
    run = {item.approval_request_id for item in items if isinstance(item, McpCallItem)}
    approved = [item for item in items if isinstance(item, McpApprovalResponseItem) and item.approve]
    wanted = dict.fromkeys(item.approval_request_id for item in approved)
    return [asked[id] for id in wanted if id in asked and id not in run]  # noqa: A001


def _is_final(item: Item) -> bool:
    return isinstance(item, MessageItem) and item.role == "assistant" and item.phase != "commentary"


def _call(name: str, arguments: str, content_type: str | None = CALL_CONTENT_TYPE) -> Message:
    return Message(
        Role.ASSISTANT,
        arguments,
        channel=Channel.COMMENTARY,
        recipient=name,
        content_type=content_type,
    )


def _output(item: FunctionCallOutputItem | CustomToolCallOutputItem, called: dict[str, str]) -> Message:
    name = called.get(item.call_id)
    if name is None:
        raise RequestError(
            f"No tool call found for function call output with call_id {item.call_id[:80]!r}.", param="input"
        )
    return _result(name, text_of(item))


def _result(name: str, text: str) -> Message:
    return Message(Role.TOOL, text, name=name, channel=Channel.COMMENTARY, recipient=Role.ASSISTANT)
