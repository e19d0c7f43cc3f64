"""Models that one process cannot serve: the ranks of a worker, each a process with a part of the model."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

#: Whose environment the ranks find; empty for one process that deals with its devices itself.
Launcher: TypeAlias = Literal["", "torchrun", "mpi"]
#: Most ranks of a worker.
MOST_RANKS = 64


class Ranks(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How a worker is made of processes, as each of them is told.

    Attributes:
        launcher: Whose environment they find.
        count: How many there are; 0 for as many as there are GPUs to load the model on, or one where there is none.
        devices: GPUs that a worker takes where there are any; 0 for all of them.
        leads: Whether only the first one gets batches, and sees to it that the others compute.
        threads: Intra-op threads of each, `None` where nobody says.
        name: What the model is called.
        silent_limit_s: The worker ends when one of them, once loaded, gives no sign of life for so long.
        gpus: The GPUs that they see, as the server numbers them; empty where they compute on the CPU.
        number: Which one this is.
    """

    launcher: Launcher = ""
    count: int = 1
    devices: int = 1
    leads: bool = False
    threads: int | None = None
    name: str = ""
    silent_limit_s: float = 10.0
    gpus: tuple[int, ...] = ()
    number: int = 0
