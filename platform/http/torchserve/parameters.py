"""Parameters as TorchServe and MMS read them: what is no number counts as absent, what is not `true` is false (§1.1).

Each such silent default is answered as the originals do and told in the log. A JSON body is read like Gson in its lenient mode:
text for a number is fine as long as it is one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import structlog

from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.lenient_json import read_lenient
from flowyard.schemas.values import NOT_JSON

log = structlog.stdlib.get_logger(__name__)

_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?")
_LARGEST = 2**31 - 1
#: Characters of a value that a message repeats.
_SHOWN = 100


class Parameters:
    """The parameters of one call.

    Args:
        values: Values by name, as text.
        strict: Whether a value of the wrong kind is refused, as in JSON, or counts as absent, as in a query.
    """

    def __init__(self, values: Mapping[str, str], *, strict: bool = False) -> None:
        self._values = values
        self._strict = strict

    def text(self, *names: str) -> str | None:
        """The value of the first name that is given; further names are those of early documents."""
        return next((self._values[name] for name in names if name in self._values), None)

    def integer(self, *names: str) -> int | None:
        """The same as a whole number, `None` where there is none.

        Raises:
            InvalidRequestError: In JSON, it is no whole number.
        """
        text = self.text(*names)
        if text is None or (text == "" and not self._strict):
            return None
        number = _whole(text) if self._strict else _integer(text)
        if number is not None and -_LARGEST - 1 <= number <= _LARGEST:
            return number
        self._refuse(names[0], text, "a whole number")
        return None

    def flag(self, name: str, *, default: bool) -> bool:
        """The same as a truth value."""
        text = self.text(name)
        if text is None:
            return default
        if text.lower() not in ("true", "false"):
            self._refuse(name, text, "true or false")
        return text.lower() == "true"

    def _refuse(self, name: str, text: str, allowed: str) -> None:
        if self._strict:
            raise InvalidRequestError(f"Parameter {name}: {text[:_SHOWN]!r} is not allowed; allowed is {allowed}.")
        log.warning("a parameter has no effect, as with the original", parameter=name, value=text[:_SHOWN], allowed=allowed)


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """Query parameters in order; `;` separates them like `&`."""
    return parse_qsl(query_string.replace(b";", b"&").decode("latin-1"), keep_blank_values=True, max_num_fields=None)


def of_query(pairs: Sequence[tuple[str, str]]) -> Parameters:
    """The parameters of a query; of a repeated one the first counts."""
    return Parameters(dict(reversed(pairs)))


def of_json(body: bytes) -> Parameters:
    """The parameters of a JSON body.

    Raises:
        InvalidRequestError: It is no object of texts, numbers and truth values.
    """
    document = _document(body)
    if not isinstance(document, dict):
        raise InvalidRequestError("The body is not a JSON object of parameters.")
    values: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, (dict, list)):
            raise InvalidRequestError(f"Parameter {str(name)[:_SHOWN]}: it is an object or array; allowed are text and numbers.")
        if value is not None:
            values[str(name)] = _text(value)
    return Parameters(values, strict=True)


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _whole(text: str) -> int | None:
    """Gson takes `3.0` and `3e0` for whole numbers, too."""
    if not _NUMBER.fullmatch(text):
        return _integer(text)
    number = float(text)
    return int(number) if number.is_integer() else None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _document(body: bytes) -> Any:
    """JSON, or what Gson takes for it."""
    with contextlib.suppress(*NOT_JSON):
        return msgspec.json.decode(body)
    try:
        return read_lenient(body.decode())
    except ValueError as error:
        raise InvalidRequestError("The body is not a JSON object of parameters.") from error
