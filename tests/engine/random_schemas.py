"""Random JSON schemas: nested, with references, enums, patterns, numbers, unions, and what is refused."""

from __future__ import annotations

import random
from typing import Any

NAMES = ["a", "b", "id", "long name", "ö", '"quoted"', "x/y", "$ref"]
PATTERNS = [
    r"^[a-c]{1,4}$",
    r"^\d{3}-\d{2}$",
    "x|yy",
    r"^[A-Z][a-z]*$",
    r"^(ab|c)+$",
    r"^\w{2,5}\.\w{2}$",
    "^.{0,3}$",
]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "email", "hostname"]
WORDS = ["red", "green", "", "ünï", 'a"b', "line\nbreak", 1, -2.5, True, None, {"k": [1]}, []]
BY_NAME = {"properties", "patternProperties", "$defs"}  # their keys are names
VALUES = {"enum", "const", "examples", "required", "dependentRequired"}  # these hold no schemas
EVERYWHERE = {"type", "properties", "required", "items", "$defs", "$ref"}
Schema = Any


class Schemas:
    """One schema from one seed: the same on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._defs: dict[str, Schema] = {}

    def make(self) -> dict[str, Any]:
        one = self._random
        schema = self._object(3) if one.random() < 0.6 else self._any(3)
        if one.random() < 0.3:
            self._defs["node"] = self._node()
            schema = {"type": "object", "properties": {"it": schema, "tree": {"$ref": "#/$defs/node"}},
                      "required": ["it", "tree"], "additionalProperties": False}  # fmt: skip
        return schema | {"$defs": self._defs} if self._defs else schema

    def _any(self, depth: int) -> Schema:
        if depth == 0 or self._random.random() < 0.35:
            return self._leaf()
        if self._random.random() < 0.06:
            return self._odd(depth)
        return self._random.choice((self._object, self._object, self._array, self._union, self._ref))(depth)

    def _leaf(self) -> Schema:
        one = self._random
        match one.randrange(9):
            case 0:
                return {"type": one.choice(["null", "boolean"])}
            case 1:
                return {"enum": one.sample(WORDS, one.randint(1, 4))}
            case 2:
                return {"const": one.choice(WORDS)}
            case 3 | 4:
                return self._number()
            case 5:
                return {"type": "string", "pattern": one.choice(PATTERNS)}
            case 6:
                return {"type": "string", "format": one.choice(FORMATS)}
            case 7:
                low = one.randint(0, 3)
                return {"type": "string", "minLength": low, "maxLength": low + one.randint(0, 6)}
            case _:
                return {"type": one.choice([["integer", "null"], ["boolean", "string"]]), "maxLength": 4}

    def _number(self) -> Schema:
        one = self._random
        low = one.choice([one.randint(-300, 300), round(one.uniform(-9, 9), 2)])
        kind = one.choice(["integer", "number"])
        bounds = {one.choice(["minimum", "exclusiveMinimum"]): low,
                  one.choice(["maximum", "exclusiveMaximum"]): low + one.randint(2, 500)}  # fmt: skip
        if one.random() < 0.2:
            return {"type": "integer", "multipleOf": one.choice([2, 5, 10]), "minimum": 0, "maximum": 100}
        return {"type": kind} | (bounds if one.random() < 0.8 else {})

    def _object(self, depth: int) -> dict[str, Any]:
        one = self._random
        names = one.sample(NAMES, one.randint(0, 4))
        made: dict[str, Any] = {
            "type": "object",
            "properties": {name: self._any(depth - 1) for name in names},
            "required": [name for name in names if one.random() < 0.6],
            "additionalProperties": one.choice([False, False, False, {"type": "integer", "maximum": 9}]),
        }
        if one.random() < 0.05:
            made["patternProperties"] = {"^z": {"type": "boolean"}}
        if one.random() < 0.3:
            made |= {"title": "T", "description": "said to people", "examples": [{}], "$comment": "none"}
        return made

    def _array(self, depth: int) -> Schema:
        one = self._random
        low = one.randint(0, 2)
        made = {
            "type": "array",
            "items": self._any(depth - 1),
            "minItems": low,
            "maxItems": low + one.randint(0, 2),
        }
        if one.random() < 0.2:
            return {
                "type": "array",
                "prefixItems": [self._leaf(), self._leaf()],
                "items": False,
                "minItems": 2,
            }
        return made

    def _union(self, depth: int) -> Schema:
        one = self._random
        kind = one.choice(["anyOf", "anyOf", "anyOf", "oneOf", "allOf"])
        if kind == "allOf":
            first = self._object(depth - 1)
            return {"allOf": [first | {"additionalProperties": True}, {"type": "object", "maxProperties": 9}]}
        return {kind: [self._any(depth - 1) for _ in range(one.randint(1, 3))]}

    def _ref(self, depth: int) -> Schema:
        name = f"d{len(self._defs)}"
        self._defs[name] = None  # its place, while what it holds is made
        self._defs[name] = self._any(depth - 1)
        return {"$ref": f"#/$defs/{name}"}

    def _node(self) -> Schema:
        """Refers to itself, and may end at any depth."""
        children = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}
        inner = {"type": "object", "properties": {"next": children}, "required": ["next"]}
        return {"anyOf": [self._leaf(), inner | {"additionalProperties": False}]}

    def _odd(self, depth: int) -> Schema:
        """What few servers honour."""
        inner = self._any(depth - 1)
        return self._random.choice([
            {"not": {"type": "string"}},
            {"if": {"type": "string"}, "then": {"maxLength": 3}, "else": {"type": "null"}},
            {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "maxItems": 3},
            {"type": "object", "dependentRequired": {"a": ["b"]}},
            {"type": "array", "contains": {"const": 1}, "maxItems": 3},
            {"type": "object", "propertyNames": {"pattern": "^a"}, "maxProperties": 2},
            {"anyOf": [inner, {"not": {}}]},
            {"type": "object", "additionalProperties": inner, "maxProperties": 2},
        ])  # fmt: skip


def constructs(schema: Schema) -> set[str]:
    """The keywords and formats of the schema, at any depth, but what all have; no names of properties."""
    if isinstance(schema, list):
        return set().union(*map(constructs, schema))
    if not isinstance(schema, dict):
        return set()
    found = schema.keys() - EVERYWHERE
    for key, value in schema.items():
        if key in BY_NAME:
            found |= constructs(list(value.values()))
        elif key == "format":
            found.add(value)
        elif key not in VALUES:
            found |= constructs(value)
    return found
