"""/v1/files: what batches read, and what they wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mosso.api.batches_schema import DAY, DeletedFile, ExpiresAfter, FileList, FileObject
from mosso.api.batches_store import PIECE, BatchStore, StoredFile
from mosso.api.settings import ApiSettings
from mosso.core.errors import NotFoundError, TooLargeError

UPLOADS_LIVE = 30 * DAY  # files of purpose `batch`, where nothing else was asked for
LONGEST_NAME = 255


class FileService:
    """Everything /v1/files does, short of HTTP. `scope` says whose files: none finds another's."""

    def __init__(self, store: BatchStore, settings: ApiSettings) -> None:
        self._store = store
        self._settings = settings

    def upload(self, scope: str) -> Upload:
        return Upload(self._store, self._settings, scope)

    async def page(
        self, scope: str, *, purpose: str | None, after: str | None, newest_first: bool, limit: int
    ) -> FileList:
        if after is not None:
            await self.get(scope, after, "after")
        found = await self._store.files(
            scope, purpose=purpose, after=after, newest_first=newest_first, limit=limit + 1
        )
        data = [file_json(file) for file in found[:limit]]
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return FileList(data=data, first_id=ends[0], last_id=ends[1], has_more=len(found) > limit)

    async def get(self, scope: str, file_id: str, param: str = "file_id") -> StoredFile:
        """NotFoundError if there is none; `param` names where the id came from."""
        file = await self._store.file(scope, file_id)
        if file is None:
            raise NotFoundError(f"No such File object: {file_id[:80]}", param=param, code="file_not_found")
        return file

    async def retrieve(self, scope: str, file_id: str) -> FileObject:
        return file_json(await self.get(scope, file_id))

    def content(self, file: StoredFile) -> AsyncIterator[bytes]:
        return self._store.content(file)

    async def delete(self, scope: str, file_id: str) -> DeletedFile:
        """RequestError while an active batch reads it."""
        file = await self.get(scope, file_id)
        await self._store.delete(scope, file.id)
        return DeletedFile(id=file.id)


class Upload:
    """A file that is being sent. At most one piece of it is held. Ends with `finish` or with `abandon`."""

    def __init__(self, store: BatchStore, settings: ApiSettings, scope: str) -> None:
        self._store = store
        self._settings = settings
        self._scope = scope
        self._id: str | None = None
        self._parts: list[bytes] = []
        self._held = 0
        self._size = 0
        self._pieces = 0

    async def write(self, data: bytes) -> None:
        """TooLargeError as soon as the file is known to be."""
        self._size += len(data)
        limit = self._settings.batches.max_file_bytes
        if self._size > limit:
            raise TooLargeError(
                f"The file is over the limit of {limit} bytes.", param="file", code="file_too_large"
            )
        self._parts.append(data)
        self._held += len(data)
        if self._held >= PIECE:
            await self._flush()

    async def finish(self, filename: str, expires: ExpiresAfter | None) -> FileObject:
        """From here on the file is there."""
        file_id = await self._flush()
        created = self._settings.now()
        file = StoredFile(
            id=file_id,
            scope=self._scope,
            created=created,
            filename=filename[:LONGEST_NAME] or "upload.jsonl",
            purpose="batch",
            expires=created + (UPLOADS_LIVE if expires is None else expires.seconds),
        )
        return file_json(await self._store.finish(file))

    async def abandon(self) -> None:
        if self._id is not None:
            await self._store.abandon(self._id)

    async def _flush(self) -> str:
        if self._id is None:
            self._id = await self._store.begin(self._scope)
        if self._held:
            await self._store.write(self._id, self._pieces, b"".join(self._parts))
            self._pieces += 1
            self._parts, self._held = [], 0
        return self._id


def file_json(file: StoredFile) -> FileObject:
    return FileObject.model_validate(
        {
            "id": file.id,
            "bytes": file.size,
            "created_at": file.created,
            "expires_at": file.expires,
            "filename": file.filename,
            "purpose": file.purpose,
        }
    )
