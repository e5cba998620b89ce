"""Built-in tools in a conversation's history: what the model is shown of calls that were made before."""

import pytest

from mosso.api.caller import Caller
from mosso.api.responses_hosted import Gone, browser_call, error_text, read_arguments
from mosso.api.responses_schema import ResponsesRequest
from mosso.core.errors import RequestError

CALL = {"type": "mcp_call", "server_label": "box", "name": "wipe.all", "arguments": "{}", "id": "mcp_1"}
ASKED = {
    "type": "mcp_approval_request",
    "server_label": "box",
    "name": "add",
    "arguments": "{}",
    "id": "mcpr_1",
}
USER = {"role": "user", "content": "hi"}
FINAL = {"type": "message", "role": "assistant", "content": "So."}


@pytest.fixture
def prompt(make, tokenizer):
    """The prompt that items become, from the first user message on."""
    services, _ = make("")

    def of(*items):
        body = ResponsesRequest.model_validate({"input": [USER, *items]})
        request = services.responses.prepare(body, [], Caller()).request
        return tokenizer.decode(request.prompt, control=True).partition("<|start|>user")[2]

    return of


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"output": "wiped"}, "wiped"),
        ({"error": "gone"}, "gone"),
        ({"error": {"type": "mcp_protocol_error", "code": 1, "message": "lost"}}, "lost"),
        ({"error": {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "no"}]}}, "no"),
        ({}, ""),
    ],
)
def test_a_call_of_a_server_that_is_not_named_any_more(prompt, fields, told):
    said = prompt(CALL | fields)
    assert "to=functions.wipe_all<|channel|>commentary <|constrain|>json<|message|>{}<|call|>" in said
    result = f"<|start|>functions.wipe_all to=assistant<|channel|>commentary<|message|>{told}<|end|>"
    assert said.endswith(result + "<|start|>assistant")


def test_a_request_that_nobody_answered(prompt):
    assert "did not say.<|end|><|start|>user" in prompt(ASKED, USER)


def test_an_answer_comes_once(prompt):
    """An approved call that was run stands for the approval; a reason is passed on."""
    yes = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    run = CALL | {"name": "add", "approval_request_id": "mcpr_1", "output": "3"}
    said = prompt(ASKED, yes, run)
    assert said.count("to=functions.add") == 1
    assert "<|message|>3<|end|>" in said
    no = yes | {"approve": False, "reason": "Too risky."}
    assert "does not want this to be run. Too risky.<|end|>" in prompt(ASKED, no)
    with pytest.raises(RequestError, match="mcpr_1"):
        prompt(yes)


async def test_a_tool_that_is_gone_is_not_run():
    outcome = await Gone("box", "add").run("functions.add", "{}")
    assert outcome.failed
    assert "not offered any more" in outcome.text


def test_code_and_searches_are_thinking(prompt):
    """They are seen while the turn goes on, and dropped after its answer."""
    code = {"type": "code_interpreter_call", "code": "1 + 1", "outputs": [{"type": "logs", "logs": "2"}]}
    open_page = {"type": "open_page", "url": "https://a.example/"}
    search = {"type": "web_search_call", "action": open_page, "results": [{"text": "[0] A"}]}
    said = prompt(code, search)
    assert "to=python<|channel|>analysis code<|message|>1 + 1<|call|>" in said
    assert "<|start|>python to=assistant<|channel|>analysis<|message|>2<|end|>" in said
    assert '{"id": "https://a.example/"}<|call|>' in said
    assert "<|start|>browser.open to=assistant<|channel|>analysis<|message|>[0] A<|end|>" in said
    assert "analysis" not in prompt(code, search, FINAL, USER)


@pytest.mark.parametrize(
    ("action", "call"),
    [
        ({"type": "search", "query": "q"}, ("browser.search", {"query": "q"})),
        ({"type": "find_in_page", "pattern": "p"}, ("browser.find", {"pattern": "p"})),
        ({}, ("browser.search", {"query": ""})),
    ],
)
def test_what_an_action_was(action, call):
    assert browser_call(action) == call


def test_odd_values_are_text():
    assert error_text({"x": 1}) == "{'x': 1}"
    assert read_arguments("[1]") == {}
    assert read_arguments("{") == {}
