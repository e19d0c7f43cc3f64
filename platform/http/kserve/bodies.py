"""Requests and answers of `infer`: JSON, and tensors in binary behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from flowyard.platform.http.kserve.tensors import DATATYPES, Array, Tensor, read_binary, read_json, write_binary, write_json
from flowyard.schemas.errors import InternalError, InvalidInputError, InvalidRequestError
from flowyard.schemas.values import PLAIN_KINDS, Value

#: The header that says how much of a body is JSON; the rest is binary.
HEADER_LENGTH = "inference-header-content-length"
MAX_TENSORS = 10_000
Parameters: TypeAlias = dict[str, Any]


class InputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One input as JSON has it; without `data`, `parameters.binary_data_size` says how many bytes of it follow the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters = {}


class WantedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One output that the caller wants."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of a request."""

    inputs: tuple[InputTensor, ...]
    id: str | None = None
    outputs: tuple[WantedOutput, ...] = ()
    parameters: Parameters = {}


_decoder = msgspec.json.Decoder(InferRequest)


def read_request(headers: Mapping[str, str], body: bytes | memoryview) -> tuple[InferRequest, list[Tensor]]:
    """Reads a request.

    Args:
        headers: Request headers, names in lower case.
        body: The body.

    Returns:
        Its JSON, and its input tensors.

    Raises:
        InvalidRequestError: The JSON is broken, or is not one of `infer`.
        InvalidInputError: A tensor that cannot be read.
    """
    text, binary = _split(headers, body)
    try:
        request = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"Invalid inference request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # DJL's text (§1.12).
        raise InvalidRequestError("Invalid JSON input") from None
    if not 0 < len(request.inputs) <= MAX_TENSORS:
        raise InvalidRequestError(f"Invalid inference request: from 1 to {MAX_TENSORS} inputs are expected")
    names = [tensor.name for tensor in request.inputs]
    if len(set(names)) < len(names):
        raise InvalidInputError("two inputs have the same name")
    return request, _tensors(request.inputs, binary)


def _split(headers: Mapping[str, str], body: bytes | memoryview) -> tuple[bytes, memoryview]:
    given = headers.get(HEADER_LENGTH)
    if given is None:
        return bytes(body), memoryview(b"")
    if not (given.isascii() and given.isdigit()) or int(given) > len(body):
        raise InvalidRequestError(f"Header Inference-Header-Content-Length: {given[:20]!r} is no length within the body.")
    return bytes(body[: int(given)]), memoryview(body)[int(given) :]


def _tensors(inputs: Sequence[InputTensor], binary: memoryview) -> list[Tensor]:
    tensors = []
    at = 0
    for given in inputs:
        size = given.parameters.get("binary_data_size")
        if size is None:
            if not bytes(given.data):
                raise InvalidInputError(f"input {given.name!r}: neither data nor parameters.binary_data_size is given")
            array = read_json(given.name, given.datatype, given.shape, given.data)
        elif not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - at:
            raise InvalidInputError(f"input {given.name!r}: binary_data_size {size!r} reaches past the end of the body")
        else:
            array = read_binary(given.name, given.datatype, given.shape, binary[at : at + size])
            at += size
        tensors.append(Tensor(given.name, array))
    if at < len(binary):
        raise InvalidInputError(f"{len(binary) - at} bytes behind the last input")
    return tensors


def outputs_of(value: Value, names: Sequence[str], wanted: Sequence[str]) -> list[Tensor]:
    """The output tensors of a result.

    Args:
        value: An array, or a list or mapping of them; numbers, texts and lists of either count as arrays.
        names: What the model calls its outputs, where it says so.
        wanted: What the caller asks for; empty for all.

    Returns:
        The tensors, those wanted in that order.

    Raises:
        InvalidInputError: An output is wanted that there is not.
        InternalError: The result is nothing that a tensor can hold.
    """
    if isinstance(value, dict):
        found = {str(name): _array(item) for name, item in value.items()}
    elif isinstance(value, (list, tuple)) and value and all(isinstance(item, np.ndarray) for item in value):
        found = dict(zip(_named(names, wanted, len(value)), map(_array, value), strict=True))
    else:
        found = dict(zip(_named(names, wanted, 1), [_array(value)], strict=True))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InvalidInputError(f"no output {missing[0]!r}; the model gives {', '.join(found)}")
    return [Tensor(name, found[name]) for name in wanted or found]


def _named(names: Sequence[str], wanted: Sequence[str], count: int) -> Sequence[str]:
    """Names of results that have none: the model's own, else the caller's by position as in DJL, else numbered."""
    for known in (names, wanted):
        if len(known) == count:
            return known
    return [f"output{number}" for number in range(count)]


def _array(value: Value) -> Array:
    try:
        array = np.asarray(value.decode() if isinstance(value, bytes) else value)
    except (ValueError, UnicodeDecodeError):
        raise InternalError("the result is no tensor: its rows are not of the same length, or it is binary") from None
    if array.dtype.kind in "US" or (array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat)):
        return array.astype(object)
    if array.dtype.kind not in PLAIN_KINDS or array.dtype.name not in DATATYPES:
        raise InternalError(f"the result is no tensor: {type(value).__name__} of dtype {array.dtype}")
    return array


def write_answer(head: dict[str, Any], outputs: Sequence[Tensor], request: InferRequest) -> tuple[bytes, int | None]:
    """The body of an answer.

    Args:
        head: What stands before the outputs.
        outputs: The outputs.
        request: The request, which says what is wanted in binary.

    Returns:
        The body, and how much of it is JSON where the rest is binary.
    """
    everything = request.parameters.get("binary_data_output") is True
    binary = {output.name: output.parameters.get("binary_data", everything) is True for output in request.outputs}
    told: list[dict[str, Any]] = []
    contents: list[bytes] = []
    for tensor in outputs:
        if binary.get(tensor.name, everything):
            entry, content = write_binary(tensor)
            contents.append(content)
        else:
            entry = write_json(tensor)
        told.append(entry)
    text = msgspec.json.encode(head | {"outputs": told})
    return b"".join([text, *contents]), len(text) if contents else None
