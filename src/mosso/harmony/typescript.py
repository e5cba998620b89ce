"""JSON schemas and tools as the TypeScript-like text that gpt-oss was trained on.

The model saw exactly the official renderer's text, so this one must be equal to it character by character,
oddities included. The oddities are marked "as trained".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from mosso.harmony.conversation import FunctionTool, ToolNamespace


def render_namespaces(namespaces: tuple[ToolNamespace, ...]) -> str:
    """The `# Tools` section, namespaces by name."""
    ordered = sorted(namespaces, key=lambda namespace: namespace.name.encode("utf-8", "surrogatepass"))
    return "\n\n".join(["# Tools", *map(_namespace, ordered)])


def _namespace(namespace: ToolNamespace) -> str:
    description = split_lines(namespace.description or "")
    if not namespace.tools:  # a built-in that takes free text, such as python
        return "\n".join([f"## {namespace.name}\n", *description])
    return "\n".join(
        [
            f"## {namespace.name}\n",
            *(f"// {line}" for line in description),
            f"namespace {namespace.name} {{\n",
            *map(_tool, namespace.tools),
            f"}} // namespace {namespace.name}",
        ]
    )


def _tool(tool: FunctionTool) -> str:
    arguments = "" if tool.parameters is None else f"_: {render_type(tool.parameters)}"
    comments = (f"// {line}" for line in split_lines(tool.description))
    return "\n".join([*comments, f"type {tool.name} = ({arguments}) => any;\n"])


def render_type(schema: object, indent: str = "") -> str:
    """The type of values that `schema` admits. What the format cannot say becomes `any`.

    `schema` is any JSON value: where a schema should stand, a client may have put something else.
    """
    variants = _get(schema, "oneOf")
    if _is_array(variants):
        return "".join(f"\n{indent} | {_variant(variant, indent)}" for variant in variants)
    kind = _get(schema, "type")
    if _is_array(kind):
        names = ["number" if name == "integer" else name for name in kind if isinstance(name, str)]
        return " | ".join(names) or "any"
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        items = _get(schema, "items", _ABSENT)
        # As trained: a union of items is not put in brackets.
        return "Array<any>" if items is _ABSENT else f"{render_type(items, indent)}[]"
    if kind == "string":
        values = _get(schema, "enum")
        strings = [value for value in values if isinstance(value, str)] if _is_array(values) else []
        return " | ".join(f'"{value}"' for value in strings) or "string"
    if kind in ("number", "integer"):
        return "number"
    return "boolean" if kind == "boolean" else "any"


def _object(schema: object, indent: str) -> str:
    description = _get(schema, "description")
    properties = _get(schema, "properties")
    required = _get(schema, "required")
    names = {name for name in required if isinstance(name, str)} if _is_array(required) else set()
    lines = [f"{indent}// {description}\n"] if isinstance(description, str) else []
    lines.append("{\n")
    if isinstance(properties, Mapping):
        for name, value in properties.items():
            key = name if name in names else f"{name}?"
            lines.extend(_property(key, value, indent))
    lines.append(f"{indent}}}")
    return "".join(lines)


def _property(key: str, schema: object, indent: str) -> Iterator[str]:
    title, description = _get(schema, "title"), _get(schema, "description")
    examples, variants = _get(schema, "examples"), _get(schema, "oneOf", _ABSENT)
    if isinstance(title, str):
        yield f"{indent}// {title}\n{indent}//\n"
    if variants is _ABSENT and isinstance(description, str):
        yield f"{indent}// {description}\n"  # as trained: further lines of a description are not commented
    if _is_array(examples) and examples:
        yield f"{indent}// Examples:\n"
        yield from (f'{indent}// - "{example}"\n' for example in examples if isinstance(example, str))
    if _is_array(variants):
        yield from _union_property(key, schema, variants, indent)
        return
    yield f"{indent}{key}: {_nullable_type(schema, indent + '    ')},"
    if variants is _ABSENT and (default := _default(schema)):
        yield f" // {default}"
    yield "\n"


def _union_property(key: str, schema: object, variants: Sequence[object], indent: str) -> Iterator[str]:
    """A property with oneOf: one line for each variant, each with its own comments."""
    description = _get(schema, "description")
    first = _get(variants[0], "description") if variants else None
    above = isinstance(description, str) and description != first
    if above:
        yield f"{indent}// {description}\n"
    if default := _default(schema):
        yield f"{indent}// {default}\n"
    yield f"{indent}{key}:\n"
    for index, variant in enumerate(variants):
        # As trained: a description above the property silences the first variant's own.
        silent = above and index == 0
        text = _get(variant, "description")
        shown = isinstance(text, str) and not silent and text != description
        comments = [str(text)] if shown else []
        if default := _default(variant):
            comments.append(default)
        yield f"{indent} | {_nullable_type(variant, indent + '   ')}{_trailing(comments)}\n"
    yield f"{indent},\n"


def _variant(schema: object, indent: str) -> str:
    """One variant of a oneOf that is not a property's own."""
    description = _get(schema, "description")
    comments = [description] if isinstance(description, str) else []
    # As trained: only here is the default of an enum quoted.
    if default := _default(schema, quote_enum=True):
        comments.append(default)
    return _nullable_type(schema, indent + "   ") + _trailing(comments)


def _trailing(comments: list[str]) -> str:
    return f" // {' '.join(comments)}" if comments else ""


def _nullable_type(schema: object, indent: str) -> str:
    text = render_type(schema, indent)
    # As trained: any "null" inside, even in a comment, counts as nullable already.
    return f"{text} | null" if _get(schema, "nullable") is True and "null" not in text else text


def _default(schema: object, *, quote_enum: bool = False) -> str:
    """`default: …`, or "" without a default. Strings are not escaped, and not quoted for an enum."""
    value = _get(schema, "default", _ABSENT)
    if value is _ABSENT:
        return ""
    values = _get(schema, "enum")
    if not isinstance(value, str) or (quote_enum and _is_array(values) and values):
        return f"default: {compact_json(value)}"
    return f"default: {value}" if _is_array(values) and values else f'default: "{value}"'


_ABSENT = object()


def _get(schema: object, key: str, absent: object = None) -> object:
    return schema.get(key, absent) if isinstance(schema, Mapping) else absent


def _is_array(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def compact_json(value: object) -> str:
    """JSON without spaces, keys in their order, numbers spelled as the official renderer spells them.

    (Its JSON reader gets the last digit of some floats with more than 15 digits wrong; this does not.)
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_string(str(k))}:{compact_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(compact_json, value)) + "]"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return str(value)
    assert isinstance(value, int | float), f"not a JSON value: {value!r}"
    try:
        return _float(float(value))
    except OverflowError:  # an integer that no float holds
        return "null"


def _string(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _float(value: float) -> str:
    """Shortest digits that give the number back: plain from 1e-5 to below 1e16, else as 1e16 or 1.5e-7."""
    if not math.isfinite(value):
        return "null"
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    if exponent == "-05":
        sign, digits = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
        return f"{sign}0.0000{digits.replace('.', '')}"
    return f"{mantissa}e{int(exponent)}"


def split_lines(text: str) -> list[str]:
    """Lines ended by LF or CRLF only; unlike str.splitlines, which also cuts at rarer separators."""
    *lines, rest = text.split("\n")
    return [line.removesuffix("\r") for line in lines] + ([rest] if rest else [])
