"""/v1/files: what batches read, and what they wrote."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from starlette.responses import StreamingResponse

from mosso.api.batches_schema import DAY, HOUR, DeletedFile, ExpiresAfter, FileList, FileObject, Purpose
from mosso.api.files import FileService
from mosso.api.responses_store import StoreError
from mosso.api.wire import as_request_error
from mosso.core.errors import RequestError, UnsupportedError
from mosso.server.callers import caller_of
from mosso.server.context import Context
from mosso.server.openapi import errors
from mosso.server.uploads import Form, read_form

logger = logging.getLogger("mosso.server")
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": list(get_args(Purpose))},
        _ANCHOR: {"const": "created_at"},
        _SECONDS: {"type": "integer", "minimum": HOUR, "maximum": 30 * DAY},
    },
    "dependentRequired": {_ANCHOR: [_SECONDS], _SECONDS: [_ANCHOR]},
    "additionalProperties": False,
}
_UPLOAD = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


def router(context: Context, service: FileService) -> APIRouter:
    routes = APIRouter(tags=["files"])

    @routes.post(
        "/v1/files",
        operation_id="createFile",
        openapi_extra=_UPLOAD,
        responses=errors(400, 413, 500, 503),
    )
    async def create(request: Request) -> FileObject:
        """Upload a file of requests; it is written down as it comes."""
        upload = service.upload(caller_of(request).scope)
        with context.lifecycle.work():
            try:
                form = await read_form(request.headers.get("content-type", ""), request.stream(), upload)
                return await upload.finish(form.filename or "", _expiry(form))
            except BaseException:
                try:
                    await upload.abandon()
                except StoreError as error:  # the next start clears it away
                    logger.warning("an upload that failed is not cleared away: %s", error.message)
                raise

    @routes.get("/v1/files", operation_id="listFiles", responses=errors(400, 404, 500))
    async def list_files(
        request: Request,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> FileList:
        """The files there are."""
        scope = caller_of(request).scope
        return await service.page(
            scope, purpose=purpose, after=after, newest_first=order == "desc", limit=limit
        )

    @routes.get("/v1/files/{file_id}", operation_id="retrieveFile", responses=errors(400, 404, 500))
    async def retrieve(request: Request, file_id: str) -> FileObject:
        """What is known of a file."""
        return await service.retrieve(caller_of(request).scope, file_id)

    @routes.get(
        "/v1/files/{file_id}/content",
        operation_id="downloadFile",
        response_class=Response,
        responses=errors(400, 404, 500)
        | {
            200: {
                "description": "The file.",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def content(request: Request, file_id: str) -> Response:
        """The file itself."""
        file = await service.get(caller_of(request).scope, file_id)
        headers = {"content-length": str(file.size), "content-disposition": "attachment"}
        return StreamingResponse(
            service.content(file), headers=headers, media_type="application/octet-stream"
        )

    @routes.delete("/v1/files/{file_id}", operation_id="deleteFile", responses=errors(400, 404, 500))
    async def delete(request: Request, file_id: str) -> DeletedFile:
        """Forget a file."""
        return await service.delete(caller_of(request).scope, file_id)

    return routes


def _expiry(form: Form) -> ExpiresAfter | None:
    """When the file shall expire; RequestError for fields that are wrong."""
    fields = dict(form.fields)
    purpose = fields.pop("purpose", None)
    if purpose is None:
        raise RequestError(
            "Missing required parameter: 'purpose'.", param="purpose", code="missing_required_parameter"
        )
    if purpose not in get_args(Purpose):
        message = f"Invalid value for 'purpose': {purpose[:80]!r} is not supported here; expected 'batch'."
        raise UnsupportedError(message, param="purpose", code="invalid_value")
    seconds = fields.get(_SECONDS, "")
    given: dict[str, Any] = {
        "anchor": fields.pop(_ANCHOR, None),
        "seconds": int(seconds) if seconds.isdecimal() and len(seconds) < 20 else fields.get(_SECONDS),
    }
    fields.pop(_SECONDS, None)
    for name in fields:
        raise RequestError(
            f"Unrecognized request argument supplied: {name[:80]}", param=name[:80], code="unknown_parameter"
        )
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return ExpiresAfter.model_validate(given) if given else None
    except ValidationError as error:
        fault = as_request_error(error, given)
        raise RequestError(fault.message, param=f"expires_after[{fault.param}]", code=fault.code) from None
