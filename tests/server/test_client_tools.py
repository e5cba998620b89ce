"""What agents send beside functions: free-text tools, namespaces, tools of OpenAI's own, and odd fields."""

import json

import pytest
from mosso_fakes import harmony, small_tokenizer

TOKENIZER = small_tokenizer()
PATCH_GRAMMAR = """
start: begin hunk+ end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?
hunk: "*** Add File: " name LF line+
name: /(.+)/
line: "+" /(.*)/ LF -> line
%import common.LF
"""
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": PATCH_GRAMMAR},
}
SPACE = {
    "type": "namespace",
    "name": "mcp__box",
    "description": "A box.",
    "tools": [{"type": "function", "name": "get", "parameters": {"type": "object", "properties": {}},
               "strict": False, "defer_loading": True}],
}  # fmt: skip
CALL = "<|channel|>commentary to=functions.{}<|message|>{}<|call|>"
FINAL = "<|channel|>final<|message|>{}<|return|>"


def script(name, content):
    """Calls once, then says that it has seen the result under the name it called."""

    def play(request):
        prompt = TOKENIZER.decode(request.prompt, control=True)
        if f"<|start|>functions.{name} to=assistant<|channel|>commentary<|message|>done<|end|>" in prompt:
            return harmony(TOKENIZER, FINAL.format("seen"))
        return harmony(TOKENIZER, CALL.format(name, content))

    return play


@pytest.mark.parametrize("content", ["*** Begin Patch", json.dumps({"input": "*** Begin Patch"})])
def test_a_free_text_tool(serve, content):
    server = serve(script("apply_patch", content))
    with server.client.responses.stream(model="test", input="hi", tools=[PATCH]) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    (call,) = answer.output
    assert (call.type, call.name, call.input) == ("custom_tool_call", "apply_patch", "*** Begin Patch")
    told = [event for event in events if getattr(event, "item_id", None) == call.id]
    kinds = [event.type.removeprefix("response.custom_tool_call_input.") for event in told]
    assert kinds == ["delta", "done"]
    request = server.source.seen[0]
    assert "// Edits files.\n// Its input follows this lark grammar:\n" in TOKENIZER.decode(request.prompt)
    assert "type apply_patch = (_: string) => any;" in TOKENIZER.decode(request.prompt)
    (allowed,) = request.constraint.calls
    assert (allowed.recipient, allowed.arguments.kind) == ("functions.apply_patch", "lark")
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "done"}
    said = [{"role": "user", "content": "hi"}, call.model_dump(exclude_none=True), result]
    assert server.client.responses.create(model="test", input=said, tools=[PATCH]).output_text == "seen"
    kept = server.client.responses.create(
        model="test", input=[result], tools=[PATCH], previous_response_id=answer.id
    )
    assert kept.output_text == "seen"


def test_a_namespace(serve):
    server = serve(script("mcp__box__get", "{}"))
    answer = server.client.responses.create(model="test", input="hi", tools=[SPACE])
    (call,) = answer.output
    assert (call.type, call.name, call.namespace) == ("function_call", "get", "mcp__box")
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": "done",
        "namespace": "mcp__box",
    }
    again = server.client.responses.create(
        model="test", input=[result], tools=[SPACE], previous_response_id=answer.id
    )
    assert again.output_text == "seen"
    assert [tool["type"] for tool in answer.to_dict()["tools"]] == ["namespace"]


def test_what_codex_sends(serve):
    """Its tools, its fields: what is not to be had is left out, and the answer says so."""
    server = serve(script("shell", '{"command":["ls"]}'))
    shell = {
        "type": "function",
        "name": "shell",
        "strict": False,
        "parameters": {"type": "object", "properties": {}},
    }
    body = {
        "model": "test",
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        ],
        "tools": [
            shell,
            PATCH,
            SPACE,
            {"type": "tool_search", "execution": "client", "description": "d", "parameters": {}},
            {"type": "web_search", "external_web_access": False, "search_content_types": ["text"]},
            {"type": "image_generation", "output_format": "png"},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "thread",
        "client_metadata": {"session": "s"},
    }
    answer = server.post("/v1/responses", body).json()
    assert answer["output"][0]["name"] == "shell"
    assert [tool["type"] for tool in answer["tools"]] == ["function", "custom", "namespace"]


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "local_shell"}], "tools[0].type"),
        ([{"type": "file_search", "vector_store_ids": []}], "tools[0].type"),
        ([PATCH | {"format": {"type": "grammar", "syntax": "lark"}}], "tools[0].format.definition"),
        ([PATCH | {"format": {"type": "text", "definition": "x"}}], "tools[0].format.definition"),
        ([PATCH, PATCH], "tools[1].name"),
        ([SPACE, SPACE], "tools[1].tools[0].name"),
        ([SPACE | {"tools": [SPACE]}], "tools[0].tools[0].type"),
    ],
)
def test_mistakes_are_named(server, tools, param):
    answer = server.post("/v1/responses", {"input": "hi", "tools": tools})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_forced_free_text_call(serve):
    server = serve(script("plain", "x"))
    plain = {"type": "custom", "name": "plain"}
    server.post(
        "/v1/responses", {"input": "hi", "tools": [plain], "tool_choice": {"type": "custom", "name": "plain"}}
    )
    constraint = server.source.seen[0].constraint
    assert constraint.answer is None
    assert constraint.calls[0].arguments.kind == "text"
    assert server.post("/v1/responses", {"input": "hi", "tools": [plain]}).status_code == 200
    later = server.source.seen[1].constraint
    assert later is None or later.answer is not None
