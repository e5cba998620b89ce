import pytest

from mosso.api.tool_calls import check_schema, function_name, offered_functions, recipient
from mosso.core.errors import RequestError
from mosso.harmony.conversation import FunctionTool, ToolNamespace

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name="f", **fields):
    return {"type": "function", "function": {"name": name} | fields}


def test_functions_become_a_namespace(chat):
    body = chat(tools=[tool(description="d", parameters=SCHEMA), tool("g", parameters={})])
    functions = (FunctionTool("f", "d", SCHEMA), FunctionTool("g"))
    assert offered_functions(body) == ToolNamespace("functions", tools=functions)


def test_no_tools_and_tool_choice_none_offer_nothing(chat):
    assert offered_functions(chat()) is None
    assert offered_functions(chat(tools=[])) is None
    assert offered_functions(chat(tools=[tool()], tool_choice="none")) is None
    assert offered_functions(chat(tools=[tool()], tool_choice="auto"))


def test_names_must_differ(chat):
    with pytest.raises(RequestError) as caught:
        offered_functions(chat(tools=[tool("a"), tool("b"), tool("a")]))
    assert caught.value.param == "tools[2].function.name"


def nested(depth: int) -> dict:
    schema: dict = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"properties": {}},
        {"type": "objekt"},
        {"type": "object", "properties": []},
        {"type": "object", "required": "a"},
        {"type": "object", "minimum": float("inf")},
        nested(2000),
    ],
)
def test_a_schema_that_is_none(chat, schema):
    with pytest.raises(RequestError) as caught:
        check_schema(schema, "tools[0].function.parameters")
    assert caught.value.param == "tools[0].function.parameters"
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("pattern", [r"^\p{L}+$", "(?<year>[0-9]{4})", "a{99999999999}"])
def test_patterns_are_not_pythons(pattern):
    check_schema({"type": "string", "pattern": pattern}, "s", any_type=True)


def test_a_tools_schema_is_checked(chat):
    with pytest.raises(RequestError) as caught:
        offered_functions(chat(tools=[tool("a"), tool("b", parameters={"type": 5})]))
    assert caught.value.param == "tools[1].function.parameters"


def test_names_and_recipients():
    assert function_name(recipient("f")) == "f"
    assert function_name("python") == "python"
    assert function_name("functions.") == "functions."
