"""What a model of DJL's kind gets when it is called in the middle of a workflow: a message, whatever the node before gave."""

from __future__ import annotations

from flowyard.schemas.codecs.content import message_of
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.payload import Payload


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
