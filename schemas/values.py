"""Values between nodes and processes, and their binary form.

A value is JSON (null, bool, number, string, list, mapping with string keys), bytes, or a read-only numpy array, and lists and
mappings of these; handlers of DJL's kind take and give a `Message` instead. Its binary form is a *tree*, msgpack with extension
types where an array or a long run of bytes stands, and a tuple of *buffers* that hold the contents of those, so that a tensor is
never copied into a message.

Nothing here unpickles: arrays of Python objects are refused on both sides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.messages import Message

Value: TypeAlias = Any
Buffer: TypeAlias = bytes | bytearray | memoryview

EXT_ARRAY = 1
EXT_BYTES = 2
EXT_STRINGS = 3
EXT_JSON = 4
EXT_SMALL_ARRAY = 5
EXT_MESSAGE = 6

#: Bytes shorter than this stay in the tree: a buffer of their own costs more than the copy.
INLINE_BYTES = 1024
#: So do arrays of up to so many bytes.
SMALL_ARRAY_BYTES = 256
#: How arrays lie in frames and in memory of our own: what vector instructions and cache lines like.
ALIGNMENT_BYTES = 64
#: A longer tree is more than an array.
ARRAY_TREE_BYTES = 256
#: numpy kinds that are plain memory: bool, signed, unsigned, float, complex.
PLAIN_KINDS = frozenset("biufc")
#: Those of them that Python knows, too.
_NATIVE_KINDS = frozenset("biuf")

#: How msgpack begins an extension of 16, up to 255 and up to 65535 bytes.
_EXTENSIONS = frozenset((b"\xd8", b"\xc7", b"\xc8"))
_encoder = msgspec.msgpack.Encoder()
_decode_ext = msgspec.msgpack.Decoder(tuple[int, str, tuple[int, ...]])
_decode_small = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], bytes])
_decode_extension = msgspec.msgpack.Decoder(msgspec.msgpack.Ext)
_decode_index = msgspec.msgpack.Decoder(int)
_decode_strings = msgspec.msgpack.Decoder(tuple[tuple[int, ...], list[str]])
#: Status, reason, properties, contents (the bytes, or the index of the buffer that has them), and their content types.
_decode_message = msgspec.msgpack.Decoder(
    tuple[int, str, tuple[tuple[str, str], ...], tuple[tuple[str | None, int | bytes], ...], tuple[str, ...]]
)


#: What msgspec raises where something is not the JSON or msgpack that is expected: none, not in UTF-8, or nested too deeply.
NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

#: The tree of JSON text that nobody has parsed.
JSON_TREE = _encoder.encode(msgspec.msgpack.Ext(EXT_JSON, _encoder.encode(0)))


class Encoded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The binary form of one value.

    Attributes:
        tree: msgpack, with extension types that refer to `buffers` by index.
        buffers: Contents of arrays and long bytes, in order.
    """

    tree: bytes
    buffers: tuple[Buffer, ...] = ()


def aligned_memory(size: int) -> memoryview:
    """Fresh memory of `size` bytes, not initialised, at a multiple of `ALIGNMENT_BYTES`."""
    memory = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT_BYTES
    return memory[start : start + size].data


def encode(value: Value) -> Encoded:
    """Turns a value into its binary form, without copying the contents of arrays.

    Args:
        value: The value; torch tensors and numpy scalars are accepted and arrive as arrays and numbers.

    Returns:
        The tree and its buffers. The buffers refer to the memory of `value`: it must not change while they are in use.

    Raises:
        InvalidInputError: The value holds something that is no value (a set, an object array, a class instance).
    """
    if type(value) is np.ndarray and value.dtype.kind in PLAIN_KINDS:
        return _encode_array(value)
    buffers: list[Buffer] = []
    hook = _Flattener(buffers)
    if type(value) is bytes and len(value) >= INLINE_BYTES:
        return Encoded(_encoder.encode(hook.long_bytes(value)), (value,))
    try:
        tree = msgspec.msgpack.encode(_without_long_bytes(value, hook), enc_hook=hook)
    except (TypeError, RecursionError, OverflowError, NotImplementedError) as error:
        raise InvalidInputError(f"not a value that can be passed on: {error}") from None
    return Encoded(tree, tuple(buffers))


def _encode_array(array: np.ndarray[Any, Any]) -> Encoded:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.nbytes <= SMALL_ARRAY_BYTES:
        return Encoded(small_array_head(array.dtype.str, array.shape) + array.tobytes())
    return Encoded(array_tree(array.dtype.str, array.shape), (_contents(array),))


@functools.lru_cache(maxsize=256)
def small_array_head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The tree of a small array, but for its contents, which come last. A model has arrays of few shapes."""
    contents = bytes(math.prod(shape) * np.dtype(dtype).itemsize)
    tree = _encoder.encode(msgspec.msgpack.Ext(EXT_SMALL_ARRAY, _encoder.encode((dtype, shape, contents))))
    return tree[: len(tree) - len(contents)]


@functools.lru_cache(maxsize=256)
def array_tree(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The tree of an array of more than `SMALL_ARRAY_BYTES` that is a value of its own."""
    return _encoder.encode(msgspec.msgpack.Ext(EXT_ARRAY, _encoder.encode((0, dtype, shape))))


def _contents(array: np.ndarray[Any, Any]) -> memoryview:
    """The bytes of an array that has some."""
    if array.flags.c_contiguous and array.dtype.kind in _NATIVE_KINDS:
        return array.data.cast("B")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class _Flattener:
    """Replaces what msgpack does not know by an extension and collects the buffers."""

    def __init__(self, buffers: list[Buffer]) -> None:
        self.buffers = buffers

    def __call__(self, item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return self.array(item)
        if isinstance(item, np.generic):
            return item.item()
        if hasattr(item, "detach") and hasattr(item, "numpy"):
            return self.array(_from_torch(item))
        if isinstance(item, (bytes, bytearray, memoryview)):
            return bytes(item)
        if isinstance(item, Message):
            return self.message(item)
        raise TypeError(f"an object of type {type(item).__name__!r}")

    def array(self, array: np.ndarray[Any, Any]) -> msgspec.msgpack.Ext:
        if array.dtype.kind not in PLAIN_KINDS:
            return _strings(array)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.nbytes <= SMALL_ARRAY_BYTES:
            return msgspec.msgpack.Ext(EXT_SMALL_ARRAY, _encoder.encode((array.dtype.str, array.shape, array.tobytes())))
        self.buffers.append(_contents(array))
        return msgspec.msgpack.Ext(EXT_ARRAY, _encoder.encode((len(self.buffers) - 1, array.dtype.str, array.shape)))

    def message(self, message: Message) -> msgspec.msgpack.Ext:
        contents = tuple([(name, self._content(content)) for name, content in message.contents])
        parts = (message.code, message.reason, message.properties, contents, message.types)
        return msgspec.msgpack.Ext(EXT_MESSAGE, _encoder.encode(parts))

    def _content(self, content: bytes) -> bytes | int:
        if len(content) < INLINE_BYTES:
            return content
        self.buffers.append(content)
        return len(self.buffers) - 1

    def long_bytes(self, data: bytes) -> msgspec.msgpack.Ext:
        self.buffers.append(data)
        return msgspec.msgpack.Ext(EXT_BYTES, _encoder.encode(len(self.buffers) - 1))


def _from_torch(tensor: Any) -> np.ndarray[Any, Any]:
    """A torch tensor as an array. bfloat16 has no numpy dtype and becomes float32."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array


def _strings(array: np.ndarray[Any, Any]) -> msgspec.msgpack.Ext:
    flat = array.reshape(-1).tolist()
    if array.dtype.kind == "S":
        flat = [item.decode("utf-8", "replace") for item in flat]
    if not all(isinstance(item, str) for item in flat):
        raise TypeError(f"an array of dtype {array.dtype}")
    return msgspec.msgpack.Ext(EXT_STRINGS, _encoder.encode((array.shape, flat)))


def _without_long_bytes(value: Any, hook: _Flattener) -> Any:
    """Moves long bytes out of the tree. Only lists and mappings that may hold some are rebuilt."""
    if isinstance(value, bytes):
        return hook.long_bytes(value) if len(value) >= INLINE_BYTES else value
    if isinstance(value, dict):
        if any(isinstance(item, (bytes, dict, list, tuple)) for item in value.values()):
            return {key: _without_long_bytes(item, hook) for key, item in value.items()}
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (bytes, dict, list, tuple)) for item in value):
        return [_without_long_bytes(item, hook) for item in value]
    return value


def decode(encoded: Encoded, *, own: bool = False) -> Value:
    """Rebuilds a value from its binary form.

    Args:
        encoded: What `encode` returned, here or in another process.
        own: Whether arrays get memory of their own, because the buffers will be used for something else.

    Returns:
        The value. Arrays are read-only, and views of the buffers unless `own`.

    Raises:
        InvalidInputError: JSON text inside that does not parse, or a tree that refers to what is not there.
    """
    tree, buffers = encoded.tree, encoded.buffers
    if len(buffers) == 1:
        if tree == JSON_TREE:
            return decode_json(buffers[0])
        alone = lone_array(tree) if len(tree) <= ARRAY_TREE_BYTES else None
        if alone is not None and len(buffers[0]) == alone[2]:
            return _view(_copy(buffers[0]) if own else buffers[0], alone[0], alone[1])
    try:
        if not buffers and tree[:1] in _EXTENSIONS:
            extension = _decode_extension.decode(tree)
            return _unflatten((), False, extension.code, memoryview(extension.data))
        return msgspec.msgpack.decode(tree, ext_hook=functools.partial(_unflatten, buffers, own))
    except InvalidInputError:
        raise
    except (msgspec.MsgspecError, ValueError, IndexError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"a value that cannot be decoded: {error}") from None


def _unflatten(buffers: Sequence[Buffer], own: bool, code: int, data: memoryview) -> Any:
    """What an extension stands for."""
    if code == EXT_ARRAY:
        index, dtype, shape = _decode_ext.decode(data)
        return _array(_copy(buffers[index]) if own else buffers[index], dtype, shape)
    if code == EXT_SMALL_ARRAY:
        dtype, shape, content = _decode_small.decode(data)
        return _array(content, dtype, shape)
    if code == EXT_BYTES:
        return bytes(buffers[_decode_index.decode(data)])
    if code == EXT_STRINGS:
        shape, flat = _decode_strings.decode(data)
        return np.array(flat, dtype=object).reshape(shape)
    if code == EXT_JSON:
        return decode_json(buffers[_decode_index.decode(data)])
    if code == EXT_MESSAGE:
        return _message(data, buffers)
    raise InvalidInputError(f"unknown extension type {code}")


@functools.lru_cache(maxsize=256)
def lone_array(tree: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int] | None:
    """Dtype, shape and size in bytes of the array that a value with one buffer is, where it is nothing else."""
    try:
        found = msgspec.msgpack.decode(tree)
        index, dtype, shape = _decode_ext.decode(found.data) if getattr(found, "code", None) == EXT_ARRAY else (-1, "", ())
        kind = np.dtype(dtype) if index == 0 else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        return None
    if kind is None or kind.kind not in PLAIN_KINDS or any(size < 0 for size in shape):
        return None
    return kind, shape, math.prod(shape) * kind.itemsize


def _message(data: memoryview, buffers: Sequence[Buffer]) -> Message:
    status, reason, properties, contents, types = _decode_message.decode(data)
    return Message(
        status,
        reason,
        properties,
        tuple([(name, bytes(buffers[content]) if isinstance(content, int) else content) for name, content in contents]),
        types,
    )


def _copy(buffer: Buffer) -> Buffer:
    copy = aligned_memory(len(buffer))
    copy[:] = buffer
    return copy


def _array(buffer: Buffer, dtype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    kind = _dtype(dtype)
    if kind.kind not in PLAIN_KINDS:
        raise InvalidInputError(f"an array of dtype {dtype}")
    return _view(buffer, kind, shape)


class SmallArray(NamedTuple):
    """An array whose contents are in the tree of its binary form.

    Attributes:
        dtype: numpy's name of the dtype, with the byte order of this machine.
        shape: Size per axis.
        contents: The elements.
    """

    dtype: str
    shape: tuple[int, ...]
    contents: bytes


def small_array(encoded: Encoded) -> SmallArray | None:
    """The small array that a value is, without making it; `None` where it is anything else."""
    tree = encoded.tree
    if encoded.buffers or tree[:1] not in _EXTENSIONS:
        return None
    try:
        extension = _decode_extension.decode(tree)
        if extension.code != EXT_SMALL_ARRAY:
            return None
        found = SmallArray(*_decode_small.decode(extension.data))
    except NOT_JSON:
        return None
    return found if len(found.contents) == _size_bytes(found.dtype, found.shape) else None


@functools.lru_cache(maxsize=256)
def _size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of an array of numbers in this machine's byte order; -1 for all others."""
    try:
        kind = np.dtype(dtype)
    except TypeError:
        return -1
    if kind.kind not in PLAIN_KINDS or not kind.isnative or any(size < 0 for size in shape):
        return -1
    return math.prod(shape) * kind.itemsize


#: numpy looks names up slowly.
_dtype = functools.lru_cache(maxsize=256)(np.dtype)


def _view(buffer: Buffer, dtype: np.dtype[Any], shape: Sequence[int]) -> np.ndarray[Any, Any]:
    # Not `ndarray(buffer=...)`, which passes by who lets go of shared memory, to whom that memory belongs.
    array: np.ndarray[Any, Any] = np.frombuffer(buffer, dtype).reshape(shape)
    if type(buffer) is not bytes:
        array.flags.writeable = False
    return array


def decode_json(text: Buffer) -> Value:
    """Parses JSON strictly: no NaN, Infinity, overflow or trailing text.

    Args:
        text: UTF-8 JSON.

    Returns:
        The value.

    Raises:
        InvalidInputError: The text is no JSON; the message says at which byte.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidInputError("the body is not valid JSON: nested too deeply") from None


def to_jsonable(value: Value) -> Value:
    """Replaces arrays by nested lists and bytes by base64 text, for an answer in JSON.

    Args:
        value: Any value.

    Returns:
        The same with JSON's own types only. A NaN or infinity becomes null, as JSON has neither.
    """
    if isinstance(value, np.ndarray):
        return [value.real.tolist(), value.imag.tolist()] if value.dtype.kind == "c" else value.tolist()
    if isinstance(value, dict):
        return {key: to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
