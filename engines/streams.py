"""Results that come in pieces: sent to the server as they are yielded, no faster than it takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeAlias

from flowyard.engines.base import Stream
from flowyard.engines.connection import Connection
from flowyard.schemas import frames
from flowyard.schemas.errors import FlowyardError
from flowyard.schemas.values import Encoded, Value

#: Makes the binary form of a piece, or the error that it stands for.
Encode: TypeAlias = Callable[[Value], Encoded | FlowyardError]


class Pump:
    """Sends the pieces of the streams of one batch, in turns.

    A stream may be `STREAM_WINDOW` pieces ahead of its client. When none may send, this waits for the server to let one go on.
    """

    def __init__(self, connection: Connection, batch_id: int, streams: Mapping[int, Stream], encode: Encode) -> None:
        """Begins with nothing sent.

        Args:
            connection: To the server.
            batch_id: The batch.
            streams: The streams by the place of their call in the batch.
            encode: Makes the binary form of a piece.
        """
        self._connection = connection
        self._batch_id = batch_id
        self._streams = dict(streams)
        self._credit = dict.fromkeys(streams, frames.STREAM_WINDOW)
        self._encode = encode
        self._failed: dict[int, FlowyardError] = {}

    def run(self) -> Mapping[int, FlowyardError]:
        """Sends until all streams have ended.

        Returns:
            The errors of those that have failed, by place.

        Raises:
            ConnectionError: The server is gone.
        """
        turns = deque(self._streams)
        while turns:
            self._listen(wait=not any(self._credit[place] for place in turns))
            for _ in range(len(turns)):
                place = turns.popleft()
                if place in self._streams and (not self._credit[place] or self._send_next(place)):
                    turns.append(place)
        return self._failed

    def _send_next(self, place: int) -> bool:
        """Sends the next piece of a stream; false when there is none."""
        stream = self._streams[place]
        try:
            encoded = self._encode(next(stream))
        except StopIteration:
            del self._streams[place]
            return False
        except FlowyardError as error:
            encoded = error
        if isinstance(encoded, FlowyardError):
            self._failed[place] = encoded
            del self._streams[place]
            stream.close()
            return False
        sizes = tuple(map(len, encoded.buffers))
        self._connection.send(frames.Chunk(self._batch_id, place, encoded.tree, sizes), encoded.buffers)
        self._credit[place] -= 1
        return True

    def _listen(self, *, wait: bool) -> None:
        """Reads what the server says: all that is there, and at least one frame when nothing can be sent before."""
        while wait or self._connection.has_more():
            received = self._connection.receive_new()
            if received is None:
                raise ConnectionResetError
            self._heed(*received)
            wait = False

    def _heed(self, message: frames.ToWorker, body: memoryview) -> None:
        match message:
            case frames.Credit(batch_id, place, count):
                if batch_id == self._batch_id and place in self._credit:
                    self._credit[place] += count
            case frames.Stop(batch_id, place):
                stream = self._streams.pop(place, None) if batch_id == self._batch_id else None
                if stream is not None:
                    stream.close()
            case _:
                self._connection.put_back(message, body)
