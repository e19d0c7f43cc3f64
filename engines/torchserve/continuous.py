"""Handlers for continuous batching: called again and again, until they say of a request that it has ended.

A handler gets the rows of all requests that have not ended. Of those that it knows already it gets the id and the headers, but an
empty row. It says of each by `context.stopping_criteria` whether its result is the last (TorchServe reference §2.4). Where
requests come in sequences it says by a header of an answer which sequences are over (§6.1, 12). Only imported in a worker.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from flowyard.engines.background import Background
from flowyard.engines.base import Call, ModelSource, Outcome
from flowyard.engines.torchserve import handler
from flowyard.engines.torchserve.answers import PendingAnswer
from flowyard.engines.torchserve.config import ModelConfig
from flowyard.engines.torchserve.handler import DESCRIBE, HandlerCall, HandlerModel, message_of
from flowyard.engines.torchserve.requests import request_of, row_of
from flowyard.engines.torchserve.rolling import Member, RollingBatch
from flowyard.engines.torchserve.side_by_side import Receiver, SideBySideModel
from flowyard.engines.torchserve.streams import NEXT
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import HandlerError
from flowyard.schemas.frames import Context
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value

#: What a call is called whose data the handler has seen in an earlier step.
KNOWN = "known"


def load(source: ModelSource, device: Device, config: ModelConfig) -> HandlerModel:
    """Loads a handler, as `handler.load` does.

    Args:
        source: What to load.
        device: Where it is to run.
        config: Says whether requests come in sequences, and how many are computed side by side.
    """
    return handler.load(source, device, functools.partial(ContinuousModel, config=config))


class ContinuousModel(SideBySideModel):
    """A handler that is called again and again with all requests that have not ended.

    Attributes:
        on_step: Is told of every step after which some go on, and of the sequences that are over with it.
    """

    def __init__(self, *args: Any, config: ModelConfig, **kwargs: Any) -> None:
        """Takes an entry point, as its base does, and how it is to be called."""
        super().__init__(*args, background=Background(), **kwargs)
        self.together: Callable[[Sequence[Call]], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
        self.on_step: Callable[[Sequence[str]], None] = lambda _: None
        self._has_sequences = config.has_sequences
        most = config.concurrency(self.context.system_properties["batch_size"])
        self._batch = RollingBatch(self.loop, most, self._step)

    async def answer(self, call: Call) -> Outcome | AsyncGenerator[Value]:
        """Has a request join the others; one for a description is computed alone."""
        message = message_of(call)
        if message.get(DESCRIBE) == "True":
            return await self._batch.answer(message, is_alone=True)
        sequence = message.get(self.context.header_key_sequence_id) if self._has_sequences else ""
        return await self._batch.answer(message, sequence=sequence)

    def unload(self) -> None:
        """Ends the threads."""
        self._batch.close()
        super().unload()

    def follow(self, batch: Sequence[Call]) -> None:
        """Takes a step that another process has begun."""
        self._step_of(batch, ()).compute()

    def _step(self, members: Sequence[Member]) -> Sequence[str]:
        calls = [_call_of(member) for member in members]
        answers = [member.answer for member in members]
        step = self._step_of(calls, answers)
        with self.together(calls):
            results = step.compute()
        ended = step.ended(results) if self._has_sequences else ()
        if ended or any(step.go_on):
            self.on_step(ended)
        for answer, result, goes_on in zip(answers, results, step.go_on, strict=True):
            if goes_on and not isinstance(result, HandlerError):
                answer.add(result)
            else:
                answer.end(result)
        return ended

    def _step_of(self, calls: Sequence[Call], answers: Sequence[PendingAnswer]) -> Step:
        messages = [(message_of(call), call.callee == KNOWN) for call in calls]
        requests = [request_of(message, is_known=is_known) for message, is_known in messages]
        rows = [{} if is_known else row_of(message, decode=self.decode) for message, is_known in messages]
        processors = [processor for _, processor in requests]
        return Step(self, self._entries[""], rows, requests, Receiver(answers, processors))


def _call_of(member: Member) -> Call:
    """What a step wants of a request: the headers, and all else only in its first one."""
    if not member.steps:
        return Call("", [member.message], Context())
    return Call(KNOWN, [Message(properties=member.message.properties)], Context())


class Step(HandlerCall):
    """One call of such a handler.

    Attributes:
        go_on: Whether each request is to be in the next one, too.
    """

    def __init__(self, *args: Any) -> None:
        """Takes requests, as its base does."""
        super().__init__(*args)
        self.go_on = [False] * len(self.processors)

    def mark(self, results: Sequence[Any]) -> None:
        """Asks the handler's criteria which requests have ended; without an opinion one has, unless it has just sent pieces."""
        criteria = self.context.stopping_criteria
        for place, (processor, result) in enumerate(zip(self.processors, results, strict=True)):
            if criteria:
                has_ended = criteria[place](result)
                if has_ended is not None:
                    processor.add_response_property(NEXT, "false" if has_ended else "true")
            elif processor.get_response_header(NEXT) == "true":
                processor.add_response_property(NEXT, "false")
        self.go_on = [processor.get_response_header(NEXT) == "true" for processor in self.processors]

    def ended(self, results: Sequence[Message | HandlerError]) -> tuple[str, ...]:
        """The sequences that the handler says are over: each answer may name some, with semicolons between them."""
        ended: list[str] = []
        for processor, result in zip(self.processors, results, strict=True):
            named = processor.get_response_header(self.context.header_key_sequence_end)
            if named and not isinstance(result, HandlerError):
                ended += [one.strip() for one in str(named).split(";") if one.strip()]
        return tuple(ended)
