"""What the server and a worker process say to each other.

On the socket a frame is `<IQ` (length of the head, length of the body), the head (msgpack of one of the messages below) and
the body: the buffers of all values in the frame, each padded to 64 bytes so that tensors arrive aligned. The head carries the
length of every buffer. A side that receives a frame over the limits, or one that does not decode, closes the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from flowyard.schemas.devices import Device
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Buffer, Encoded

#: A head longer than this is a defect or an attack, not a frame.
HEAD_LIMIT_BYTES = 64 << 20
#: A body longer than this likewise.
BODY_LIMIT_BYTES = 4 << 30
ALIGNMENT_BYTES = 64


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
    """A value in a frame: its tree, and the sizes of its buffers in the body, in order."""

    tree: bytes
    sizes: tuple[int, ...] = ()


class WireCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One job of a batch: the function to call (empty for a model), its arguments and its context."""

    callee: str
    args: tuple[WireValue, ...]
    context: Context


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Server to worker, first frame: what to load.

    Attributes:
        engine: Name of the engine adapter.
        root: Folder of the unpacked archive; Python modules are imported from here.
        path: The model: a file or folder, or `module:callable`.
        functions: For a worker of functions: name -> `module:callable`.
        threads: Intra-op threads the engine may use.
    """

    engine: str
    root: str
    path: str
    device: Device
    spec: ModelSpec
    functions: dict[str, str] = {}
    threads: int = 1


class Predict(msgspec.Struct, frozen=True, array_like=True, tag="predict", gc=False):
    """Server to worker: compute a batch."""

    batch_id: int
    calls: tuple[WireCall, ...]


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Worker to server: the model is loaded.

    Attributes:
        signature: What the model takes and gives, where its engine knows.
        load_s: Seconds the load took.
    """

    signature: Signature | None = None
    load_s: float = 0.0


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="load_failed"):
    """Worker to server: the model cannot be loaded; the worker ends. `code` is a slug of the error tree."""

    code: str
    message: str


class WireError(msgspec.Struct, frozen=True, array_like=True, tag="error", gc=False):
    """One call failed. `code` is a slug of the error tree."""

    code: str
    message: str


class WireResult(msgspec.Struct, frozen=True, array_like=True, tag="value", gc=False):
    """One call's result."""

    tree: bytes
    sizes: tuple[int, ...] = ()


class Results(msgspec.Struct, frozen=True, array_like=True, tag="results", gc=False):
    """Worker to server: one outcome per call of the batch, in order; `compute_s` is the engine's own time."""

    batch_id: int
    outcomes: tuple[WireResult | WireError, ...]
    compute_s: float


ToWorker: TypeAlias = Load | Predict
ToServer: TypeAlias = Ready | LoadFailed | Results

_PREFIX = struct.Struct("<IQ")
PREFIX_BYTES = _PREFIX.size
_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_server: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)
_PADDING = bytes(ALIGNMENT_BYTES)


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
    except msgspec.MsgspecError as error:
        raise FrameError(str(error)) from None


def unpack_to_server(head: Buffer) -> ToServer:
    """Decodes the head of a frame that the server received.

    Raises:
        FrameError: It is no such message.
    """
    try:
        return _to_server.decode(head)
    except msgspec.MsgspecError as error:
        raise FrameError(str(error)) from None


class BodyReader:
    """Hands out the buffers of a frame's body, in the order of the head."""

    def __init__(self, body: Buffer) -> None:
        self._body = memoryview(body)
        self._offset = 0

    def take(self, tree: bytes, sizes: tuple[int, ...]) -> Encoded:
        """The next value of the frame.

        Args:
            tree: The value's tree, from the head.
            sizes: Length of each of its buffers in bytes.

        Returns:
            The value; its buffers are views of the body.

        Raises:
            FrameError: The body ends before the buffers do.
        """
        buffers: list[Buffer] = []
        for size in sizes:
            end = self._offset + size
            if size < 0 or end > len(self._body):
                raise FrameError("a value that reaches past the end of its frame")
            buffers.append(self._body[self._offset : end])
            self._offset = end + -size % ALIGNMENT_BYTES
        return Encoded(tree, tuple(buffers))
