"""Results of nodes, kept by the content of their arguments. There is no clock here: the time is passed in."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from math import inf

import msgspec

from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Encoded
from flowyard.workflows.plan import CachePolicy, Plan

#: Most bytes that the results kept for one plan take.
LIMIT_BYTES = 64 << 20
#: What an entry takes besides its content.
ENTRY_BYTES = 512


class _Entry(msgspec.Struct, frozen=True, gc=False):
    result: Encoded
    size_bytes: int
    expires_at: float


class NodeCache:
    """The results of one node of one version of a workflow, within bounds of number, bytes and time."""

    def __init__(self, policy: CachePolicy, limit_bytes: int = LIMIT_BYTES) -> None:
        """Begins empty.

        Args:
            policy: How long and how many results are kept.
            limit_bytes: Most bytes that they take; a result that alone takes more is not kept.
        """
        self._ttl_s = inf if policy.ttl_s is None else policy.ttl_s
        self._max_entries = policy.max_entries
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes that the results take."""
        return self._size_bytes

    def get(self, key: bytes, now: float) -> Payload | None:
        """Finds a result and counts it as used.

        Args:
            key: From `key_of`.
            now: The time.

        Returns:
            The result, `None` when it is not there or too old.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires_at:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return Payload.from_encoded(entry.result)

    def put(self, key: bytes, result: Payload, now: float) -> None:
        """Keeps a result; those not used for the longest time make room for it.

        Args:
            key: From `key_of`.
            result: The result. Its content is copied: a part of a frame would keep the whole frame in memory.
            now: The time.
        """
        try:
            encoded = result.encoded()
        except InvalidInputError:
            return
        size_bytes = ENTRY_BYTES + len(encoded.tree) + sum(len(buffer) for buffer in encoded.buffers)
        self._drop(key)
        if size_bytes > self._limit_bytes:
            return
        while len(self._entries) >= self._max_entries or self._size_bytes + size_bytes > self._limit_bytes:
            self._drop(next(iter(self._entries)))
        kept = Encoded(bytes(encoded.tree), tuple(bytes(buffer) for buffer in encoded.buffers))
        self._entries[key] = _Entry(kept, size_bytes, now + self._ttl_s)
        self._size_bytes += size_bytes

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size_bytes -= entry.size_bytes


def key_of(args: tuple[Payload, ...]) -> bytes:
    """The key of a call: a digest of what its arguments hold. JSON text that nobody has read counts as it is written.

    Args:
        args: The arguments.

    Returns:
        32 bytes.

    Raises:
        InvalidInputError: An argument holds something that is no value.
    """
    digest = hashlib.blake2b(digest_size=32)
    for arg in args:
        encoded = arg.encoded()
        sizes = (len(encoded.tree), *(len(buffer) for buffer in encoded.buffers))
        # The sizes come first, or parts of one argument could pass for parts of the next.
        digest.update(repr(sizes).encode())
        digest.update(encoded.tree)
        for buffer in encoded.buffers:
            digest.update(buffer)
    return digest.digest()


def make_caches(plan: Plan, limit_bytes: int = LIMIT_BYTES) -> dict[int, NodeCache]:
    """Makes the caches of a plan, to be kept as long as the plan serves and handed to each of its runs.

    Whoever owns the plan calls this once and passes the result to every `Run(..., caches=caches)`. Hits are taken inside the
    run: they give no `StartCall`. All of it belongs to one thread. A new version of a workflow has a plan, and so caches, of
    its own.

    Args:
        plan: The plan.
        limit_bytes: Most bytes for all of its results together; each node with a `cache` gets an equal share.

    Returns:
        Caches by index of the step; empty when no node has one.
    """
    steps = {at: step.cache for at, step in enumerate(plan.steps) if step.cache is not None}
    return {at: NodeCache(policy, limit_bytes // len(steps)) for at, policy in steps.items()}


class RunCache:
    """What one run knows of the caches of its plan: which calls are to be kept, and under which key."""

    __slots__ = ("_caches", "_keys")

    def __init__(self, caches: Mapping[int, NodeCache]) -> None:
        self._caches = caches
        self._keys: dict[int, bytes] = {}

    def find(self, step: int, args: tuple[Payload, ...], now: float) -> Payload | None:
        """The kept result of a step that is about to call; without one, the result of the call is to be kept.

        Args:
            step: Index of the step.
            args: What it is to be called with.
            now: The time.

        Returns:
            The result, if there is one.

        Raises:
            InvalidInputError: An argument holds something that is no value.
        """
        cache = self._caches.get(step)
        if cache is None:
            return None
        key = self._keys[step] = key_of(args)
        return cache.get(key, now)

    def keep(self, step: int, result: Payload, now: float) -> None:
        """Keeps the result of a call that has succeeded; arguments as for `find`."""
        key = self._keys.pop(step, None)
        if key is not None:
            self._caches[step].put(key, result, now)
