"""What the server and a worker process say to each other.

On the socket a frame is `<IQ` (length of the head, length of the body), the head (msgpack of one of the messages below) and
the body: the buffers of all values in the frame, each padded to 64 bytes so that tensors arrive aligned. The head carries the
length of every buffer. A side that receives a frame over the limits, or one that does not decode, closes the connection.

Where both sides share memory, large buffers are not in the body but in an arena (see `arena.py`): the worker's inbox, which the
server writes, its outbox, which it writes itself, or, for a value that comes from another worker, that one's outbox. Such a
buffer's *place* is the number of the arena and the offset in it. An arena's number is sent over a socket of its own, ahead of the
first frame that refers to it, together with its file descriptor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from flowyard.schemas.devices import Device
from flowyard.schemas.fusion import Fusion
from flowyard.schemas.messages import Handlers
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.ranks import Ranks
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import ALIGNMENT_BYTES, Buffer, Encoded

#: A head longer than this is a defect or an attack, not a frame.
HEAD_LIMIT_BYTES = 64 << 20
#: A body longer than this likewise.
BODY_LIMIT_BYTES = 4 << 30
#: Seconds between two signs of life of a worker.
HEARTBEAT_S = 1.0
#: Pieces of a stream that a worker may send ahead of the client.
STREAM_WINDOW = 16
#: Buffers from this size on go through shared memory; below, what it costs to keep the books exceeds the copies it saves.
SHARED_FROM_BYTES = 96 << 10
#: In a place: the buffer is in the frame's body.
IN_BODY = 0
#: In a place: the buffer is in the sender's own arena, the inbox of the worker or its outbox.
OWN_ARENA = 1
#: Arenas of other workers have numbers from here on.
FIRST_FOREIGN_ARENA = 2

#: Number of an arena, and an offset in it.
Place: TypeAlias = tuple[int, int]
#: Gives the buffer at a place: number of the arena, offset, size in bytes. Raises a `FrameError` where there is none.
ViewOf: TypeAlias = Callable[[int, int, int], Buffer]
BODY_PLACE: Place = (IN_BODY, 0)
#: The message that comes with an arena's file descriptor.
ARENA_NUMBER = struct.Struct("<Q")


class Context(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a call may know of the request it belongs to.

    Attributes:
        request_id: The `x-request-id` of the request.
        headers: Request headers, names in lower case.
        time_left_s: Seconds until the deadline when the batch was sent, `None` without one.
    """

    request_id: str = ""
    headers: dict[str, str] = {}
    time_left_s: float | None = None


class WireValue(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value in a frame: its tree, the sizes of its buffers, and their places unless all of them are in the body."""

    tree: bytes
    sizes: tuple[int, ...] = ()
    places: tuple[Place, ...] = ()


class WireCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One job of a batch: the function to call (empty for a model), its arguments, its context, whether pieces are welcome."""

    callee: str
    args: tuple[WireValue, ...]
    context: Context
    stream: bool = False


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Server to worker, first frame: what to load.

    Attributes:
        engine: Name of the engine adapter.
        root: Folder of the unpacked archive; Python modules are imported from here.
        path: The model: a file or folder, or `module:callable`.
        functions: For a worker of functions: name -> `module:callable`.
        threads: Intra-op threads the engine may use.
        handlers: Whose handlers the model's are, or the functions; these take and give messages.
        properties: What such a model's own files say about how it is to be loaded.
        fusion: Nodes of the workflow that the worker may be asked to compute in one call.
        log_level: What is below it is not logged; a number of the `logging` module.
        ranks: How the worker is made of processes, where one does not do.
    """

    engine: str
    root: str
    path: str
    device: Device
    spec: ModelSpec
    functions: dict[str, str] = {}
    threads: int = 1
    handlers: Handlers = ""
    properties: dict[str, str] = {}
    fusion: Fusion | None = None
    log_level: int = 20
    ranks: Ranks | None = None


class LogLevel(msgspec.Struct, frozen=True, array_like=True, tag="log_level"):
    """Server to worker: what is below this level is not logged from now on; a number of the `logging` module."""

    level: int


class Predict(msgspec.Struct, frozen=True, array_like=True, tag="predict", gc=False):
    """Server to worker: compute a batch. `freed` are offsets in the worker's outbox that it may use again."""

    batch_id: int
    calls: tuple[WireCall, ...]
    freed: tuple[int, ...] = ()


class Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop", gc=False):
    """Server to worker: these foreign arenas are not needed any more, their workers are gone."""

    arenas: tuple[int, ...]


class Credit(msgspec.Struct, frozen=True, array_like=True, tag="credit", gc=False):
    """Server to worker: `count` more pieces of the stream of call `place` of a batch may be sent."""

    batch_id: int
    place: int
    count: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop", gc=False):
    """Server to worker: nobody wants the rest of this stream, or waits for this call, which is computed beside others."""

    batch_id: int
    place: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Worker to server: the model is loaded.

    Attributes:
        signature: What the model takes and gives, where its engine knows.
        load_s: Seconds the load took.
        others: Process ids of the worker's ranks but the first.
    """

    signature: Signature | None = None
    load_s: float = 0.0
    others: tuple[int, ...] = ()


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="load_failed"):
    """Worker to server: the model cannot be loaded; the worker ends. `code` is a slug of the error tree."""

    code: str
    message: str


class WireError(msgspec.Struct, frozen=True, array_like=True, tag="error", gc=False):
    """One call failed.

    `code` is a slug of the error tree; `status` and `detail` belong to a `HandlerError`; `node` says which one of a call of fused
    nodes failed, where one of them did.
    """

    code: str
    message: str
    status: int = 0
    detail: str = ""
    node: int = -1


class WireResult(msgspec.Struct, frozen=True, array_like=True, tag="value", gc=False):
    """One call's result, as a `WireValue`."""

    tree: bytes
    sizes: tuple[int, ...] = ()
    places: tuple[Place, ...] = ()


class WireSeveral(msgspec.Struct, frozen=True, array_like=True, tag="several", gc=False):
    """What a call of fused nodes gives back: the results that are wanted outside, in order."""

    results: tuple[WireResult, ...]


class WireRefused(msgspec.Struct, frozen=True, array_like=True, tag="refused", gc=False):
    """A call of fused nodes has not begun, because their models cannot be loaded."""


class WireEnd(msgspec.Struct, frozen=True, array_like=True, tag="end", gc=False):
    """One call's result has come in pieces, and was complete."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag="chunk", gc=False):
    """Worker to server: a piece of the stream of call `place` of a batch. Its buffers are in the body."""

    batch_id: int
    place: int
    tree: bytes
    sizes: tuple[int, ...] = ()


class NodeTime(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When a fused node began and ended, for a whole batch, on the monotonic clock of the machine; and its processor time."""

    began: float
    ended: float
    cpu_s: float


class Results(msgspec.Struct, frozen=True, array_like=True, tag="results", gc=False):
    """Worker to server: one outcome per call of the batch, in order.

    `compute_s` is the engine's own time, `cpu_s` that of the processor, in its thread; `times` are those of fused nodes.
    """

    batch_id: int
    outcomes: tuple[WireResult | WireError | WireEnd | WireSeveral | WireRefused, ...]
    compute_s: float
    cpu_s: float = 0.0
    times: tuple[NodeTime, ...] = ()


class Step(msgspec.Struct, frozen=True, array_like=True, tag="step", gc=False):
    """Worker to server: a step is over for all calls that are computed side by side, and those that have not ended go on.

    It comes before what the step has made. `ended` are sequences whose handler has said so: nothing more is to come of them.
    """

    ended: tuple[str, ...] = ()


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="alive", gc=False):
    """Worker to server, once a second after `Ready`: the process runs, whatever it computes."""


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value of a metric of a handler's own.

    Attributes:
        name: Its name.
        unit: Its unit in full: `Milliseconds`, `Count`.
        kind: `counter`, `gauge` or `histogram`; empty where the handler does not say.
        value: The value; of a counter, what it grows by.
        dimensions: Names and values.
        request_id: Of the request that it belongs to, or several joined by commas; empty for none.
    """

    name: str
    unit: str
    kind: str
    value: float
    dimensions: tuple[tuple[str, str], ...] = ()
    request_id: str = ""


class Metrics(msgspec.Struct, frozen=True, array_like=True, tag="metrics", gc=False):
    """Worker to server: what handlers have measured since the last such frame."""

    samples: tuple[Sample, ...]


ToWorker: TypeAlias = Load | LogLevel | Predict | Drop | Credit | Stop
ToServer: TypeAlias = Ready | LoadFailed | Results | Heartbeat | Chunk | Step | Metrics

_PREFIX = struct.Struct("<IQ")
PREFIX_BYTES = _PREFIX.size
_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_server: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)
_PADDING = bytes(ALIGNMENT_BYTES)
#: What decoding raises, also for text that is not UTF-8 and for nesting without end.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class FrameError(ValueError):
    """What arrived is no frame of ours. The connection is of no further use."""


def pack(message: ToWorker | ToServer, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Turns a message into the chunks to write, in order.

    Args:
        message: The head.
        buffers: All buffers that the head's values refer to, in the order of the head.

    Returns:
        Chunks to write one after the other; buffers are passed through, not copied.
    """
    head = _encoder.encode(message)
    body: list[Buffer] = []
    length = 0
    for buffer in buffers:
        body.append(buffer)
        padding = -len(buffer) % ALIGNMENT_BYTES
        if padding:
            body.append(_PADDING[:padding])
        length += len(buffer) + padding
    return [_PREFIX.pack(len(head), length) + head, *body]


def read_prefix(prefix: Buffer) -> tuple[int, int]:
    """Reads the lengths of head and body from the first `PREFIX_BYTES` bytes of a frame.

    Raises:
        FrameError: A length is over its limit.
    """
    head, body = _PREFIX.unpack(prefix)
    if head > HEAD_LIMIT_BYTES or body > BODY_LIMIT_BYTES:
        raise FrameError(f"a frame of {head} + {body} bytes")
    return head, body


def unpack_to_worker(head: Buffer) -> ToWorker:
    """Decodes the head of a frame that a worker received.

    Raises:
        FrameError: It is no such message.
    """
    try:
        return _to_worker.decode(head)
    except _UNREADABLE as error:
        raise FrameError(str(error)) from None


def unpack_to_server(head: Buffer) -> ToServer:
    """Decodes the head of a frame that the server received.

    Raises:
        FrameError: It is no such message.
    """
    try:
        return _to_server.decode(head)
    except _UNREADABLE as error:
        raise FrameError(str(error)) from None


class BodyReader:
    """Hands out the buffers of a frame's body, in the order of the head."""

    __slots__ = ("_body", "_offset", "_size")

    def __init__(self, body: Buffer) -> None:
        self._body = memoryview(body)
        self._size = len(self._body)
        self._offset = 0

    def take(self, tree: bytes, sizes: tuple[int, ...], places: tuple[Place, ...] = (), view_of: ViewOf | None = None) -> Encoded:
        """The next value of the frame.

        Args:
            tree: The value's tree, from the head.
            sizes: Length of each of its buffers in bytes.
            places: Where each of them is; empty when all are in the body.
            view_of: Finds those that are in shared memory.

        Returns:
            The value; its buffers are views of the body and of shared memory.

        Raises:
            FrameError: The body ends before the buffers do, or there is no such place.
        """
        if not places:
            return Encoded(tree, (self._next(sizes[0]),) if len(sizes) == 1 else tuple([self._next(size) for size in sizes]))
        if len(places) != len(sizes) or view_of is None:
            raise FrameError("places that fit no buffers")
        return Encoded(
            tree,
            tuple(
                [
                    self._next(size) if arena == IN_BODY else view_of(arena, offset, size)
                    for size, (arena, offset) in zip(sizes, places, strict=True)
                ]
            ),
        )

    def _next(self, size: int) -> memoryview:
        start = self._offset
        end = start + size
        if size < 0 or end > self._size:
            raise FrameError("a value that reaches past the end of its frame")
        self._offset = end + -size % ALIGNMENT_BYTES
        return self._body[start:end]
