"""Answers in pieces: what `send_intermediate_predict_response` sends while a handler computes. Only imported in a worker."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

from flowyard.engines.messages import MessageStream
from flowyard.engines.torchserve.answers import MOST_AHEAD
from flowyard.engines.torchserve.requests import body_of, failure, headers_of, status_of
from flowyard.schemas.errors import HandlerError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value
from ts.context import RequestProcessor

#: Pieces that the handler of a single request may be ahead of whoever takes them.
AHEAD = 16
NEXT = "ts_stream_next"
_END = object()


class RowStream(MessageStream):
    """The pieces of one row's answer."""

    def __init__(self, ahead: int) -> None:
        self._pieces: queue.Queue[Any] = queue.Queue(ahead)
        self._is_open = True

    def put(self, piece: Any) -> None:
        """Hands on a piece, an error, or the end; waits for room. Nothing happens when nobody wants it any more."""
        while self._is_open:
            try:
                self._pieces.put(piece, timeout=0.5)
            except queue.Full:
                continue
            return

    def __next__(self) -> Value:
        """The next piece; what failed is a `HandlerError`."""
        piece = self._pieces.get()
        if piece is _END:
            raise StopIteration
        if isinstance(piece, HandlerError):
            raise piece
        return piece

    def close(self) -> None:
        """Nobody wants the rest: what the handler still sends is dropped."""
        self._is_open = False


class Intermediate:
    """Takes what the handler of one batch sends before it returns.

    Attributes:
        changed: Is set when there are streams, or the handler has returned.
        streams: One per row once the first piece has come, before that none.
        failed: What the handler sent instead of a first piece.
    """

    def __init__(self, processors: Sequence[RequestProcessor]) -> None:
        self.changed = threading.Event()
        self.streams: list[RowStream] = []
        self.failed: HandlerError | None = None
        self._processors = processors
        self._ended = False
        self._sending = threading.Lock()

    def send(self, results: Any, message: str, code: int) -> None:
        """Sends a piece to every row.

        Raises:
            ValueError: Not one piece per row, or the rows are too far ahead.
            TypeError: A piece that cannot be sent.
        """
        with self._sending:
            if self._ended:
                return
            if code != 200:
                self._fail(failure(str(message), code if 400 <= code <= 599 else 500))
                return
            if not isinstance(results, list) or len(results) != len(self._processors):
                raise ValueError("number of batch response mismatched")
            pieces = [body_of(result)[1] for result in results]
            self._begin()
            for stream, piece in zip(self.streams, pieces, strict=True):
                if piece:
                    stream.put(piece)

    def _begin(self) -> None:
        if not self.streams:
            ahead = AHEAD if len(self._processors) == 1 else MOST_AHEAD
            streams = [RowStream(ahead) for _ in self._processors]
            for stream, processor in zip(streams, self._processors, strict=True):
                stream.put(Message(status_of(processor), "", headers_of(processor, {NEXT: "true"})))
            self.streams = streams
            self.changed.set()

    def _fail(self, error: HandlerError) -> None:
        self._ended = True
        self.failed = error
        for stream in self.streams:
            stream.put(error)
        self.changed.set()

    def finish(self, outcomes: Sequence[Message | HandlerError]) -> None:
        """The handler has returned: its results are the last pieces."""
        with self._sending:
            if not self._ended:
                self._ended = True
                for stream, outcome in zip(self.streams, outcomes, strict=False):
                    stream.put(outcome if isinstance(outcome, HandlerError) else outcome.data or _END)
                    stream.put(_END)
            self.changed.set()
