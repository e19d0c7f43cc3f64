"""Devices by name, as DJL Serving writes them (DJL §1.9)."""

from __future__ import annotations

import msgspec


class Device(msgspec.Struct, frozen=True, order=True):
    """One place a model can run.

    Attributes:
        type: `cpu` or `gpu`.
        id: Index of the GPU; -1 for the CPU.
    """

    type: str
    id: int = -1

    def __str__(self) -> str:
        """The name a user writes: `cpu`, `gpu0`."""
        return self.type if self.id < 0 else f"{self.type}{self.id}"


CPU = Device("cpu")
