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


class AdapterSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An adapter as it is wanted: in the files of `flowyard apply`, and where the adapters of a version are set.

    Attributes:
        name: What requests call it.
        src: Where it is: a path that its handler knows, or one in the model's archive.
        options: What its handler is told besides; `preload` and `pin`, too.
        alias: What messages call it, its name when empty.
    """

    name: str
    src: str
    options: dict[str, str | int | float | bool] = {}
    alias: str = ""

    @classmethod
    def of(cls, adapter: Adapter) -> AdapterSpec:
        """What was said to have this adapter."""
        options = {key: value for key, value in adapter.options.items() if key not in ("name", "src")}
        return cls(name=adapter.name, src=adapter.src, options=dict(options), alias=_unless(adapter.alias, adapter.name))

    def adapter(self) -> Adapter:
        """The adapter as its registration makes it: its handler is told everything as text."""
        options = {key: _text(value) for key, value in self.options.items()} | {"name": self.name, "src": self.src}
        return Adapter(name=self.name, src=self.src, options=options, alias=_unless(self.alias, self.name))

    def says(self, adapter: Adapter) -> bool:
        """Whether it is this adapter already."""
        return AdapterSpec.of(self.adapter()) == AdapterSpec.of(adapter)


def _unless(alias: str, name: str) -> str:
    return "" if alias == name else alias


def _text(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"
