"""Python functions as tools, without a model."""

from __future__ import annotations

import asyncio
import enum
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field

from mosso.core.errors import UsageError
from mosso.llm.functions import LONGEST_RESULT, Function, described, output_format


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


class Place(BaseModel):
    city: str
    country: str = "France"


def weather(place: Place, unit: Unit = Unit.CELSIUS, days: Annotated[int, Field(ge=1)] = 1) -> str:
    """The weather at a place."""
    return f"{place.city}, {place.country}: {days} days in {unit.value}"


def test_a_signature_becomes_a_schema():
    function = Function.of(weather).description["function"]
    assert function["name"] == "weather"
    assert function["description"] == "The weather at a place."
    parameters = function["parameters"]
    assert parameters["required"] == ["place"]
    assert parameters["properties"]["days"] == {
        "default": 1, "minimum": 1, "title": "Days", "type": "integer",
    }  # fmt: skip
    assert parameters["$defs"]["Unit"]["enum"] == ["celsius", "kelvin"]


async def test_arguments_become_values_of_the_hinted_types():
    run = Function.of(weather)
    assert await run('{"place": {"city": "Lyon"}, "unit": "kelvin"}') == "Lyon, France: 1 days in kelvin"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("{", "arguments"),
        ("{}", "place"),
        ('{"place": {"city": 3}}', "place.city"),
        ('{"place": {"city": "Lyon"}, "days": 0}', "days"),
        ('{"place": {"city": "Lyon"}, "sky": 1}', "sky"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model(arguments, names):
    told = json.loads(await Function.of(weather)(arguments))
    assert told["error"].startswith("wrong arguments: ")
    assert names in told["error"]


async def test_what_a_function_raises_is_told_to_the_model():
    def divide(a: float, b: float) -> float:
        return a / b

    run = Function.of(divide)
    assert await run('{"a": 1, "b": 2}') == "0.5"
    assert json.loads(await run('{"a": 1, "b": 0}')) == {"error": "ZeroDivisionError: float division by zero"}


class UnsayableError(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StopIteration(), "StopIteration: "),  # of a next() that found nothing
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (GeneratorExit(), "GeneratorExit: "),
        (UnsayableError(), "UnsayableError: it cannot be shown"),
        (OSError("no \udcff"), "OSError: no ?"),
    ],
)
async def test_whatever_a_function_raises_is_told_to_the_model(error, told):
    def now() -> None:
        raise error

    async def later() -> None:
        raise error

    wait = asyncio.wait_for(Function.of(now)("{}"), 10)
    assert json.loads(await wait) == {"error": told}
    if not isinstance(error, StopIteration):  # Python makes a RuntimeError of it
        assert json.loads(await Function.of(later)("{}")) == {"error": told}


def missing(value: int) -> int:
    raise KeyError(value)


async def test_what_a_validator_raises_is_told_too():
    def take(a: Annotated[int, AfterValidator(missing)]) -> None: ...

    assert json.loads(await Function.of(take)('{"a": 1}')) == {"error": "KeyError: 1"}


@pytest.mark.filterwarnings("error")
async def test_parameters_may_have_any_name_and_defaults_of_pydantic():
    def take(schema: str, json: int = 1, model_config: int = Field(2, ge=2), copy: int | None = None) -> Any:
        return [schema, json, model_config, copy]

    function = Function.of(take)
    parameters = function.description["function"]["parameters"]
    assert list(parameters["properties"]) == ["schema", "json", "model_config", "copy"]
    assert parameters["properties"]["model_config"]["minimum"] == 2
    assert await function('{"schema": "a", "copy": 3}') == '["a",1,2,3]'
    assert "model_config" in await function('{"schema": "a", "model_config": 1}')


class Odd:
    def __str__(self) -> str:
        return "an odd thing"


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        ({"a": [1, 2.5]}, '{"a":[1,2.5]}'),
        (Place(city="Lyon"), '{"city":"Lyon","country":"France"}'),
        (Point(3), '{"x":3}'),
        (Unit.KELVIN, '"kelvin"'),
        (Odd(), "an odd thing"),
        ("a name \udcff", "a name ?"),
        ({"a": "\udcff"}, "{'a': '\\udcff'}"),
        ("x" * (LONGEST_RESULT + 7), "x" * LONGEST_RESULT + "… (7 characters more)"),
    ],
)
async def test_results_become_text(result, text):
    def give() -> Any:
        return result

    assert await Function.of(give)("{}") == text


async def test_coroutines_and_callable_objects():
    async def later(n: int) -> int:
        return n + 1

    class Adder:
        def __call__(self, n: Literal[1, 2]) -> int:
            return n + 10

    assert await Function.of(later)('{"n": 1}') == "2"
    assert await Function.of(Adder())('{"n": 2}') == "12"
    assert Function.of(Adder()).name == "Adder"


def unhinted(a, b: int) -> None: ...
def starred(*values: int) -> None: ...
def private(_a: int) -> None: ...
def odd(a: object()) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (unhinted, "unhinted: the parameter a needs a type hint"),
        (starred, "starred: the model gives arguments by name"),
        (private, "must not begin with an underscore"),
        (lambda a: a, "<lambda>"),
    ],
)
def test_functions_that_no_model_could_call_are_refused(function, says):
    with pytest.raises(UsageError, match=says):
        Function.of(function)


def test_a_type_without_a_schema_is_named():
    def draw(canvas: type(pytest)) -> None: ...

    draw.__annotations__["canvas"] = type(pytest)
    with pytest.raises(UsageError, match="draw: a parameter's type has no JSON schema"):
        Function.of(draw)


def test_tools_are_functions_or_descriptions():
    description = {"type": "function", "function": {"name": "later", "parameters": {}}}
    found, functions = described([weather, description])
    assert found[1] is description
    assert list(functions) == ["weather"]
    with pytest.raises(UsageError, match="two tools have the name weather"):
        described([weather, weather])
    with pytest.raises(UsageError, match="a tool is a function"):
        described(["weather"])
    with pytest.raises(UsageError, match="give a list"):
        described(weather)


def test_an_output_type_leaves_no_room_for_other_properties():
    adapter, form = output_format(Place)
    schema = form["json_schema"]["schema"]
    assert form["json_schema"]["name"] == "Place"
    assert schema["additionalProperties"] is False
    assert adapter.validate_json('{"city": "Lyon"}') == Place(city="Lyon")
    _, many = output_format(list[Place])
    assert many["json_schema"]["schema"]["$defs"]["Place"]["additionalProperties"] is False
    assert output_format(dict[str, int])[1]["json_schema"]["schema"]["additionalProperties"] == {
        "type": "integer"
    }
    with pytest.raises(UsageError, match="output_type"):
        output_format(type(pytest))
