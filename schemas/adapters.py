"""Adapters: variants of a model that its handler can switch between (DJL §1.11)."""

from __future__ import annotations

import msgspec


class Adapter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One adapter of a model.

    Attributes:
        name: What requests call it.
        src: Where it is: as whoever registered it said, or a folder of the model's own.
        options: What else is said about it, `preload` and `pin` included.
        alias: What the one who registered it calls it, empty for its name.
        within: Where in the model's archive it is, when it came with the model.
    """

    name: str
    src: str
    options: dict[str, str] = {}
    alias: str = ""
    within: str = ""

    @property
    def preload(self) -> bool:
        """Whether it is to be in memory before the first request."""
        return _is_true(self.options.get("preload", "true"))

    @property
    def pin(self) -> bool:
        """Whether it is to stay in memory."""
        return _is_true(self.options.get("pin", "false"))

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.alias or self.name


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"
