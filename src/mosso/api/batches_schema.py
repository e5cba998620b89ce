"""The wire schema of /v1/files and /v1/batches."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from mosso.api.batch_lines import LineProblem
from mosso.api.chat_schema import Metadata
from mosso.api.responses_schema import InputTokensDetails, OutputTokensDetails
from mosso.api.wire import WireModel, WireRequest

HOUR, DAY = 3600, 86400
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
Purpose = Literal["batch"]
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
_UNITS = {"s": 1, "m": 60, "h": HOUR, "d": DAY}


class ExpiresAfter(WireModel):
    """When a file is deleted by itself: so many seconds after it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=HOUR, le=30 * DAY)]


class BatchRequest(WireRequest):
    """The body of POST /v1/batches."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}[smhd]$")]
    """OpenAI takes "24h"; here any number of seconds, minutes, hours or days."""
    metadata: Metadata | None = Field(None, max_length=16)
    output_expires_after: ExpiresAfter | None = None

    @property
    def window_seconds(self) -> int:
        number, unit = re.fullmatch(r"(\d+)(.)", self.completion_window).groups()  # type: ignore[union-attr]
        return int(number) * _UNITS[unit]


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[LineProblem]


class RequestCounts(BaseModel):
    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchUsage(BaseModel):
    input_tokens: int = 0
    input_tokens_details: InputTokensDetails = Field(
        default_factory=lambda: InputTokensDetails(cached_tokens=0)
    )
    output_tokens: int = 0
    output_tokens_details: OutputTokensDetails = Field(
        default_factory=lambda: OutputTokensDetails(reasoning_tokens=0)
    )
    total_tokens: int = 0


class Batch(BaseModel):
    """A batch, as it is told and as it is stored. Times are seconds since 1970."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = Field(default_factory=RequestCounts)
    usage: BatchUsage = Field(default_factory=BatchUsage)
    metadata: dict[str, str] | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
