"""What a pool serves."""

from __future__ import annotations

import msgspec

from flowyard.platform.workers.confinement import Confinement
from flowyard.platform.workers.memory import ARENA_BYTES
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.process import SILENT_LIMIT_S
from flowyard.schemas.devices import Device
from flowyard.schemas.fusion import Fusion
from flowyard.schemas.messages import Handlers
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.ranks import Ranks

#: Models of these engines are tensors in, tensors out: nothing of the request is sent to them.
CONTEXT_FREE_ENGINES = frozenset({"OnnxRuntime", "PyTorch"})


class PoolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool serves, with every default filled in.

    Attributes:
        name: Name of the model, or `NAME functions`.
        engine: Name of the engine adapter.
        root: Folder of the unpacked archive.
        path: The model, or empty for functions.
        functions: Functions of the workflow by name.
        devices: One worker group each.
        threads: Intra-op threads per worker.
        own_workers: Least and most workers per device that the model's own file, or what gives way to it, asks for.
        startup_timeout_s: A worker that is not ready by then is killed.
        arena_bytes: Virtual size of the memory shared with each worker, in each direction.
        silent_limit_s: A ready worker that gives no sign of life for so long is killed.
        handlers: Whose handlers the model's, or the functions, are; these take and give messages. `properties` are what its own
            files say.
        confinement: What the workers get and may.
        packages: Folder of packages that were installed for the archive, empty for none.
        fusion: Nodes of the workflow that a worker may be asked to compute in one call.
        ranks: How workers are made of processes; `None` where each is one.
        gpus: Where they are made of several, or take several GPUs: the GPUs of a worker by its device.
    """

    name: str
    engine: str
    root: str
    path: str
    spec: ModelSpec
    policy: Policy
    devices: tuple[Device, ...]
    min_workers: int
    max_workers: int
    functions: dict[str, str] = {}
    threads: int = 1
    own_workers: tuple[int, int] = (1, 1)
    startup_timeout_s: float = 240.0
    arena_bytes: int = ARENA_BYTES
    silent_limit_s: float = SILENT_LIMIT_S
    handlers: Handlers = ""
    properties: dict[str, str] = {}
    confinement: Confinement = Confinement()
    packages: str = ""
    fusion: Fusion | None = None
    ranks: Ranks | None = None
    gpus: dict[Device, tuple[int, ...]] = {}

    @property
    def processes(self) -> int:
        """How many processes a worker is."""
        return 1 if self.ranks is None else self.ranks.count

    def ranks_on(self, device: Device) -> Ranks | None:
        """How a worker on a device is made of processes."""
        if self.ranks is None:
            return None
        return msgspec.structs.replace(self.ranks, gpus=self.gpus.get(device, (device.id,) if device.type == "gpu" else ()))

    def may_run_on(self, device: Device) -> bool:
        """Whether a worker may be started on a device: those that take several GPUs have theirs by the first one."""
        return self.ranks is None or self.ranks.devices == 1 or device.type != "gpu" or device in self.gpus

    @property
    def batch_size(self) -> int:
        """What it is registered with; requests that are computed side by side share no batch of the scheduler's."""
        return self.policy.batch_size if self.policy.concurrency == 1 else self.spec.batch_size or 1

    @property
    def sequence_header(self) -> str:
        """The header, in lower case, that names the sequence of a request; empty where requests come in none."""
        return self.policy.sequences.headers.id.lower() if self.policy.sequences is not None else ""

    @property
    def tells_context(self) -> bool:
        """Whether workers are told of the request; a message says itself what there is to know."""
        return self.engine not in CONTEXT_FREE_ENGINES and not self.handlers

    @property
    def answers_whole(self) -> bool:
        """Whether results never come in pieces: user code may yield them, models of tensors do not."""
        return self.engine in CONTEXT_FREE_ENGINES and not self.handlers
