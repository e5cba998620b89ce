"""Bytes → a validated request model, with every mistake named in the client's own path form.

Null at the top level means "not given", as it does at OpenAI. Numbers must be finite, text must be UTF-8,
and nesting stops at 200 levels: the JSON reader refuses the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, from_json

from mosso.core.errors import NotFoundError, RequestError, UnsupportedError

M = TypeVar("M", bound="WireRequest")
MAX_FIELDS = 10_000
"""Of one object anywhere in a request."""
MAX_MESSAGES = 32_768
"""Of one conversation. No context holds more: each takes four tokens at least."""
_NULL = {"type": "null"}
_MOST_REPAIRS = 16  # readings of a request in which numbers are made whole


def _off(value: bool) -> bool:
    if value:
        raise PydanticCustomError("literal_error", "input should be false", {"expected": "false"})
    return value


Off = Annotated[bool, AfterValidator(_off), WithJsonSchema({"type": "boolean", "const": False})]
"""A switch of the dialect that cannot be on here. Not a Literal[False], which also takes 0."""


def _end_lists_early(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            _end_lists_early(part)


class WireModel(BaseModel):
    """A part of a request: unknown fields are refused, types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Reading a list ends at its first mistake: a million of them would cost half a minute to tell."""
        schema = handler(source)
        _end_lists_early(schema)
        return schema


class Sparse(WireModel):
    """A part whose reader drops nulls: what may be left out may be null, and so may fields that nobody knows.

    The schema says both.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        made = handler(schema)
        whole = handler.resolve_ref_schema(made)
        for name, field in whole.get("properties", {}).items():
            if name not in whole.get("required", ()) and _NULL not in field.get("anyOf", ()):
                about = {key: field.pop(key) for key in ("title", "default") if key in field}
                whole["properties"][name] = {"anyOf": [dict(field), _NULL], **about}
        whole["additionalProperties"] = _NULL
        return made


class WireRequest(Sparse):
    """A whole request body. `refused` are fields of the dialect that mosso does not have, with the reason."""

    refused: ClassVar[Mapping[str, str]] = {}


class SchemaOf:
    """Annotates a value that is read later, with `adapter`: the document already says what that reads."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self._adapter = adapter

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(self._adapter.core_schema)


def read_json(body: bytes) -> dict[str, Any]:
    """The body's JSON object; RequestError for anything else."""
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise RequestError("The request body must be a JSON object.", code="invalid_json")
    if body.count(b",") >= MAX_FIELDS:  # else no object is so large
        _check_sizes(data)
    return data


def _check_sizes(data: dict[str, Any]) -> None:
    """RequestError names an object that has too many fields."""
    todo: list[tuple[str, Any]] = list(data.items())
    if len(data) > MAX_FIELDS:
        raise RequestError(f"The request has more than {MAX_FIELDS} fields.", code="object_too_large")
    while todo:
        param, value = todo.pop()
        if isinstance(value, dict):
            if len(value) > MAX_FIELDS:
                raise RequestError(
                    f"{path_text([param])} has an object with more than {MAX_FIELDS} fields.",
                    param=path_text([param]),
                    code="object_too_large",
                )
            value = value.values()
        if not isinstance(value, str | int | float | None):
            todo += [(param, part) for part in value if isinstance(part, dict | list)]


def parse_request(kind: type[M], body: bytes) -> M:
    """`body` as a `kind`; RequestError or UnsupportedError names the first field that is wrong."""
    data = {name: value for name, value in read_json(body).items() if value is not None}
    for name in data:
        if name in kind.refused:
            raise UnsupportedError(f"{name} is not supported: {kind.refused[name]}", param=name)
    try:
        return _validated(kind, data)
    except ValidationError as error:
        raise as_request_error(error, data) from None


def _validated(kind: type[M], data: dict[str, Any]) -> M:
    for _ in range(_MOST_REPAIRS):
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            if not _made_whole(error, data):
                raise
    return kind.model_validate(data)


def _made_whole(error: ValidationError, data: Any) -> bool:
    """Whether numbers such as 2.0 were refused as integers; JSON does not tell them apart: they are 2 now."""
    found = False
    for item in error.errors(include_url=False):
        number = item["input"]
        if item["type"] == "int_type" and isinstance(number, float) and number.is_integer():
            *way, last = client_path(item["loc"], data, missing=False)
            owner = data
            for step in way:
                owner = owner[step]
            owner[last] = int(number)
            if isinstance(owner, list):  # reading it ended here: what follows is of the same kind
                owner[:] = [int(n) if isinstance(n, float) and n.is_integer() else n for n in owner]
            found = True
    return found


def check_model(name: str | None, served: Sequence[str]) -> None:
    """NotFoundError unless `name` is served here; no name means the one model there is."""
    if name is not None and name not in served:
        raise NotFoundError(
            f"The model {_short(name)} does not exist; this server has {served[0]!r}.",
            param="model",
            code="model_not_found",
        )


def as_request_error(error: ValidationError, data: Any) -> RequestError:
    """The most telling of pydantic's complaints: the one that lies deepest in the client's data.

    Of equally deep ones a wrong value tells more than a wrong type: it comes from the union's member that
    the client meant.
    """
    located = [(_located(item, data), item) for item in error.errors(include_url=False)]
    path, item = max(located, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
    param = path_text(path)
    return RequestError(_sentence(param, item), param=param if path else None, code=_code(item))


def client_path(location: Sequence[Any], data: Any, *, missing: bool) -> tuple[int | str, ...]:
    """A pydantic location without the names of union members, which the client never wrote.

    `missing`: the last step names a required field that is not there.
    """
    path: list[int | str] = []
    here = data
    for position, step in enumerate(location):
        if (isinstance(here, list) and isinstance(step, int)) or (isinstance(here, dict) and step in here):
            path.append(step)
            here = here[step]
        elif missing and isinstance(here, dict) and position == len(location) - 1:
            path.append(step)
    return tuple(path)


def _located(item: ErrorDetails, data: Any) -> tuple[int | str, ...]:
    path = client_path(item["loc"], data, missing=item["type"] == "missing")
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return (*path, item["ctx"]["discriminator"].strip("'"))  # the field that chooses the variant
    return path


def path_text(path: Sequence[int | str]) -> str:
    """messages[0].content; a client's own long key is cut."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if len(step) <= 80 else step[:77] + "..."
            text += f".{name}" if text else name
    return text


def _sentence(param: str, item: ErrorDetails) -> str:
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"Unrecognized request argument supplied: {param}"
    if kind in ("missing", "union_tag_not_found"):
        return f"Missing required parameter: '{param}'."
    if kind in ("literal_error", "union_tag_invalid"):
        context = item.get("ctx", {})
        wanted = context.get("expected") or context.get("expected_tags")
        given = context.get("tag") or item["input"]
        return f"Invalid value for '{param}': {_short(given)} is not supported here; expected {wanted}."
    return f"Invalid value for '{param}': {item['msg'][:1].lower()}{item['msg'][1:]}."


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _code(item: ErrorDetails) -> str:
    kind = item["type"]
    if kind == "extra_forbidden":
        return "unknown_parameter"
    if kind == "missing":
        return "missing_required_parameter"
    return "invalid_type" if kind.endswith("_type") else "invalid_value"
