"""The error tree. Every error that mosso raises on purpose is one of these.

    MossoError
    ├── UsageError             a wrong flag, path or setting; the command line prints it, no traceback
    │   └── CheckpointError    a file or tensor is not what it must be; names both
    ├── RequestError           the client's request is wrong; names the parameter (HTTP 400)
    │   ├── UnsupportedError   valid in the dialect, not supported here (HTTP 400)
    │   ├── UnauthorizedError  no API key, or not one of ours (HTTP 401)
    │   ├── NotFoundError      the named model or object does not exist (HTTP 404)
    │   └── TooLargeError      a body or list over its limit (HTTP 413)
    ├── OverloadedError        no room for the request now; says when to come back (HTTP 429)
    ├── QuotaError             the caller may not have it, now or later (HTTP 429)
    ├── UnavailableError       draining, starting, or the engine is gone (HTTP 503)
    └── EngineError            the engine failed while it worked on a request (HTTP 500)

Errors travel between processes, so each one survives pickling.
"""

from __future__ import annotations


class MossoError(Exception):
    """Root of the tree; `message` is one sentence for a person."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UsageError(MossoError):
    """The person at the command line asked for something that cannot be done."""


class CheckpointError(UsageError):
    """A checkpoint is damaged, incomplete, or of another architecture.

    The sentence begins with what it is about: FILE, tensor NAME: ...
    """

    def __init__(self, message: str, *, file: str | None = None, tensor: str | None = None) -> None:
        where = [*([file] if file else []), *([f"tensor {tensor}"] if tensor else [])]
        super().__init__(": ".join([*([", ".join(where)] if where else []), message]))
        self.file = file
        self.tensor = tensor

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class RequestError(MossoError):
    """The request is wrong; `param` is the client's own name for the part that is."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class UnsupportedError(RequestError):
    """The dialect has this feature and mosso does not: refused, never ignored."""


class UnauthorizedError(RequestError):
    """The request shows no API key that is valid here."""


class NotFoundError(RequestError):
    """The request names a model or object that does not exist."""


class TooLargeError(RequestError):
    """A body, list or file is over its limit."""


class OverloadedError(MossoError):
    """There is no room now; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class QuotaError(MossoError):
    """More than the caller may have; to come back later does not help. `code` is OpenAI's."""

    def __init__(self, message: str, *, code: str = "insufficient_quota") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class UnavailableError(MossoError):
    """The engine is starting, draining or gone."""


class EngineError(MossoError):
    """The engine failed while it worked on a request."""


def _rebuild(kind: type[MossoError], args: tuple[object, ...], state: dict[str, object]) -> MossoError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
