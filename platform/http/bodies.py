"""Request bodies: reading them within limits, forms, and what a body is as a value."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec
import multipart

from flowyard.platform.held import Held
from flowyard.platform.http.large_bodies import LargeBody
from flowyard.platform.memo import remembered
from flowyard.platform.recycling import Recycler
from flowyard.schemas.codecs.registry import BY_TYPE, Codec, recognise
from flowyard.schemas.errors import InvalidRequestError, TooLargeError
from flowyard.schemas.payload import Payload

Receive: TypeAlias = Callable[[], Awaitable[Any]]
#: A large body is in memory of its own, which is used again when nothing refers to it any more.
Body: TypeAlias = bytes | memoryview

#: More than any server hands over of a body at once.
MAX_CHUNK_BYTES = 1 << 20
#: Of a large body, what is counted as held before it has come.
STEP_BYTES = 1 << 20
#: Most bytes of a body's parameters, which are names and numbers.
MAX_PARAMETERS_BYTES = 1 << 20
#: Most fields and files of a form.
MAX_PARTS = 1000
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
JSON_STARTS = (b"{", b"[")
_RECYCLER = Recycler()


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete; nobody is there to be answered."""


async def read_body(receive: Receive, limit_bytes: int, held: Held) -> Body:
    """Reads a whole body into memory.

    Args:
        receive: ASGI's.
        limit_bytes: Largest body.
        held: Counts what is held.

    Returns:
        The body. It counts as held: whoever has it gives its size back.

    Raises:
        TooLargeError: It is longer.
        MemoryFullError: There is no room for it now.
        ClientGoneError: The client went away.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        _check_size(len(body), limit_bytes, held)
        held.take(len(body))
        return body
    reading = _Reading(limit_bytes, held)
    try:
        return await reading.read(message, receive)
    except BaseException:
        held.give_back(reading.length)
        raise


class _Reading:
    """A body that is being read.

    Attributes:
        length: What has come of it so far, and counts as held.
    """

    def __init__(self, limit_bytes: int, held: Held) -> None:
        self.length = 0
        self._limit_bytes = limit_bytes
        self._held = held

    async def read(self, message: Mapping[str, Any], receive: Receive) -> Body:
        """Reads it, from its first message on."""
        chunks: list[bytes] = []
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            _check_size(self.length + len(chunk), self._limit_bytes, self._held)
            self._take(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)
            if "rest" in message:
                return await self._read_rest(chunks, message["rest"])
            message = await receive()

    async def _read_rest(self, chunks: Sequence[bytes], rest: LargeBody) -> memoryview:
        """Reads what is left of a body whose length is known into memory that holds all of it."""
        total = self.length + rest.remaining
        _check_size(total, self._limit_bytes, self._held)
        body = _RECYCLER.memory(total)
        end = 0
        for chunk in chunks:
            body[end : end + len(chunk)] = chunk
            end += len(chunk)
        while end < total:
            # What has not come is not held: many clients could say much, and send nothing.
            step = min(STEP_BYTES, total - end)
            self._take(step)
            if not await rest.fill(body[end : end + step]):
                raise ClientGoneError
            end += step
        return body.toreadonly()

    def _take(self, size: int) -> None:
        self._held.take(size)
        self.length += size


async def read_parameters(receive: Receive, held: Held) -> bytes:
    """Reads a body of parameters, of which little is kept; arguments and errors as for `read_body`.

    Returns:
        The body, which does not count any more.
    """
    body = await read_body(receive, MAX_PARAMETERS_BYTES, held)
    held.give_back(len(body))
    return bytes(body)


def _check_size(length: int, limit_bytes: int, held: Held) -> None:
    if length > limit_bytes:
        raise TooLargeError(f"the body is larger than {limit_bytes} bytes (setting max_request_size)")
    if length > held.limit_bytes:
        raise TooLargeError(f"the body is larger than {held.limit_bytes} bytes (setting max_held_size_bytes)")


@remembered(256)
def content_type(header: str) -> tuple[str, dict[str, str]]:
    """Splits a Content-Type into the media type, in lower case, and its parameters."""
    media_type, options = multipart.parse_options_header(header)
    return media_type.lower(), options


def payload_of(header: str, body: Body) -> Payload:
    """What a prediction's body is as a value.

    Args:
        header: The Content-Type; empty when there is none.
        body: The body.

    Returns:
        JSON (unparsed), a mapping for forms, arrays for tensor types, bytes for everything else.

    Raises:
        InvalidRequestError: A form that cannot be read.
        InvalidInputError: Tensors that cannot be read.
    """
    return reader_of(header)(body)


@remembered(256)
def reader_of(header: str) -> Callable[[Body], Payload]:
    """What makes a value of the bodies with a Content-Type, as `payload_of` does."""
    if not header:
        return _untyped
    media_type, options = content_type(header)
    if media_type == "application/json" or media_type.endswith("+json"):
        return _json
    if media_type in (MULTIPART, URLENCODED):
        return partial(_form, media_type, options)
    if media_type == "application/octet-stream":
        return _untyped
    return partial(_tensors, BY_TYPE.get(media_type))


def _json(body: Body) -> Payload:
    if not body:
        raise InvalidRequestError("The body is empty; a Content-Type of application/json promises JSON.")
    return Payload.from_json(bytes(body))


def _form(media_type: str, options: Mapping[str, str], form: Body) -> Payload:
    body = bytes(form)
    if is_form(media_type, options, body):
        return Payload.of(dict(read_form(media_type, options, body, text=True)))
    return Payload.from_json(body) if media_type == URLENCODED and body[:1] in JSON_STARTS else Payload.of(body)


def _untyped(body: Body) -> Payload:
    """Tensors where the first bytes leave no doubt, else bytes."""
    data = bytes(body)
    return _tensors(recognise(data), data)


def _tensors(codec: Codec | None, body: Body) -> Payload:
    if codec is None:
        return Payload.of(bytes(body))
    laid_out = codec.lay_out(body) if codec.lay_out is not None else None
    return Payload.of(codec.decode(bytes(body))) if laid_out is None else Payload.from_encoded(*laid_out)


def is_form(media_type: str, options: Mapping[str, str], body: bytes) -> bool:
    """Whether a body is a form.

    Curl says so of every `--data-binary`: what looks like JSON, or holds bytes that no form has, is none.

    Args:
        media_type: From the Content-Type.
        options: Its parameters.
        body: The body.
    """
    if media_type == MULTIPART:
        return "boundary" in options
    if media_type != URLENCODED or body[:1] in JSON_STARTS:
        return False
    # A form without a single field is not one.
    return body.isascii() and not any(byte < 0x20 and byte not in b"\r\n\t" for byte in body) and bool(_fields(body))


def read_form(media_type: str, options: Mapping[str, str], body: bytes, *, text: bool = False) -> list[tuple[str, Any]]:
    """Reads a form: `is_form` must hold.

    Args:
        media_type: From the Content-Type.
        options: Its parameters.
        body: The body.
        text: Whether text fields are wanted as text; files, and fields of any other type than text, are always bytes.

    Returns:
        Names and values in order.

    Raises:
        InvalidRequestError: It is broken, or has too many fields.
    """
    if media_type == MULTIPART:
        return _multipart(body, options["boundary"], text=text)
    return [(name, value if text else value.encode()) for name, value in _fields(body)]


class Part(msgspec.Struct, frozen=True):
    """A field or file of a form.

    Attributes:
        name: Its name.
        content: Its value.
        kind: The content type of a file, without parameters; empty for a field.
    """

    name: str
    content: bytes
    kind: str = ""


def form_parts(media_type: str, options: Mapping[str, str], body: bytes) -> list[Part]:
    """Reads a form with the types of its files; arguments and errors as for `read_form`."""
    if media_type == MULTIPART:
        return [Part(segment.name, data, _file_type(segment)) for segment, data in _segments(body, options["boundary"])]
    return [Part(name, value.encode()) for name, value in _fields(body)]


def _file_type(segment: multipart.MultipartSegment) -> str:
    if segment.filename is None:
        return ""
    return (segment.content_type or "application/octet-stream").partition(";")[0].strip()


def looks_like_json(media_type: str, body: bytes) -> bool:
    """Whether a body that is said to be a form is JSON."""
    return media_type == URLENCODED and body[:1] in JSON_STARTS


def _fields(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARTS)
    except ValueError:
        raise InvalidRequestError(f"The form has more than {MAX_PARTS} fields.") from None


def _multipart(body: bytes, boundary: str, *, text: bool) -> list[tuple[str, Any]]:
    try:
        return [
            (segment.name, data.decode() if text and _is_text(segment) else data) for segment, data in _segments(body, boundary)
        ]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"The multipart form cannot be read: {error}") from None


def _segments(body: bytes, boundary: str) -> list[tuple[multipart.MultipartSegment, bytes]]:
    found: list[tuple[multipart.MultipartSegment, bytes]] = []
    limit = len(body) + 1
    parser = multipart.PushMultipartParser(boundary, max_segment_size=limit, max_segment_count=MAX_PARTS)
    segment, data = None, bytearray()
    try:
        with parser:
            for event in [*parser.parse(body), *parser.parse(b"")]:
                if isinstance(event, multipart.MultipartSegment):
                    segment, data = event, bytearray()
                elif event:
                    data += event
                elif segment is not None:
                    found.append((segment, bytes(data)))
    except (multipart.MultipartError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The multipart form cannot be read: {error}") from None
    return found


def _is_text(segment: multipart.MultipartSegment) -> bool:
    media_type, _ = content_type(segment.content_type or "text/plain")
    return segment.filename is None and media_type.startswith("text/")


class Upload:
    """An uploaded archive on its way to disk.

    Attributes:
        filename: What the form calls the file, empty for a raw body.
        length: Bytes written.
        fields: Text fields of the form.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.filename = ""
        self.length = 0
        self.fields: dict[str, str] = {}
        self._path = path
        self._limit_bytes = limit_bytes
        self._field = ""
        self._text = bytearray()
        self._text_bytes = 0
        self._is_file = False
        self._files = 0

    async def receive(self, receive: Receive, header: str) -> None:
        """Reads the body to disk, chunk by chunk.

        Args:
            receive: ASGI's.
            header: The Content-Type.

        Raises:
            TooLargeError: It is larger than allowed.
            InvalidRequestError: A broken form, or one with several files.
            ClientGoneError: The client went away.
        """
        media_type, options = content_type(header)
        in_form = media_type == MULTIPART
        if in_form and not options.get("boundary"):
            raise InvalidRequestError("The Content-Type multipart/form-data needs a boundary.")
        # The parser's limit would be told as a broken form: ours, which counts what it has let through, is reached before.
        limit = self._limit_bytes + MAX_CHUNK_BYTES
        parser = (
            multipart.PushMultipartParser(options.get("boundary", ""), max_segment_size=limit, max_segment_count=MAX_PARTS)
            if in_form
            else None
        )
        with self._path.open("wb") as file:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                more = bool(message.get("more_body"))
                chunk = message.get("body", b"")
                if parser is not None:
                    chunk = self._parse(parser, chunk, last=not more)
                self._count(chunk)
                await asyncio.to_thread(file.write, chunk)
        if in_form and self._files > 1:
            raise InvalidRequestError(f"The form holds {self._files} files; one archive or model file is expected.")

    def _count(self, chunk: bytes) -> None:
        self.length += len(chunk)
        if self.length > self._limit_bytes:
            raise TooLargeError(f"the archive is larger than {self._limit_bytes} bytes (setting max_archive_size_bytes)")

    def _parse(self, parser: multipart.PushMultipartParser, chunk: bytes, *, last: bool) -> bytes:
        """Takes the file's bytes out of a chunk of a form."""
        found = bytearray()
        try:
            events = [*parser.parse(chunk)] if chunk else []
            if last:
                events += parser.parse(b"")
            for event in events:
                if isinstance(event, multipart.MultipartSegment):
                    self._begin(event)
                elif event is None:
                    self._finish()
                elif self._is_file:
                    found += event
                else:
                    self._count_text(len(event))
                    self._text += event
        except (multipart.MultipartError, UnicodeDecodeError) as error:
            raise InvalidRequestError(f"The multipart form cannot be read: {error}") from None
        return bytes(found)

    def _count_text(self, size: int) -> None:
        self._text_bytes += size
        if self._text_bytes > MAX_PARAMETERS_BYTES:
            raise TooLargeError(
                f"the text fields of the form have more than {MAX_PARAMETERS_BYTES} bytes; a file needs a filename"
            )

    def _begin(self, segment: multipart.MultipartSegment) -> None:
        self._is_file = segment.filename is not None
        self._field, self._text = segment.name, bytearray()
        if self._is_file:
            self._files += 1
            self.filename = segment.filename or ""

    def _finish(self) -> None:
        if not self._is_file:
            self.fields[self._field] = self._text.decode()
