"""Shadow traffic: copies of requests for versions whose answers nobody sees.

A copy is sent after its request, at the lowest priority, and only to a version that has little to do. What becomes of it is
counted and never reaches the one who asked. Models whose requests come in sequences get no copies: some would be missing, and the
state that they would be answered from is that of the sequences which clients have begun.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

import msgspec

from flowyard.platform.calls import Asked
from flowyard.platform.execution import execute
from flowyard.platform.held import Held
from flowyard.platform.registry.deployment import Deployment, Lookup
from flowyard.platform.registry.entries import Entry, ShadowCounts
from flowyard.platform.workers.jobs import MAX_PRIORITY
from flowyard.platform.workers.process import Outcome
from flowyard.schemas.errors import FlowyardError
from flowyard.schemas.payload import Payload

#: Most copies that a shadow version has at a time; they hold their bodies in memory.
MAX_RUNNING = 16


def mirror(asked: Asked, shadows: Sequence[Entry], lookup: Lookup, body_bytes: int) -> None:
    """Sends copies of a request that has been started to shadow versions, when the loop has nothing more urgent to do.

    Args:
        asked: The request.
        shadows: The versions.
        lookup: Finds registered models, for nodes that call one.
        body_bytes: What a copy takes once the request itself is over.
    """
    copy = msgspec.structs.replace(asked, priority=MAX_PRIORITY, is_copy=True)
    loop = asyncio.get_running_loop()
    for entry in shadows:
        loop.call_soon(_send, copy, entry, lookup, body_bytes)


def _send(asked: Asked, entry: Entry, lookup: Lookup, body_bytes: int) -> None:
    counts = entry.shadowed
    deployment = entry.deployment
    if deployment is None or deployment.stateful or counts.running >= MAX_RUNNING or _is_busy(deployment):
        counts.skipped += 1
        return
    counts.sent += 1
    deployment.held.keep(body_bytes)
    over = functools.partial(_over, counts, deployment.held, body_bytes)
    try:
        execute(deployment, asked, lookup, over, _drop).start()
    except FlowyardError as error:
        over(error)


def _is_busy(deployment: Deployment) -> bool:
    """Whether one of its models has a queue that is half full, or it is going away."""
    return deployment.closing or any(pool.queue_length * 2 >= pool.spec.policy.queue_size for pool in deployment.pools.values())


def _over(counts: ShadowCounts, held: Held, body_bytes: int, outcome: Outcome) -> None:
    held.give_back(body_bytes)
    if _has_failed(outcome):
        counts.failed += 1
    else:
        counts.answered += 1


def _has_failed(outcome: Outcome) -> bool:
    if isinstance(outcome, FlowyardError):
        return True
    message = outcome.message()
    return message is not None and message.is_failure


def _drop(piece: Payload, grant: Callable[[], None]) -> None:
    """Lets a stream go on and forgets its piece."""
    grant()
