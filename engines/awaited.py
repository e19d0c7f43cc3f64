"""Batches of an asynchronous model: many are computed at the same time, and each is answered when it is done.

The worker's thread receives; everything else happens on the event loop of the model, in a thread of its own. Sending may hold up
the loop while the socket is full, which it hardly is: large values lie in shared memory, and the server always reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeAlias

from flowyard.engines.base import AsynchronousModel, Call, Outcome
from flowyard.engines.connection import Connection
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.engines.messages import collected
from flowyard.engines.streams import Encode
from flowyard.schemas import frames
from flowyard.schemas.errors import FlowyardError, InternalError, OutOfMemoryError, ShutDownError
from flowyard.schemas.values import Value

#: Sends the outcomes of a batch: its number, the outcomes, the seconds it took.
SendResults: TypeAlias = Callable[[int, Sequence[Outcome], float], None]
_Key: TypeAlias = tuple[int, int]


class AwaitedBatches:
    """The batches that are being computed.

    Args:
        connection: To the server.
        model: Computes calls.
        encode: Makes the binary form of a piece.
        send_results: Sends what became of a batch.
    """

    def __init__(self, connection: Connection, model: AsynchronousModel, encode: Encode, send_results: SendResults) -> None:
        self._connection = connection
        self._model = model
        self._encode = encode
        self._send_results = send_results
        self._loop = model.loop
        #: Only the loop's thread uses these: calls that are being computed, and what the streams among them may still send.
        self._calls: dict[_Key, asyncio.Task[Outcome]] = {}
        self._credit: dict[_Key, asyncio.Semaphore] = {}

    def begin(self, batch: frames.Predict, calls: Sequence[Call | FlowyardError]) -> None:
        """Begins with a batch, beside those that are being computed.

        Args:
            batch: What has been received.
            calls: Its calls, and in place of one that did not decode its error.
        """
        asyncio.run_coroutine_threadsafe(self._compute(batch, calls), self._loop)

    def heed(self, message: frames.Credit | frames.Stop) -> None:
        """The server lets a stream go on, or nobody waits for a call any more; one that has ended meanwhile is passed over."""
        self._loop.call_soon_threadsafe(self._heed, message)

    def _heed(self, message: frames.Credit | frames.Stop) -> None:
        key = (message.batch_id, message.place)
        if isinstance(message, frames.Credit):
            credit = self._credit.get(key)
            for _ in range(message.count if credit is not None else 0):
                assert credit is not None
                credit.release()
        elif key in self._calls:
            self._calls[key].cancel()

    async def _compute(self, batch: frames.Predict, calls: Sequence[Call | FlowyardError]) -> None:
        started = time.perf_counter()
        keys = [(batch.batch_id, place) for place in range(len(calls))]
        for key, call, wire in zip(keys, calls, batch.calls, strict=True):
            self._calls[key] = self._loop.create_task(self._outcome(key, call, wants_pieces=wire.stream))
        outcomes = await asyncio.gather(*(self._calls[key] for key in keys), return_exceptions=True)
        for key in keys:
            del self._calls[key]
            self._credit.pop(key, None)
        # Where the socket has ended, the thread that receives notices it, too.
        with contextlib.suppress(OSError):
            self._send_results(batch.batch_id, list(map(_settled, outcomes)), time.perf_counter() - started)

    async def _outcome(self, key: _Key, call: Call | FlowyardError, *, wants_pieces: bool) -> Outcome:
        if isinstance(call, FlowyardError):
            return call
        try:
            answer = await self._model.answer(call)
            if not isinstance(answer, AsyncGenerator):
                return answer
            return await (self._send_pieces(key, answer) if wants_pieces else collected(answer))
        except FlowyardError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a defect of the engine fails the call, not the worker
            log(error)
            return OutOfMemoryError(describe(error)) if is_out_of_memory(error) else InternalError(describe(error))

    async def _send_pieces(self, key: _Key, pieces: AsyncGenerator[Value]) -> Outcome:
        """Sends pieces as they are yielded, no faster than the server takes them."""
        credit = self._credit[key] = asyncio.Semaphore(frames.STREAM_WINDOW)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                await credit.acquire()
                encoded = self._encode(piece)
                if isinstance(encoded, FlowyardError):
                    return encoded
                self._connection.send(frames.Chunk(*key, encoded.tree, tuple(map(len, encoded.buffers))), encoded.buffers)
        return frames.WireEnd()


def _settled(outcome: Outcome | BaseException) -> Outcome:
    """What became of a call; of one that was cancelled nobody reads it."""
    if isinstance(outcome, BaseException) and not isinstance(outcome, FlowyardError):
        return ShutDownError("nobody waits for it any more")
    return outcome
