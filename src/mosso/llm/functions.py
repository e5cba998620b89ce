"""Python functions as tools: a description from the signature, a call from the model's JSON.

A function needs a type for each parameter; its docstring is what the model reads. Arguments are validated as
the types say (pydantic's rules). What goes wrong, in the arguments or in the function, is told to the model,
which may try again; nothing is raised. A plain function runs in a thread, a coroutine on the engine's own
event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from mosso.core.errors import UsageError

Described = dict[str, Any]  # a tool as the API knows it
Tool = Callable[..., Any] | Described
LONGEST_RESULT = 1 << 20  # characters


@dataclass(frozen=True, slots=True)
class Function:
    """A callable that the model may call."""

    name: str
    run: Callable[..., Any]
    arguments: type[BaseModel]
    description: Described

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Function:
        """UsageError names the parameter that the model could not give."""
        name = getattr(function, "__name__", type(function).__name__)
        arguments = _arguments(function, name)
        try:
            schema = arguments.model_json_schema()
        except PydanticUserError as error:
            raise UsageError(f"{name}: a parameter's type has no JSON schema: {error.message}") from None
        schema.pop("title", None)
        about = inspect.getdoc(function) or ""
        described = {"name": name, "description": about, "parameters": schema}
        return cls(name, function, arguments, {"type": "function", "function": described})

    async def __call__(self, arguments: str) -> str:
        """The result as text: a string as it is, anything else as JSON."""
        # In a thread: a function may wait, or use this very LLM.
        made = await asyncio.to_thread(_made, partial(self._called, arguments))
        while not isinstance(made, str):
            made = await asyncio.to_thread(_made, await _awaited(made))
        return made

    def _called(self, arguments: str) -> Any:
        try:
            given = self.arguments.model_validate_json(arguments)
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()]
            return _told(f"wrong arguments: {'; '.join(wrong)}")
        fields = self.arguments.model_fields.items()
        return self.run(**{str(field.alias): getattr(given, name) for name, field in fields})


def described(tools: Sequence[Tool]) -> tuple[list[Described], dict[str, Function]]:
    """The tools as the API wants them, and those that can be run here, by name."""
    found: list[Described] = []
    functions: dict[str, Function] = {}
    if not isinstance(tools, Sequence):
        raise UsageError("tools: give a list of functions")
    for tool in tools:
        if isinstance(tool, dict):
            found.append(tool)
            continue
        if not callable(tool):
            raise UsageError("a tool is a function, or the description of one as a dict")
        function = Function.of(tool)
        if function.name in functions:
            raise UsageError(f"two tools have the name {function.name}")
        functions[function.name] = function
        found.append(function.description)
    return found, functions


def _arguments(function: Callable[..., Any], name: str) -> type[BaseModel]:
    try:
        hinted = function if inspect.isroutine(function) else type(function).__call__
        hints = get_type_hints(hinted, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(f"{name}: its type hints cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UsageError(f"{name}: the model gives arguments by name; {parameter} cannot be given so")
        if parameter.name not in hints:
            raise UsageError(f"{name}: the parameter {parameter.name} needs a type hint")
        if parameter.name.startswith("_"):
            raise UsageError(f"{name}: the parameter {parameter.name} must not begin with an underscore")
        # The parameter's name is an alias, as many a good one (json, copy, schema) is a BaseModel's own.
        alias, kind = Field(alias=parameter.name), hints[parameter.name]
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"parameter_{place}"] = (Annotated[kind, alias], default)
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise UsageError(f"{name}: a parameter's type has no JSON schema: {error}") from None


def _made(work: Callable[[], Any]) -> str | Awaitable[Any]:
    """`work`'s result as text, or what is to be awaited for it. For a thread: what a user's function raises
    may be anything, and StopIteration and SystemExit would hang an event loop, or end it."""
    try:
        result = work()
        return result if inspect.isawaitable(result) else _text(result)
    except BaseException as error:
        return _failed(error)


async def _awaited(work: Awaitable[Any]) -> Callable[[], Any]:
    """Gives the result; cancelling goes through."""
    try:
        result = await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        result = _failed(error)
    return lambda: result


def _failed(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:  # it is the user's class
        said = "it cannot be shown"
    return _told(f"{type(error).__name__}: {said}")


def _text(result: Any) -> str:
    if isinstance(result, str):
        text = result
    else:
        try:
            text = to_json(result).decode()
        except PydanticSerializationError:
            text = str(result)
    text = _valid(text)
    if len(text) > LONGEST_RESULT:
        return text[:LONGEST_RESULT] + f"… ({len(text) - LONGEST_RESULT} characters more)"
    return text


def _valid(text: str) -> str:
    """Without lone surrogates, which file names may have and UTF-8 has not."""
    return text.encode(errors="replace").decode()


def _told(problem: str) -> str:
    return to_json({"error": _valid(problem)}).decode()


def output_format(kind: Any) -> tuple[TypeAdapter[Any], Described]:
    """Of a pydantic model, or any type that pydantic knows: its adapter, and the response_format that makes
    the model answer with it."""
    try:
        adapter = TypeAdapter(kind)
        schema = _closed(adapter.json_schema())
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UsageError(f"output_type: {kind!r} has no JSON schema: {error}") from None
    name = getattr(kind, "__name__", "answer")
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)[:64]
    return adapter, {
        "type": "json_schema",
        "json_schema": {"name": safe or "answer", "schema": schema, "strict": True},
    }


def _closed(schema: Any) -> Any:
    """The schema with no room for properties that nobody named: pydantic would drop them in silence."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
