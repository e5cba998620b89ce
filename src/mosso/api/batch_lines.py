"""The lines of batch files: requests in, results out; what `/v1/batches` and `mosso generate` share.

One JSON object a line. A request: {"custom_id": ..., "method": "POST", "url": ..., "body": {...}}. A result:
{"id", "custom_id", "response": {"status_code", "request_id", "body"} or null, "error": {"code", "message"} or
null}.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json

LONGEST_ID = 512  # characters of a custom_id
MOST_ERRORS = 100  # that are told of one file
_BOM = b"\xef\xbb\xbf"


class LineProblem(BaseModel):
    """What is wrong with a line, as a failed batch lists it. `line` counts from 1; None: the whole file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class LineError(Exception):
    """A line is not a request."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.problem = LineProblem(code=code, message=message, param=param)


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request: its identity in the output, where it goes, what it says."""

    custom_id: str
    url: str
    body: dict[str, Any]


def read_object(text: bytes) -> dict[str, Any]:
    """The line's JSON object; LineError for anything else."""
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise LineError("invalid_json_line", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise LineError("invalid_json_line", "a line must be a JSON object")
    return value


def read_line(text: bytes) -> BatchLine:
    """The request that a line holds; LineError names the first field that is missing or wrong."""
    value = read_object(text)
    for name in ("custom_id", "method", "url", "body"):
        if value.get(name) is None:
            raise LineError("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    for name in ("custom_id", "method", "url"):
        if not isinstance(value[name], str):
            raise LineError("invalid_type", f"Invalid value for '{name}': it must be a string.", name)
    if not 1 <= len(value["custom_id"]) <= LONGEST_ID:
        raise LineError("invalid_value", f"custom_id must have 1 to {LONGEST_ID} characters.", "custom_id")
    if value["method"] != "POST":
        raise LineError("invalid_method", "Invalid value for 'method': only POST is supported.", "method")
    if not isinstance(value["body"], dict):
        raise LineError("invalid_type", "Invalid value for 'body': it must be an object.", "body")
    return BatchLine(value["custom_id"], value["url"], value["body"])


def result_line(custom_id: str, *, status: int, body: bytes) -> bytes:
    """The result of a request that was answered. `body` is JSON: the answer, or what is wrong."""
    response = b'{"status_code":%d,"request_id":"req_%s","body":%s}' % (status, _hex(), body)
    return _result(custom_id, response, b"null")


def failure_line(custom_id: str, code: str, message: str) -> bytes:
    """The result of a request that was never answered."""
    return _result(custom_id, b"null", to_json({"code": code, "message": message}))


def _result(custom_id: str, response: bytes, error: bytes) -> bytes:
    return b'{"id":"batch_req_%s","custom_id":%s,"response":%s,"error":%s}\n' % (
        _hex(),
        to_json(custom_id),
        response,
        error,
    )


def _hex() -> bytes:
    return uuid.uuid4().hex.encode()


class LineSplitter:
    """Pieces of a file → its lines with their numbers, from 1, without those that are blank.

    Only a line feed ends a line. At most one line of `longest` bytes and one piece are held: a longer line
    comes as None.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._number = 0
        self._parts: list[bytes] = []  # of the line that has begun
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that end in this piece."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._add(end)
            yield from self._ended()
        self._add(rest)

    def close(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, if no line feed ends it."""
        yield from self._ended()

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._longest:
            self._parts.append(part)
        else:
            self._parts.clear()

    def _ended(self) -> Iterator[tuple[int, bytes | None]]:
        self._number += 1
        line = b"".join(self._parts) if self._size <= self._longest else None
        self._parts, self._size = [], 0
        if line is not None and self._number == 1:
            line = line.removeprefix(_BOM)
        if line is None or line.strip():
            yield self._number, line


class LineChecker:
    """Whether a whole file is a batch for `endpoint`. Fed line by line; it holds the custom_ids only."""

    def __init__(self, endpoint: str, models: Sequence[str], *, most: int, longest: int) -> None:
        self.problems: list[LineProblem] = []  # the first MOST_ERRORS
        self.total = 0
        self.model = models[0]  # what the file's first line asks for
        self._endpoint = endpoint
        self._models = models
        self._most = most
        self._longest = longest
        self._ids: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether to read on is of no use."""
        return self.total > self._most or len(self.problems) >= MOST_ERRORS

    def see(self, number: int, text: bytes | None) -> None:
        self.total += 1
        try:
            self._check(text)
        except LineError as error:
            if len(self.problems) < MOST_ERRORS:
                self.problems.append(error.problem.model_copy(update={"line": number}))

    def finish(self) -> None:
        """Every line has been seen, or more than enough."""
        if self.total > self._most:
            message = f"The file has more than {self._most} requests."
            self.problems.insert(0, LineProblem(code="too_many_tasks", message=message))
        if not self.total:
            message = "The file holds no requests."
            self.problems.append(LineProblem(code="empty_file", message=message))

    def _check(self, text: bytes | None) -> None:
        if text is None:
            raise LineError("line_too_large", f"The line is over the limit of {self._longest} bytes.")
        line = read_line(text)
        if line.custom_id in self._ids:
            message = f"The custom_id {line.custom_id[:80]!r} stands in an earlier line; it must be unique."
            raise LineError("duplicate_custom_id", message, "custom_id")
        self._ids.add(line.custom_id)
        if line.url != self._endpoint:
            message = f"The url {line.url[:80]!r} is not the batch's endpoint, {self._endpoint}."
            raise LineError("invalid_url", message, "url")
        model = line.body.get("model")
        if isinstance(model, str):
            self._check_model(model)
        for name in ("stream", "background"):
            if line.body.get(name):
                raise LineError(
                    "unsupported_parameter", f"{name} is not supported in a batch.", f"body.{name}"
                )

    def _check_model(self, model: str) -> None:
        if model not in self._models:
            message = f"The model {model[:80]!r} does not exist; this server has {self._models[0]!r}."
            raise LineError("model_not_found", message, "body.model")
        if self.total == 1:
            self.model = model
