"""Where the ranks of a worker find each other, and the environment that tells them (as `torchrun` and `mpirun` do).

`torch.distributed` wants an address that all ranks know before one of them listens there. A port that is looked up, closed and
opened again by somebody else may be taken in between. Here the first rank keeps it: it listens on loopback before the others
are started, and serves torch's key-value store there, as the agent of `torchrun` does.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flowyard.schemas.ranks import Ranks

LOOPBACK = "127.0.0.1"
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
#: Libraries that ranks talk to each other with listen on no other interface than this one, unless the operator says so.
_INTERFACES = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"), "lo")
#: How long the first rank waits for an answer of its own store.
_STORE_TIMEOUT = timedelta(seconds=60)

#: What a process has taken lives as long as it does.
_kept: list[Any] = []


class Rendezvous:
    """A port of this process.

    Attributes:
        port: Its number.
        has_store: Whether torch's store is to be there.
    """

    def __init__(self) -> None:
        """Takes a free port.

        Raises:
            OSError: There is none.
        """
        self.has_store = importlib.util.find_spec("torch") is not None
        self._socket = socket.socket()
        # Without torch nobody listens here: a rank that wants to may do so then, and nobody else gets the port meanwhile.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        if self.has_store:
            self._socket.listen(socket.SOMAXCONN)
        _kept.append(self._socket)

    def serve(self) -> None:
        """Begins to serve the store, if there is to be one.

        Raises:
            ImportError: This torch knows nothing of `torch.distributed`.
        """
        if not self.has_store:
            return
        from torch.distributed import TCPStore  # noqa: PLC0415

        _kept.append(
            TCPStore(
                LOOPBACK,
                self.port,
                is_master=True,
                timeout=_STORE_TIMEOUT,
                wait_for_workers=False,
                master_listen_fd=self._socket.detach(),
            )
        )


def environment(ranks: Ranks, number: int, rendezvous: Rendezvous | None, environ: Mapping[str, str]) -> dict[str, str]:
    """What a rank finds in its environment beyond what its worker gets.

    Args:
        ranks: How the worker is made.
        number: Which rank it is.
        rendezvous: Where the ranks meet; `None` where they do not.
        environ: The worker's environment.
    """
    found = _visible(ranks.gpus, environ)
    if rendezvous is None:
        return found
    own, of = str(number), str(ranks.count)
    found |= {name: interface for name, interface in _INTERFACES.items() if name not in environ}
    found |= {
        "RANK": own,
        "LOCAL_RANK": own,
        "WORLD_SIZE": of,
        "LOCAL_WORLD_SIZE": of,
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
    }
    found |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(rendezvous.port)}
    found |= {"TORCHELASTIC_USE_AGENT_STORE": str(rendezvous.has_store), "TORCHELASTIC_RESTART_COUNT": "0"}
    if ranks.launcher == "mpi":
        # DJL's worker reads the first three, and starts ranks with the last one (its `python_sync_engine`, `Connection`).
        numbers = {"OMPI_COMM_WORLD_RANK": own, "OMPI_COMM_WORLD_LOCAL_RANK": own, "OMPI_COMM_WORLD_SIZE": of}
        return found | numbers | {"OMPI_COMM_WORLD_LOCAL_SIZE": of, "MKL_DYNAMIC": "FALSE"}
    found |= {"ROLE_RANK": own, "ROLE_WORLD_SIZE": of, "ROLE_NAME": "default"}
    return found | {"TORCHELASTIC_MAX_RESTARTS": "0", "TORCHELASTIC_RUN_ID": f"{ranks.name}_{os.getpid()}"}


def _visible(gpus: tuple[int, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """The GPUs that a worker sees, of those that the server does."""
    if not gpus:
        return {}
    seen = environ.get(VISIBLE_GPUS)
    names = seen.split(",") if seen is not None else None
    return {VISIBLE_GPUS: ",".join(str(gpu) if names is None else names[gpu].strip() for gpu in gpus)}
