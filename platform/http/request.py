"""A prediction's request as a payload: the value that functions and models take, or the message that DJL's handlers take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from flowyard.platform.http.bodies import content_type, form_parts, is_form, looks_like_json, payload_of, read_form
from flowyard.schemas.messages import BODY, DATA, REQUEST_ID, Contents, Handlers, Message, Pairs
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Encoded, Value

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


class RequestPayload(Payload):
    """The body of a request, and what came with it; nothing is decoded before somebody asks.

    Args:
        headers: Request headers, names in lower case.
        query: Query parameters in order.
        body: The body.
        request_id: Its `x-request-id`.
    """

    __slots__ = ("_body", "_for_handler", "_headers", "_inner", "_query", "_request_id")

    def __init__(self, headers: Mapping[str, str], query: Sequence[tuple[str, str]], body: bytes, request_id: str) -> None:
        super().__init__()
        self._headers = headers
        self._query = query
        self._body = body
        self._request_id = request_id
        self._inner: Payload | None = None
        self._for_handler: dict[bool, Message] = {}

    @property
    def shape(self) -> tuple[int, ...] | None:
        """As `Payload.shape`."""
        return self._inner.shape if self._inner is not None else None

    def value(self) -> Value:
        """The body as a value, by its content type.

        Raises:
            InvalidRequestError: A form that cannot be read.
            InvalidInputError: JSON or tensors that cannot be read.
        """
        return self._decoded().value()

    def encoded(self) -> Encoded:
        """The binary form of that value; errors as for `value`."""
        return self._decoded().encoded()

    def message(self) -> Message | None:
        """None: a request that is handed on as it is is its body, not its headers."""
        return None

    def for_handler(self, handlers: Handlers) -> Message:
        """The request as DJL's handlers see it (DJL §2.2), or those of TorchServe and MMS.

        Args:
            handlers: Whose kind the handler is of.

        Raises:
            InvalidRequestError: A form that cannot be read.
        """
        is_djl = handlers == "djl"
        if is_djl not in self._for_handler:
            self._for_handler[is_djl] = (
                self._for_djl() if is_djl else torchserve_message(self._headers, self._body, self._request_id)
            )
        return self._for_handler[is_djl]

    def _for_djl(self) -> Message:
        contents = [(name, value.encode()) for name, value in self._query]
        return Message(
            properties=request_properties(self._headers, self._request_id),
            contents=(*contents, *body_contents(self._headers, self._body)),
        )

    def _decoded(self) -> Payload:
        if self._inner is None:
            self._inner = payload_of(self._headers.get("content-type", ""), self._body)
        return self._inner


def request_properties(headers: Mapping[str, str], request_id: str) -> Pairs:
    """The properties of a request: its headers, SageMaker's custom attributes one by one, and `requestId` (DJL §2.2)."""
    properties = {name: value for name, value in headers.items() if name != CUSTOM_ATTRIBUTES}
    properties |= custom_attributes(headers)
    properties[REQUEST_ID] = request_id
    return tuple(properties.items())


def custom_attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """What `X-Amzn-SageMaker-Custom-Attributes` says: `k=v` parts between semicolons; others are dropped (DJL §2.2)."""
    parts = (part.partition("=") for part in headers.get(CUSTOM_ATTRIBUTES, "").split(";"))
    return {name.strip(): value.strip() for name, equals, value in parts if equals and name.strip()}


def body_contents(headers: Mapping[str, str], body: bytes) -> Contents:
    """The contents of a request's body: the fields of a form, else the body as `data` (DJL §2.2).

    Raises:
        InvalidRequestError: A form that cannot be read.
    """
    kind, options = content_type(headers.get("content-type", ""))
    if is_form(kind, options, body):
        return tuple(read_form(kind, options, body))
    return ((DATA, body),)


def torchserve_message(headers: Mapping[str, str], body: bytes, request_id: str) -> Message:
    """A request as handlers of TorchServe and MMS see it: its headers, and the fields of a form or else the `body`.

    Args:
        headers: Request headers, names in lower case.
        body: The body. What looks like JSON is none of a form's, whatever the type says: curl says so of every `-d`.
        request_id: The request's id.

    Raises:
        InvalidRequestError: A form that cannot be read.
    """
    properties = (*headers.items(), (REQUEST_ID, request_id))
    header = headers.get("content-type", "")
    kind, options = content_type(header)
    if is_form(kind, options, body):
        parts = form_parts(kind, options, body)
        contents = tuple([(part.name, part.content) for part in parts])
        return Message(properties=properties, contents=contents, types=tuple([part.kind for part in parts]))
    told = "application/json" if looks_like_json(kind, body) else header.partition(";")[0].strip()
    return Message(properties=properties, contents=((BODY, body),), types=(told,))


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """Query parameters in order, empty ones too."""
    return parse_qsl(query_string.decode("latin-1"), keep_blank_values=True) if query_string else []
