"""JSON files read key by key: every error names the file and the key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosso.core.errors import CheckpointError

MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object. A key that is absent or null gives the default, or an error where there is none.

    Several names for one value are spellings of different writers; the first that is present counts.
    """

    values: Mapping[str, Any]
    file: Path
    prefix: str = ""

    def error(self, key: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.prefix}{key} {problem}", file=str(self.file))

    def get(self, *names: str) -> tuple[str, Any]:
        """The first name that has a value, and the value; else the first name and None."""
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        return names[0], None

    def integer(self, *names: str, low: int, high: int, default: int | None = None) -> int:
        key, value = self.get(*names)
        value = default if value is None else value
        if value is None:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"must be an integer from {low} to {high}, not {shown(value)}")
        return value

    def number(self, *names: str, low: float, high: float, default: float | None = None) -> float:
        key, value = self.get(*names)
        value = default if value is None else value
        if value is None:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(key, f"must be a number from {low:g} to {high:g}, not {shown(value)}")
        return float(value)

    def section(self, key: str) -> Fields | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be an object, not {shown(value)}")
        return Fields(value, self.file, f"{self.prefix}{key}.")

    def require(self, key: str, wanted: object, why: str) -> None:
        """Refuse a key that is present with another value than the only one that is supported."""
        value = self.values.get(key)
        if isinstance(wanted, float) and isinstance(value, int | float):
            same = math.isclose(value, wanted, rel_tol=1e-6)
        else:
            same = value == wanted
        if value is not None and not same:
            raise self.error(key, f"is {shown(value)}; {why}")


def read_object(file: Path) -> Fields:
    """The JSON object of a file. Raises CheckpointError for anything else."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"is larger than {MAX_JSON_BYTES} bytes", file=str(file))
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=str(file)) from error
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not JSON: {shown(str(error))}", file=str(file)) from error
    if not isinstance(values, dict):
        raise CheckpointError("must hold a JSON object", file=str(file))
    return Fields(values, file)


def shown(value: object) -> str:
    """A value as an error shows it: never longer than a line."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= 80 else f"{text[:77]}..."
