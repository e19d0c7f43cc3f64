"""What a model with handlers gets when it is called in the middle of a workflow: a message, whatever the node before gave."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from flowyard.platform.workers.jobs import SequenceMark
from flowyard.platform.workers.sequences import SequenceHeaders
from flowyard.schemas.codecs.content import body_of, message_of
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.messages import BODY, REQUEST_ID, Handlers, Message
from flowyard.schemas.payload import Payload

MAX_SEQUENCE_ID = 1024


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


def in_sequence(args: tuple[Payload, ...], headers: SequenceHeaders) -> tuple[tuple[Payload, ...], SequenceMark]:
    """Reads which sequence a call belongs to; one that names none begins one, and its handler is told so.

    Args:
        args: The one payload that holds a message.
        headers: How it says so.

    Returns:
        The arguments, and what the message says of its sequence.

    Raises:
        InvalidInputError: The id is too long.
    """
    message = args[0].message()
    assert message is not None
    sequence_id = message.get(headers.id)
    if len(sequence_id) > MAX_SEQUENCE_ID:
        raise InvalidInputError(f"{headers.id}: {sequence_id[:50]}… has more than {MAX_SEQUENCE_ID} characters")
    if message.get("describe") == "True":
        # It is about the model, and has no state.
        return args, SequenceMark(_new_id(), starts=True, ends=True)
    ends = _is_true(message.get(headers.end))
    if sequence_id:
        return args, SequenceMark(sequence_id, _is_true(message.get(headers.start)), ends)
    sequence_id = _new_id()
    told = tuple(pair for pair in message.properties if pair[0].lower() not in (headers.id.lower(), headers.start.lower()))
    properties = (*told, (headers.start, "true"), (headers.id, sequence_id))
    told_message = Message(message.code, message.reason, properties, message.contents, message.types)
    return (Payload.of(told_message),), SequenceMark(sequence_id, starts=True, ends=ends)


def _new_id() -> str:
    return f"ts-seq-{uuid.uuid4()}"


def _is_true(value: str) -> bool:
    return value.strip().lower() == "true"
