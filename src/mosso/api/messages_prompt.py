"""Anthropic's messages → the chat request that means the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mosso.api.chat_schema import ChatRequest
from mosso.api.messages_schema import (
    AssistantTurn,
    CountTokensRequest,
    MessagesRequest,
    MessagesTool,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUse,
    ToolUseBlock,
    UserTurn,
)
from mosso.api.tool_calls import check_schema
from mosso.core.errors import RequestError, UnsupportedError

_EFFORTS = {"xhigh": "high", "max": "high"}
LOW_BUDGET, MEDIUM_BUDGET = 2048, 8192  # budgets of thinking tokens up to these mean that effort


def chat_request(body: CountTokensRequest) -> ChatRequest:
    """RequestError names what is wrong in the client's own terms."""
    if isinstance(body.messages[-1], AssistantTurn):
        raise UnsupportedError(
            f"messages[{len(body.messages) - 1}]: the last message must be the user's; an answer that is "
            "begun by the client is not supported.",
            param="messages",
        )
    fields: dict[str, Any] = {"model": body.model, "messages": list(_messages(body))}
    if body.tools:
        fields["tools"] = [_tool(tool, position) for position, tool in enumerate(body.tools)]
    if body.tool_choice is not None:
        fields["tool_choice"] = _tool_choice(body.tool_choice)
        fields["parallel_tool_calls"] = not body.tool_choice.disable_parallel_tool_use
    fields |= {"reasoning_effort": _effort(body), "thinking_budget": _budget(body)}
    if body.output_config is not None and body.output_config.format is not None:
        form = {"name": "answer", "schema": body.output_config.format.schema_}
        fields["response_format"] = {"type": "json_schema", "json_schema": form}
    if isinstance(body, MessagesRequest):
        fields |= {"max_tokens": body.max_tokens, "stream": body.stream, "stop": body.stop_sequences or None}
        fields |= {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    return ChatRequest.model_validate({name: value for name, value in fields.items() if value is not None})


def _messages(body: CountTokensRequest) -> Iterator[dict[str, Any]]:
    if body.system:
        yield {"role": "system", "content": _text(body.system)}
    called: set[str] = set()
    for position, turn in enumerate(body.messages):
        if isinstance(turn, UserTurn):
            yield from _user(turn, called, f"messages[{position}]")
        else:
            yield _assistant(turn, called)


def _user(turn: UserTurn, called: set[str], where: str) -> Iterator[dict[str, Any]]:
    """Results first, as the model was called before the user spoke again."""
    if isinstance(turn.content, str):
        yield {"role": "user", "content": turn.content}
        return
    texts = []
    for position, block in enumerate(turn.content):
        if isinstance(block, TextBlock):
            texts.append(block)
            continue
        if block.tool_use_id not in called:
            param = f"{where}.content[{position}].tool_use_id"
            raise RequestError(f"{param}: no tool_use before it has this id.", param=param)
        yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}
    if texts or not turn.content:
        yield {"role": "user", "content": _text(texts)}


def _result(block: ToolResultBlock) -> str:
    text = _text(block.content)
    return f"Error: {text}" if block.is_error else text


def _assistant(turn: AssistantTurn, called: set[str]) -> dict[str, Any]:
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    thinking = [block.thinking for block in turn.content if isinstance(block, ThinkingBlock)]
    calls = [block for block in turn.content if isinstance(block, ToolUseBlock)]
    called.update(call.id for call in calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _text([block for block in turn.content if isinstance(block, TextBlock)]),
    }
    if thinking:
        message["reasoning"] = "\n\n".join(thinking)
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": json.dumps(call.input)}}
            for call in calls
        ]
    return message


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _tool(tool: MessagesTool, position: int) -> dict[str, Any]:
    check_schema(tool.input_schema, f"tools[{position}].input_schema")
    function = {"name": tool.name, "parameters": tool.input_schema, "strict": tool.strict}
    described = [tool.description] if tool.description is not None else []
    described += [f"Example: {json.dumps(example)}" for example in tool.input_examples or []]
    if described:
        function["description"] = "\n".join(described)
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolUse) -> str | dict[str, Any]:
    if choice.type != "tool":
        return "required" if choice.type == "any" else choice.type
    if choice.name is None:
        raise RequestError("tool_choice.name: say which tool is to be called.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _budget(body: CountTokensRequest) -> int | None:
    thinking = body.thinking
    if thinking is None:
        return None
    return 0 if thinking.type == "disabled" else thinking.budget_tokens


def _effort(body: CountTokensRequest) -> str | None:
    if body.output_config is not None and body.output_config.effort is not None:
        return _EFFORTS.get(body.output_config.effort, body.output_config.effort)
    budget = body.thinking.budget_tokens if body.thinking is not None else None
    if budget is None:
        return None
    return "low" if budget <= LOW_BUDGET else "medium" if budget <= MEDIUM_BUDGET else "high"
