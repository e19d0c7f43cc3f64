"""What a body is as a value, going by its content type, and a value as a body."""

from __future__ import annotations

import msgspec
import numpy as np

from flowyard.schemas.codecs import ndlist
from flowyard.schemas.codecs.arrays import is_tensors
from flowyard.schemas.codecs.registry import BY_TYPE, recognise
from flowyard.schemas.errors import FlowyardError, InvalidInputError
from flowyard.schemas.messages import BODY, DATA, Message
from flowyard.schemas.values import Value, decode_json, to_jsonable


def media_type(header: str) -> str:
    """The media type of a Content-Type or Accept entry, in lower case and without parameters."""
    return header.partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is one of JSON."""
    return kind == "application/json" or kind.endswith("+json")


def value_of_body(content_type: str, body: bytes) -> Value:
    """Reads a body.

    Args:
        content_type: Its Content-Type; empty when there is none.
        body: The body.

    Returns:
        JSON as its value, tensor formats as arrays, text as text; bytes for everything else. Without a type that says anything:
        arrays where the first bytes leave no doubt, else bytes.

    Raises:
        InvalidInputError: It is not what the type promises.
    """
    kind = media_type(content_type)
    if is_json(kind):
        return decode_json(body)
    if kind in ("", "application/octet-stream"):
        codec = recognise(body)
        return body if codec is None else codec.decode(body)
    if kind in BY_TYPE:
        return BY_TYPE[kind].decode(body)
    if kind.startswith("text/"):
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise InvalidInputError(f"a body of type {kind} that is not UTF-8 text") from None
    return body


def value_of_message(message: Message) -> Value:
    """What a message is to those who know no messages: its body as a value.

    Raises:
        InvalidInputError: The body is not what its content type promises.
    """
    return value_of_body(message.content_type, message.data)


def message_of(value: Value) -> Message:
    """Tells a value as a message: arrays as an NDList, text and bytes as they are, everything else as JSON.

    Raises:
        InvalidInputError: It holds something that JSON cannot.
    """
    kind, body = _told(value)
    properties = (("content-type", kind),) if kind else ()
    return Message(properties=properties, contents=((DATA, body),))


def body_of(value: Value) -> Message:
    """Tells a value to handlers of TorchServe and MMS: text and bytes as they are, everything else, arrays too, as JSON.

    Raises:
        InvalidInputError: It holds something that JSON cannot.
    """
    kind, body = _told(value, as_tensors=False)
    return Message(contents=((BODY, body),), types=(media_type(kind),))


def _told(value: Value, *, as_tensors: bool = True) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return "", value
    if isinstance(value, str):
        return "text/plain; charset=utf-8", value.encode()
    try:
        if as_tensors and (isinstance(value, np.ndarray) or (value and is_tensors(value))):
            return ndlist.MEDIA_TYPE, ndlist.encode(value)
        return "application/json", msgspec.json.encode(value, enc_hook=to_jsonable)
    except (FlowyardError, TypeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidInputError(f"cannot be told to a handler: {error}") from error
