"""An ordered list of keys and values, in which a key may come more than once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class PairList:
    """Keys and values side by side."""

    def __init__(
        self,
        keys: list[Any] | None = None,
        values: list[Any] | None = None,
        pair_list: Iterable[tuple[Any, Any]] | None = None,
        pair_map: Mapping[Any, Any] | None = None,
    ) -> None:
        """Takes keys and values of equal length, or pairs, or a mapping.

        Raises:
            ValueError: Keys and values are not equally many.
        """
        if len(keys or ()) != len(values or ()):
            raise ValueError("as many keys as values are needed")
        self.keys: list[Any] = list(keys or ())
        self.values: list[Any] = list(values or ())
        for key, value in [*(pair_list or ()), *(pair_map or {}).items()]:
            self.add(key, value)

    def add(self, key: Any = None, value: Any = None, index: int | None = None, pair: tuple[Any, Any] | None = None) -> None:
        """Adds a pair at the end, or at `index`; a value of `None` is ignored."""
        if pair is not None:
            key, value = pair[0], pair[1]
        if value is None:
            return
        at = len(self.keys) if index is None else index
        self.keys.insert(at, key)
        self.values.insert(at, value)

    def add_all(self, other: PairList | None) -> None:
        """Adds the pairs of another list."""
        if other is not None:
            self.keys.extend(other.keys)
            self.values.extend(other.values)

    def size(self) -> int:
        """The number of pairs."""
        return len(self.keys)

    def is_empty(self) -> bool:
        """Whether there are none."""
        return not self.keys

    def get(self, key: Any) -> Any:
        """The first value of a key, `None` where there is none."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index: int) -> Any:
        """The key at a position."""
        return self.keys[index]

    def value_at(self, index: int) -> Any:
        """The value at a position."""
        return self.values[index]

    def get_keys(self) -> list[Any]:
        """All keys."""
        return self.keys

    def get_values(self) -> list[Any]:
        """All values."""
        return self.values
