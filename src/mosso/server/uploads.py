"""Reading multipart/form-data as it comes: one file, a few short fields, nothing held but what is short."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mosso.api.files import Upload
from mosso.core.errors import RequestError

MOST_FIELDS = 32
LONGEST_FIELD = 64 << 10  # bytes


@dataclass(slots=True)
class _Part:
    """A part of the form whose end has not come. `filename` is None of one that is a field."""

    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    name: str = ""
    filename: str | None = None


@dataclass(slots=True)
class Form:
    """What was sent beside the file, and the file's own name; None if no file came."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


class FormReader:
    """Parses a body piece by piece; what belongs to the file waits in `file_data` to be taken."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise _wrong("The request body must be multipart/form-data.")
        self.form = Form()
        self.ended = False
        self.file_data: list[bytes] = []
        self._part = _Part()
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header,
                    "on_header_value": self._value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._all,
                },
            )
        except FormParserError as error:
            raise _wrong(f"The boundary of the form is wrong: {error}") from None

    def feed(self, piece: bytes) -> None:
        """RequestError for what is no such form, or too much of it."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _wrong(f"The request body is not a form: {error}") from None

    def take(self) -> bytes:
        """What has come of the file since the last time."""
        data = b"".join(self.file_data)
        self.file_data.clear()
        return data

    def _begin(self) -> None:
        self._part = _Part()

    def _header(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _header_end(self) -> None:
        part = self._part
        part.headers[bytes(part.header).lower()] = bytes(part.value)
        part.header.clear()
        part.value.clear()

    def _headers_end(self) -> None:
        part = self._part
        kind, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise _wrong("A part of the form has no name.")
        part.name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            part.filename = options[b"filename"].decode("utf-8", "replace")
            if part.name != "file":
                raise _wrong(f"Unrecognized request argument supplied: {part.name[:80]}", part.name[:80])
            if self.form.filename is not None:
                raise _wrong("Only one file can be uploaded at a time.", "file")
            self.form.filename = part.filename

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.filename is not None:
            self.file_data.append(data[start:end])
            return
        part.data += data[start:end]
        if len(part.data) > LONGEST_FIELD:
            raise _wrong(f"The field {part.name[:80]!r} is too long.", part.name[:80])

    def _end(self) -> None:
        part = self._part
        if part.filename is not None:
            return
        if len(self.form.fields) >= MOST_FIELDS:
            raise _wrong("The form has too many fields.")
        try:
            self.form.fields[part.name] = part.data.decode()
        except UnicodeDecodeError:
            raise _wrong(f"The field {part.name[:80]!r} is not UTF-8.", part.name[:80]) from None

    def _all(self) -> None:
        self.ended = True


async def read_form(content_type: str, body: AsyncIterator[bytes], upload: Upload) -> Form:
    """The form's fields; its file goes to `upload` while it comes. RequestError names what is wrong."""
    reader = FormReader(content_type)
    async for piece in body:
        reader.feed(piece)
        if reader.file_data:
            await upload.write(reader.take())
    if not reader.ended:
        raise _wrong("The form ends before its last boundary.")
    if reader.form.filename is None:
        raise RequestError(
            "Missing required parameter: 'file'.", param="file", code="missing_required_parameter"
        )
    return reader.form


def _wrong(message: str, param: str | None = None) -> RequestError:
    return RequestError(message, param=param, code="invalid_form")
