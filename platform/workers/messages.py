"""What a model with handlers gets when it is called in the middle of a workflow: a message, whatever the node before gave."""

from __future__ import annotations

from collections.abc import Mapping

from flowyard.schemas.codecs.content import body_of, message_of
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.messages import BODY, REQUEST_ID, Handlers, Message
from flowyard.schemas.payload import Payload


def as_messages(
    args: tuple[Payload, ...], handlers: Handlers, headers: Mapping[str, str], request_id: str
) -> tuple[Payload, ...]:
    """Turns the arguments of a call into the one message that a handler takes.

    Args:
        args: The arguments.
        handlers: Whose kind the handler is of.
        headers: The headers of the request.
        request_id: Its id.

    Returns:
        One payload that holds a message.

    Raises:
        InvalidInputError: More arguments than one, or one that is nothing a message can hold.
    """
    if len(args) != 1:
        raise InvalidInputError(f"a model with handlers takes one argument, not {len(args)}")
    (payload,) = args
    message = payload.for_handler(handlers)
    is_answer = message is not None and message is payload.message()
    if handlers == "djl":
        if is_answer:
            return args
        return (Payload.of(message_of(payload.value()) if message is None else message),)
    if message is None:
        message = body_of(payload.value())
    elif is_answer:
        # Of the node before, only the bytes count, and the request's headers go with them (TorchServe, workflows).
        message = Message(contents=tuple([(name or BODY, content) for name, content in message.contents]))
    if not message.properties:
        message.properties = (*headers.items(), (REQUEST_ID, request_id))
    return (Payload.of(message),)
