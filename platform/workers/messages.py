"""What a model of DJL's kind gets when it is called in the middle of a workflow: a message, whatever the node before gave."""

from __future__ import annotations

import msgspec
import numpy as np

from flowyard.schemas.codecs import ndlist
from flowyard.schemas.codecs.arrays import is_tensors
from flowyard.schemas.errors import FlowyardError, InvalidInputError
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Value, to_jsonable


def as_messages(args: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """Turns the arguments of a call into the one message that a handler takes.

    Args:
        args: The arguments.

    Returns:
        One payload that holds a message.

    Raises:
        InvalidInputError: More arguments than one, or one that is nothing a message can hold.
    """
    if len(args) != 1:
        raise InvalidInputError(f"a model of DJL's kind takes one argument, not {len(args)}")
    (payload,) = args
    message = payload.for_handler()
    if message is not None and message is payload.message():
        return args
    return (Payload.of(message_of(payload.value()) if message is None else message),)


def message_of(value: Value) -> Message:
    """Tells a value as a message: arrays as an NDList, text and bytes as they are, everything else as JSON.

    Raises:
        InvalidInputError: It holds something that JSON cannot.
    """
    kind, body = _told(value)
    properties = (("content-type", kind),) if kind else ()
    return Message(properties=properties, contents=((DATA, body),))


def _told(value: Value) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return "", value
    if isinstance(value, str):
        return "text/plain; charset=utf-8", value.encode()
    try:
        if isinstance(value, np.ndarray) or (value and is_tensors(value)):
            return ndlist.MEDIA_TYPE, ndlist.encode(value)
        return "application/json", msgspec.json.encode(value, enc_hook=to_jsonable)
    except (FlowyardError, TypeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidInputError(f"cannot be told to a model of DJL's kind: {error}") from error
