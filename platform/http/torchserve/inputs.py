"""A request as handlers of TorchServe and MMS get it: headers, and named inputs with their types (TorchServe reference §2.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias
from urllib.parse import parse_qsl

import multipart

from flowyard.platform.http.bodies import JSON_STARTS, MAX_PARTS, MULTIPART, URLENCODED, content_type, payload_of
from flowyard.platform.http.request import RequestPayload, request_properties
from flowyard.platform.http.torchserve.routes import Call
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.messages import REQUEST_ID, Handlers, Message
from flowyard.schemas.payload import Payload

#: Name, content, and content type without parameters; empty for none.
Input: TypeAlias = tuple[str, bytes, str]

#: The name of a body that is no form.
BODY = "body"
#: Headers that only the server sets: a client that sends them is not believed.
_OURS = frozenset(("describe", "explain", "url_path"))
_FILE = "application/octet-stream"
_SEPARATORS = re.compile(r"[&;]")


class HandlerRequest(RequestPayload):
    """The body of a request: a value for models, and for handlers their message.

    Args:
        headers: Request headers, names in lower case.
        query: Query parameters in order.
        body: The body; `None` where there are only inputs.
        request_id: The request's id.
        inputs: What handlers of TorchServe and MMS get.
        told: Headers that the server adds for them.
    """

    __slots__ = ("_has_body", "_inputs", "_told")

    def __init__(
        self,
        headers: Mapping[str, str],
        query: Sequence[tuple[str, str]],
        body: bytes | None,
        request_id: str,
        inputs: Sequence[Input],
        told: Mapping[str, str],
    ) -> None:
        super().__init__(headers, query, body or b"", request_id)
        self._has_body = body is not None
        self._inputs = inputs
        self._told = told

    def for_handler(self, handlers: Handlers) -> Message:
        """The message that a handler is called with."""
        if handlers == "djl":
            return super().for_handler(handlers)
        given = {name: value for name, value in self._headers.items() if name not in _OURS}
        return Message(
            properties=(*{**given, **self._told}.items(), (REQUEST_ID, self._request_id)),
            contents=tuple([(name, content) for name, content, _ in self._inputs]),
            types=tuple([kind for _, _, kind in self._inputs]),
        )

    def _for_djl(self) -> Message:
        if self._has_body:
            return super()._for_djl()
        contents = tuple([(name, content) for name, content, _ in self._inputs])
        return Message(properties=request_properties(self._headers, self._request_id), contents=contents)

    def _decoded(self) -> Payload:
        """The body, else the only input, or a mapping of several. Nobody has said what these are: tensors and JSON are known."""
        if self._inner is None and not self._has_body:
            values = {name: _value_of(content) for name, content, _ in self._inputs}
            only = next(iter(values.values())) if len(values) == 1 else None
            self._inner = only or Payload.of({name: payload.value() for name, payload in values.items()})
        return super()._decoded()


def _value_of(content: bytes) -> Payload:
    return Payload.from_json(content) if content[:1] in JSON_STARTS else payload_of("", content)


def told_headers(call: Call) -> dict[str, str]:
    """The headers that tell a handler how it was called."""
    told = {}
    if call.url_path is not None:
        told["url_path"] = call.url_path
    if call.explain is not None:
        told["explain"] = str(call.explain)
    return told


def inputs_of(call: Call, query: Sequence[tuple[str, str]], header: str, body: bytes) -> list[Input]:
    """The named inputs of a request.

    Args:
        call: How it was called.
        query: Query parameters.
        header: Its Content-Type.
        body: Its body.

    Returns:
        Query parameters, where the path takes them, then the fields and files of a form, or else the body.

    Raises:
        InvalidRequestError: A form that cannot be read.
    """
    asked: list[Input] = [(name, value.encode(), "") for name, value in query] if call.takes_query else []
    return asked + form_or_body(header, body)


def form_or_body(header: str, body: bytes) -> list[Input]:
    """The fields and files of a form, else the body under its name.

    Raises:
        InvalidRequestError: A form that cannot be read.
    """
    kind, options = content_type(header)
    if kind == URLENCODED:
        return _fields(body)
    if kind == MULTIPART and "boundary" in options:
        return _parts(body, options["boundary"])
    return [(BODY, body, header.partition(";")[0].strip())]


def field_of(inputs: Sequence[Input], name: str) -> str | None:
    """The last input of a name, as text."""
    found = [content for key, content, _ in inputs if key == name]
    return found[-1].decode("utf-8", "replace") if found else None


def _fields(body: bytes) -> list[Input]:
    """What has an equals sign; `curl -d '{"a": 1}'` has none, and its handler gets no input at all, as with TorchServe."""
    pairs = [pair for pair in _SEPARATORS.split(body.decode("latin-1").strip()) if "=" in pair]
    if any(pair.startswith("=") for pair in pairs):
        raise InvalidRequestError("The form cannot be read: it has a field without a name.")
    if len(pairs) > MAX_PARTS:
        raise InvalidRequestError(f"The form cannot be read: it has more than {MAX_PARTS} fields.")
    decoded = parse_qsl("&".join(pairs), keep_blank_values=True, encoding="latin-1")
    return [(name.encode("latin-1").decode("utf-8", "replace"), value.encode("latin-1"), "") for name, value in decoded]


def _parts(body: bytes, boundary: str) -> list[Input]:
    limit = len(body) + 1
    parser = multipart.PushMultipartParser(boundary, max_segment_size=limit, max_segment_count=MAX_PARTS)
    found: list[Input] = []
    name, kind, data = "", "", bytearray()
    try:
        with parser:
            for event in parser.parse(body):
                if isinstance(event, multipart.MultipartSegment):
                    name, kind, data = event.name, _file_type(event), bytearray()
                elif event:
                    data += event
                else:
                    found.append((name, bytes(data), kind))
            parser.parse(b"")
    except (multipart.MultipartError, UnicodeDecodeError) as error:
        if found or f"--{boundary}".encode("latin-1", "replace") in body.removesuffix(b"--\r\n"):
            raise InvalidRequestError(f"The multipart form cannot be read: {error}") from None
    return found


def _file_type(segment: multipart.MultipartSegment) -> str:
    """A file's type; a field has none, whatever it says."""
    if segment.filename is None:
        return ""
    return (segment.content_type or _FILE).partition(";")[0].strip()
