"""Workers of several processes, as `model-config.yaml` asks for them: `parallelType`, `parallelLevel` and `torchrun`.

TorchServe starts `torchrun` for the types `pp`, `tp` and `pptp`, and one process that sees several GPUs for `custom`; without a
type the level counts for nothing (TorchServe reference §3.3, §7.14).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.ranks import MOST_RANKS, Ranks

TYPE, LEVEL, TORCHRUN = "parallelType", "parallelLevel", "torchrun"
KEYS = frozenset({TYPE, LEVEL, TORCHRUN})
CUSTOM, PIPELINE = "custom", "pp"
_OF_TORCHRUN = (PIPELINE, "tp", "pptp")
_NONE = ("", "none")
_PROCESSES, _NODES, _NODE, _THREADS = "nproc-per-node", "nnodes", "node-rank", "OMP_NUMBER_THREADS"
#: Options of `torchrun` that say where its processes meet, what becomes of their output and how often they are tried again.
WITHOUT_EFFECT = frozenset(
    {
        "rdzv-backend",
        "rdzv-id",
        "rdzv-endpoint",
        "rdzv-conf",
        "master-addr",
        "master-port",
        "standalone",
        "max-restarts",
        "monitor-interval",
        "log-dir",
        "redirects",
        "tee",
    }
)

logger = logging.getLogger(__name__)


class Parallel(msgspec.Struct, frozen=True):
    """What a model asks for.

    Attributes:
        kind: Its `parallelType`, empty where one process does.
        level: Its processes, or for `custom` the GPUs of its one process; 0 where nothing says.
        threads: Intra-op threads of each process, `None` where nothing says.
    """

    kind: str = ""
    level: int = 0
    threads: int | None = None

    @property
    def processes(self) -> int:
        """How many processes a worker has."""
        return self.level if self.kind in _OF_TORCHRUN else 1

    @property
    def ranks(self) -> Ranks | None:
        """How a worker is made; `None` where it is one process like any other."""
        if self.kind in _OF_TORCHRUN:
            leads = self.kind == PIPELINE
            return Ranks(launcher="torchrun", count=self.level, devices=self.level, leads=leads, threads=self.threads)
        return Ranks(devices=self.level, threads=self.threads) if self.level > 1 else None


def parallel_of(given: Mapping[str, Any]) -> Parallel:
    """Reads the keys.

    Args:
        given: A `model-config.yaml`, or these keys of it.

    Returns:
        What they ask for.

    Raises:
        InvalidModelError: A value that is not allowed, or two that do not fit; the message begins with the key.
    """
    kind = _kind(given.get(TYPE))
    torchrun = given.get(TORCHRUN)
    options = _options(torchrun) if isinstance(torchrun, dict) else {}
    level = _level(given, options, least=1 if kind else 0)
    if not kind:
        if level > 1:
            logger.warning("%s or %s without %s: one process serves the model, as in TorchServe", LEVEL, TORCHRUN, TYPE)
        return Parallel()
    if kind in _OF_TORCHRUN and not level:
        raise InvalidModelError(
            f"{TYPE}: {kind!r} needs {LEVEL}, or {_PROCESSES} under {TORCHRUN}: how many processes a worker has"
        )
    return Parallel(kind, level, options.get(_THREADS))


def _kind(value: object) -> str:
    kind = "" if value is None else value.lower() if isinstance(value, str) else None
    if kind in _NONE:
        return ""
    if kind is None or kind not in (*_OF_TORCHRUN, CUSTOM):
        raise InvalidModelError(f"{TYPE}: {_shown(value)} is not known; expected pp, tp, pptp, custom, or none")
    return kind


def _level(given: Mapping[str, Any], options: Mapping[str, int], *, least: int) -> int:
    """How many processes, or GPUs, are asked for. 0 is what TorchServe shows of a model that asks for nothing."""
    said = options.get(_PROCESSES)
    if given.get(LEVEL) is None:
        # One is what TorchServe takes `torchrun` for that says nothing.
        return said or int(isinstance(given.get(TORCHRUN), dict))
    level = _number(LEVEL, given[LEVEL], least, MOST_RANKS)
    if said is not None and said != level:
        raise InvalidModelError(
            f"{LEVEL}: {level} is not {said}, which {_PROCESSES} under {TORCHRUN} says; leave one of them out"
        )
    return level


def _options(given: Mapping[Any, Any]) -> dict[str, int]:
    """The options that count, and whether the others are such as may be passed over."""
    found = {}
    for key, value in given.items():
        name = f"{TORCHRUN}: {key}"
        if key in (_NODES, _NODE):
            wanted = 1 if key == _NODES else 0
            if _number(name, value, 0, None) != wanted:
                raise InvalidModelError(f"{name}: {value} is not possible: all ranks of a worker are on this machine ({wanted})")
        elif key in (_PROCESSES, _THREADS):
            found[str(key)] = _number(name, value, 1, MOST_RANKS if key == _PROCESSES else None)
        elif key in WITHOUT_EFFECT:
            logger.info("%s has no effect: the server starts the ranks of a worker itself", name)
        else:
            logger.warning("%s: unsupported parameter", TORCHRUN + f".{key!s:.50}")
    return found


def _number(key: str, value: object, least: int, most: int | None) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most):
        return value
    expected = f"a number from {least} to {most}" if most is not None else f"a number from {least} on"
    raise InvalidModelError(f"{key}: {_shown(value)} is not allowed; expected {expected}")


def _shown(value: object) -> str:
    return f"{value!r:.60}"
