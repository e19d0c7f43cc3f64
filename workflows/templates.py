"""Workflow files with parameters, as DJL Serving has them (DJL §3.3): `{name}` in the text stands for a parameter's value."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flowyard.schemas.errors import InvalidRequestError

_PARAMETER = re.compile(r"\{([A-Za-z_]\w*)\}")
_UNSAFE = re.compile(r"[\"'\\{}\x00-\x1f\x7f]")
#: Stands for the folder of the workflow file, in every file.
MODEL_DIR = "model_dir"
#: The template that DJL Serving brings along: one model with one adapter.
ADAPTER = b"""{
  "name": "{adapter}",
  "version": "1.0",
  "models": {"adapted": "{model}"},
  "configs": {"adapters": {"{adapter}": {"model": "adapted", "src": "{url}"}}},
  "workflow": {"out": ["adapter", "{adapter}", "in"]}
}
"""
TEMPLATES: dict[str, bytes] = {"adapter": ADAPTER}


def places(text: bytes) -> frozenset[str]:
    """The parameters that a template takes."""
    return frozenset(_PARAMETER.findall(text.decode("utf-8", "surrogateescape"))) - {MODEL_DIR}


def fill(text: bytes, parameters: Mapping[str, str]) -> bytes:
    """Puts values in the place of `{name}`, in one pass: a value is not looked at again.

    Args:
        text: The template, UTF-8; its places stand in quotes.
        parameters: Values by name.

    Returns:
        The workflow file. What is in braces and no parameter stays as it is.

    Raises:
        InvalidRequestError: The template has no place for a parameter, or a value has characters that lead out of quotes or
            into another place: quotes, backslashes, braces, line breaks.
    """
    decoded = text.decode("utf-8", "surrogateescape")
    known = places(text)
    for name, value in parameters.items():
        if name not in known:
            listed = ", ".join(sorted(known)) or "no parameters"
            raise InvalidRequestError(f"Parameter {name}: the template has no {{{name}}}; it has {listed}")
        if _UNSAFE.search(value):
            raise InvalidRequestError(f"Parameter {name}: a value may not have quotes, backslashes, braces or line breaks")
    filled = _PARAMETER.sub(lambda match: parameters.get(match[1], match[0]), decoded)
    return filled.encode("utf-8", "surrogateescape")
