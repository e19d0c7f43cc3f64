"""Handlers that compute many requests at the same time, each answered when it is done. Only ever imported in a worker."""

from __future__ import annotations

import abc
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from flowyard.engines.background import Background
from flowyard.engines.base import Call, Outcome
from flowyard.engines.messages import whole_answers
from flowyard.engines.torchserve.answers import PendingAnswer
from flowyard.engines.torchserve.handler import HandlerModel
from flowyard.engines.torchserve.requests import body_of, failure, headers_of, status_of
from flowyard.engines.torchserve.streams import NEXT
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value
from ts.context import RequestProcessor


class SideBySideModel(HandlerModel, abc.ABC):
    """A handler that computes many requests at the same time.

    Attributes:
        loop: The event loop that calls are answered on.
    """

    def __init__(self, *args: Any, background: Background, **kwargs: Any) -> None:
        """Takes an entry point, as its base does, and the event loop."""
        super().__init__(*args, **kwargs)
        self._background = background
        self.loop = background.loop

    @abc.abstractmethod
    async def answer(self, call: Call) -> Outcome | AsyncGenerator[Value]:
        """Computes one call, beside others: its answer, or the pieces of it."""

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes all calls at the same time; their pieces are collected."""
        return self._background.run(whole_answers(self.answer, batch))

    def unload(self) -> None:
        """Ends the event loop."""
        self._background.close()


class Receiver:
    """Takes what a handler sends before it returns, for the requests of one call."""

    def __init__(self, answers: Sequence[PendingAnswer], processors: Sequence[RequestProcessor]) -> None:
        """Takes the answers, and what holds status and headers of each."""
        self._answers = answers
        self._processors = processors

    def send(self, results: Any, message: str, code: int) -> None:
        """Sends a piece to every request, or the error that they fail with.

        Raises:
            ValueError: Not one piece per request.
            TypeError: A piece that cannot be sent.
        """
        if code != 200:
            for answer in self._answers:
                answer.end(failure(str(message), code if 400 <= code <= 599 else 500))
            return
        if not isinstance(results, list) or len(results) != len(self._answers):
            raise ValueError("number of batch response mismatched")
        bodies = [body_of(result)[1] for result in results]
        for answer, processor, body in zip(self._answers, self._processors, bodies, strict=True):
            processor.add_response_property(NEXT, "true")
            answer.add(Message(status_of(processor), "", headers_of(processor), ((None, body),)))
