"""In which content type an answer goes out: `Accept` decides, and the request's own type where the client does not care."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import msgspec
import numpy as np

from flowyard.platform.memo import remembered
from flowyard.schemas.codecs.arrays import is_tensors
from flowyard.schemas.codecs.registry import BY_TYPE
from flowyard.schemas.errors import NotAcceptableError
from flowyard.schemas.values import PLAIN_KINDS, SmallArray, Value

#: As much of an Accept header is read.
MAX_ACCEPT = 1000
_JSON = "application/json"
_TEXT = "text/plain"
_ANY = ("*/*", "*")
_INDIFFERENT = ("", "*/*")
#: Dtypes that numpy and `memoryview` have in common, and make the same of in Python.
_LETTERS = frozenset("?bBhHiIlLqQfd")


def encode_tensors(value: Value, accept: str, sent: str) -> tuple[bytes, bytes] | None:
    """Encodes a result as tensors, where that is wanted.

    Args:
        value: The result.
        accept: The Accept header, empty when there is none.
        sent: The Content-Type of the request.

    Returns:
        Content type and body; `None` when the answer is not one of tensors: JSON, text or bytes, as the value is.

    Raises:
        NotAcceptableError: Accept allows nothing but tensors of a kind that the result is not.
    """
    own = media_type(sent)
    own = own if own in BY_TYPE else ""
    if accept in _INDIFFERENT:
        if not own:
            return None
        if type(value) is np.ndarray and value.dtype.kind in PLAIN_KINDS:
            return own.encode(), BY_TYPE[own].encode(value)
    elif not own and accept == _JSON:
        return None
    tensors = is_tensors(value)
    why = "all tensor types are refused" if tensors else "the result is not an array, or a list or mapping of arrays"
    for kind in _candidates(accept, (own, _JSON, _TEXT) if isinstance(value, str) else (own, _JSON)):
        if kind not in BY_TYPE:
            return None
        if tensors:
            try:
                return kind.encode(), BY_TYPE[kind].encode(value)
            except NotAcceptableError as error:
                why = error.message
    raise NotAcceptableError(f"{why}; Accept: {accept[:100]!r} allows only tensor types (add application/json to it)")


def encode_small_array(array: SmallArray, accept: str, sent: str) -> tuple[bytes, bytes] | None:
    """Encodes a result that is a small array and has not been made, for a client that has no wishes of its own.

    Args:
        array: The result.
        accept: The Accept header, empty when there is none.
        sent: The Content-Type of the request.

    Returns:
        Content type and body as they would be for the array; `None` where it has to be made.
    """
    own = media_type(sent)
    codec = BY_TYPE.get(own)
    if codec is not None:
        body = codec.encode_small(array) if accept in _INDIFFERENT and codec.encode_small is not None else None
        return None if body is None else (own.encode(), body)
    layout = _layout(array.dtype, array.shape) if accept in _INDIFFERENT or accept == _JSON else ""
    if not layout:
        return None
    return b"application/json", msgspec.json.encode(memoryview(array.contents).cast(layout, array.shape).tolist())  # type: ignore[call-overload]


@lru_cache(maxsize=256)
def _layout(dtype: str, shape: tuple[int, ...]) -> str:
    """What `memoryview` calls a dtype; empty where it does not know it, or has no such shapes."""
    letter = np.dtype(dtype).char
    return letter if letter in _LETTERS and shape and all(shape) else ""


def best_of(kinds: tuple[str, ...], accept: str) -> str:
    """The content type that a client likes best.

    Args:
        kinds: What there is to choose from; the first is for those who do not care, or like none of them.
        accept: The Accept header, empty when there is none.

    Returns:
        One of `kinds`.
    """
    wanted, _ = _ranges(accept[:MAX_ACCEPT])
    return next((entry for entry in wanted if entry in kinds), kinds[0])


@remembered(256)
def media_type(header: str) -> str:
    """The media type of a header, in lower case and without parameters."""
    return header.partition(";")[0].strip().lower()


def _candidates(accept: str, preferred: tuple[str, ...]) -> Iterator[str]:
    """The content types that may answer, best first; those preferred come before the others that a wildcard allows.

    A header that names no tensor type, and nothing that we have, is taken for one that does not care: a client that says it
    wants HTML is better off with its result in JSON than without.
    """
    wanted, refused = _ranges(accept[:MAX_ACCEPT])
    here = [kind for kind in (*preferred, *BY_TYPE) if kind and kind not in refused]
    for entry in wanted:
        if entry in _ANY:
            yield from here
        elif entry.endswith("/*"):
            yield from (kind for kind in here if kind.startswith(entry[:-1]))
        elif entry in here:
            yield entry
    if not any(entry in BY_TYPE or entry == "tensor/*" for entry in wanted):
        yield from here


@lru_cache(maxsize=256)
def _ranges(accept: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The media ranges of an Accept header, best first and at equal weight the definite ones; and what it refuses."""
    weighted = [_weighted(entry) for entry in accept.split(",") if entry.strip()]
    ranked = sorted((entry for entry in weighted if entry[1] > 0), key=lambda entry: (-entry[1], entry[0].count("*")))
    return tuple(kind for kind, _ in ranked), frozenset(kind for kind, weight in weighted if weight <= 0)


def _weighted(entry: str) -> tuple[str, float]:
    kind, *parameters = entry.lower().split(";")
    for parameter in parameters:
        key, _, text = parameter.partition("=")
        if key.strip() == "q":
            try:
                weight = float(text)
            except ValueError:
                weight = 1.0
            return kind.strip(), weight if math.isfinite(weight) else 1.0
    return kind.strip(), 1.0
