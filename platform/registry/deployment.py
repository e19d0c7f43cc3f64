"""A workflow version that runs: its plan, one pool of workers per model, and one for its functions."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping

import msgspec

from flowyard.platform.devices import parse_device
from flowyard.platform.held import Held
from flowyard.platform.registry.fusing import Fusing, fusion_of, may_be_fused
from flowyard.platform.registry.scaling import Scaling
from flowyard.platform.telemetry.measures import RequestMeasures
from flowyard.platform.workers.pool import ModelPool
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.platform.workers.room import check_room
from flowyard.platform.workers.watchers import Watchers
from flowyard.schemas.errors import FlowyardError, InvalidModelError, InvalidRequestError, InvalidWorkflowError, UserError
from flowyard.schemas.tensors import Signature
from flowyard.workflows.cache import make_caches
from flowyard.workflows.fusing import Fused, fuse, is_plain_call
from flowyard.workflows.plan import FROM_REQUEST, Plan, Step
from flowyard.workflows.signatures import check_signatures, signature_of

#: Key of the pool of a workflow's functions; no model can be called that.
FUNCTIONS = "functions/"


class Deployment:
    """Runs one version of a workflow. A single model is a workflow of one node.

    Attributes:
        name: Name of the endpoint.
        version: Its version, empty for none.
        identity: Name and version.
        plan: The compiled workflow.
        pools: By local model name; the functions' under `FUNCTIONS`.
        caches: Results that nodes keep, by step.
        fusing: Its fused nodes, if it has some.
        fuses_all: Whether these take the request's body, give the answer, and there is nothing else to do.
        streaming_step: Name of the node whose pieces, if its result comes in pieces, are the answer's; empty where there is none.
        single: The pool of the one model, where the whole plan is to call it with the request's body.
        stateful: The pools of models whose requests come in sequences.
        sequence_header: The header, in lower case, that names the sequence of a request; empty where requests come in none.
        takes_requests: Whether a node may want the request as a message, not only its body as a value.
        answers_whole: Whether its answers never come in pieces.
        requests: What has been asked of it over HTTP.
        held: Counts what its requests hold.
        start_s: Seconds that it took to start, 0 before.
        closing: Whether it finishes what it has and takes nothing new.
        on_closed: Called, in a thread, when all of its workers have ended.
    """

    def __init__(
        self,
        name: str,
        version: str,
        plan: Plan,
        specs: Mapping[str, PoolSpec],
        reserved_bytes: int = 0,
        watchers: Watchers | None = None,
        held: Held | None = None,
    ) -> None:
        self._reserved_bytes = reserved_bytes
        self.name = name
        self.version = version
        self.identity = (name, version)
        self.plan = plan
        fused = fuse(plan, [key for key, spec in specs.items() if may_be_fused(spec)])
        host = FUNCTIONS if fused is None else fused.host or FUNCTIONS
        if fused is not None:
            specs = {**specs, host: msgspec.structs.replace(specs[host], fusion=fusion_of(plan, fused, specs))}
        self.pools = {key: ModelPool(spec, version, watchers) for key, spec in specs.items()}
        self.fusing = None if fused is None else Fusing(plan, fused, self.pools[host], self.pools)
        self.fuses_all = fused is not None and _is_all(fused, plan)
        self.caches = make_caches(plan)
        self.streaming_step = plan.steps[plan.out].name if is_plain_call(plan.steps[plan.out]) else ""
        may_stream = self.streaming_step or (fused is not None and fused.steps[-1] == plan.out)
        self.answers_whole = not may_stream or _answers_whole(plan.steps[plan.out], specs)
        self.requests = RequestMeasures()
        self.held = held or Held(sys.maxsize)
        self.start_s = 0.0
        self.single = self.pools.get(plan.steps[0].callees[0].name) if is_single_call(plan) else None
        self.stateful = tuple([pool for pool in self.pools.values() if pool.spec.sequence_header])
        self.sequence_header = self.stateful[0].spec.sequence_header if self.stateful else ""
        self.takes_requests = bool(plan.references) or any(spec.handlers for spec in specs.values())
        self.closing = False
        self.on_closed: Callable[[], None] = _nothing
        self._runs = 0
        self._runs_over = asyncio.Event()

    def scale(self, scaling: Scaling) -> dict[str, dict[str, tuple[int, int]]]:
        """Changes the number of workers of every model; takes effect on its own.

        Args:
            scaling: What to change.

        Returns:
            Minimum and maximum by model and device, for the record.

        Raises:
            InvalidRequestError: The minimum would be over the maximum, or there is no such model.
            OutOfMemoryError: There is no memory for so many workers.
        """
        pools = {key: pool for key, pool in self.pools.items() if key != FUNCTIONS and scaling.model in (None, key)}
        if scaling.model is not None and not pools:
            known = ", ".join(sorted(self.numbers()))
            raise InvalidRequestError(f"Parameter model: there is no model {scaling.model} in {self.name}; it has {known}.")
        changes = [(pool, device, scaling.apply(pool, device)) for pool in pools.values() for device in scaling.on(pool)]
        check_room((pool.more_workers(low, device) for pool, device, (low, _) in changes), self._reserved_bytes)
        for pool, device, (low, high) in changes:
            pool.scale(low, high, device)
        return self.numbers()

    def numbers(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Minimum and maximum of workers by model and device."""
        pools = {key: pool for key, pool in self.pools.items() if key != FUNCTIONS}
        return {key: {str(group.device): (group.min, group.max) for group in pool.groups} for key, pool in pools.items()}

    def restore(self, workers: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
        """Sets the numbers of workers that an earlier life of the server was told, before `start`."""
        for key, by_device in workers.items():
            for device, (low, high) in by_device.items():
                if key in self.pools:
                    self.pools[key].scale(low, high, parse_device(device))

    async def settled(self) -> None:
        """Waits until every model has the workers it should have at least.

        Raises:
            NotReadyError: They cannot be started.
        """
        await asyncio.gather(*(pool.settled() for pool in self.pools.values()))

    async def start(self) -> None:
        """Starts all pools at the same time and waits for them.

        Raises:
            FlowyardError: One of them cannot start, with the model's name, or does not fit the one that feeds it; none is left
                running.
        """
        began = time.monotonic()
        groups = [(pool, group) for pool in self.pools.values() for group in pool.groups]
        check_room((pool.more_workers(group.min, group.device) for pool, group in groups), self._reserved_bytes)
        starts = [asyncio.ensure_future(self._start(key, pool)) for key, pool in self.pools.items()]
        try:
            await asyncio.gather(*starts)
            self._check_signatures()
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.close(0)
            raise
        self.start_s = time.monotonic() - began

    @property
    def signature(self) -> Signature:
        """What the whole workflow takes and gives, as far as its models say it."""
        return signature_of(self.plan, self._known_signatures())

    def _known_signatures(self) -> dict[str, Signature]:
        return {key: pool.signature for key, pool in self.pools.items() if pool.signature is not None}

    def _check_signatures(self) -> None:
        """Holds what the models turned out to take and give against the edges between them."""
        problems = check_signatures(self.plan, self._known_signatures())
        if problems:
            raise InvalidWorkflowError(problems)

    async def _start(self, key: str, pool: ModelPool) -> None:
        try:
            await pool.start()
        except FlowyardError as error:
            error.starting = started = self._label(key), self.version
            if key == self.name or not isinstance(error, UserError):
                raise
            what = "functions" if key == FUNCTIONS else f'model "{key}"'
            named = InvalidModelError(f"{what}: {error}")
            named.starting = started
            raise named from error

    def _label(self, key: str) -> str:
        """What a model of a workflow is called outside of it, as TorchServe has it."""
        is_model = key == self.name and self.plan.spelling != "torchserve"
        return self.name if is_model or key == FUNCTIONS else f"{self.name}__{key}"

    def keeps(self, sequence: str) -> bool:
        """Whether one of its models keeps the state of a sequence, or lost it a short time ago."""
        return any(pool.keeps(sequence) for pool in self.stateful)

    def run_began(self) -> None:
        """A run of several calls began: until it is over, `close` leaves the workers of its later calls alone."""
        self._runs += 1

    def run_ended(self) -> None:
        """A run is over."""
        self._runs -= 1
        if not self._runs:
            self._runs_over.set()

    async def quiet(self) -> None:
        """Waits until all that was asked of it is answered."""
        while self._runs:
            self._runs_over.clear()
            await self._runs_over.wait()
        await asyncio.gather(*(pool.quiet() for pool in self.pools.values()))

    async def close(self, drain_s: float) -> None:
        """Finishes what was accepted, for `drain_s` seconds at most, and ends all workers."""
        self.closing = True
        until = time.monotonic() + drain_s
        while self._runs and time.monotonic() < until:
            self._runs_over.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._runs_over.wait(), until - time.monotonic())
        left_s = max(0.0, until - time.monotonic())
        await asyncio.gather(*(pool.close(left_s) for pool in self.pools.values()))
        await asyncio.to_thread(self.on_closed)


def _nothing() -> None:
    """Nothing is left to be done."""


def _answers_whole(step: Step, specs: Mapping[str, PoolSpec]) -> bool:
    """Whether a node's result never comes in pieces: that of a model of tensors, or of a function of our own."""
    callee = step.callees[0] if step.callees else None
    if callee is None or callee.kind == "builtin":
        return callee is not None
    return callee.kind == "model" and callee.name in specs and specs[callee.name].answers_whole


def _is_all(fused: Fused, plan: Plan) -> bool:
    """Whether a run has nothing to do but the one call of its fused nodes."""
    return fused.operands == ((FROM_REQUEST, 0, None),) and tuple(fused.steps[place] for place in fused.given) == (plan.out,)


def is_single_call(plan: Plan) -> bool:
    """Whether all that a plan does is to call one model, once, with the request's body."""
    (step, *others) = plan.steps
    if others or not is_plain_call(step) or plan.pass_errors:
        return False
    return step.callees[0].kind == "model" and step.args == ((FROM_REQUEST, 0, None),)


#: Finds what answers, by name and version, for a request with these headers.
Lookup = Callable[[str, str | None, Mapping[str, str]], Deployment]


def registered_pool(lookup: Lookup, reference: str, headers: Mapping[str, str]) -> ModelPool:
    """The pool of a model that is registered on the server.

    Args:
        lookup: Finds what is registered.
        reference: `name[:version]`.
        headers: Of the request that it is for, names in lower case.

    Raises:
        FlowyardError: It is not registered or not ready.
        InvalidModelError: The name is a workflow of several models.
    """
    name, _, version = reference.partition(":")
    deployment = lookup(name, version or None, headers)
    pool = deployment.pools.get(name)
    if pool is None:
        raise InvalidModelError(f'"{reference}" is a workflow, not a model; call it as {{workflow: {reference}}}')
    return pool
