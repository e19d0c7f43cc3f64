"""Decides when the fused nodes of a workflow are computed in one call, and has workers ready for that.

Nodes are fused while that costs nobody anything: their calls take so little time that one worker computes them sooner than the
server hands them round, and the models' workers are as the file asks for, one each. Otherwise every node is called by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from flowyard.platform.devices import cpu_count
from flowyard.platform.workers.pool import ModelPool
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.platform.workers.process import REFUSED, Outcome
from flowyard.platform.workers.tasks import Task
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import FlowyardError
from flowyard.schemas.frames import Results
from flowyard.schemas.fusion import LOAD_FUSED, FusedModel, FusedNode, Fusion
from flowyard.workflows.fusing import Fused, ensemble_of
from flowyard.workflows.plan import Plan, Step

#: Nodes are fused once a call of each costs the processor less than this together, about what it costs to pass on their values;
QUICK_CPU_S = 100e-6
#: or less than this where the workers of the nodes could hardly compute at the same time, for want of processors;
QUICK_CPU_ALONE_S = 250e-6
FEW_PROCESSORS = 2
#: and once it takes less than this: functions that wait for something else are better called at the same time.
QUICK_S = 2e-3
#: They stay fused until it is so many times as much.
SLACK = 2
#: Larger models are loaded only once.
LIMIT_BYTES = 4 << 20
#: An ONNX file that mentions this may keep its weights in other files; their size is not known here.
_EXTERNAL = b"location"


def may_be_fused(spec: PoolSpec) -> bool:
    """Whether a model may be loaded a second time, in a worker of the functions or of another model, and be computed there.

    It is small, runs on the CPU by ONNX Runtime, which executes no code of the user's, and is served as any model is about which
    nothing is said but the size of its batches.
    """
    said = spec.spec
    usual = said.timeout is None and said.job_queue_size is None and not spec.policy.fill
    if not usual or spec.engine != "OnnxRuntime" or spec.handlers or spec.devices != (CPU,):
        return False
    if (spec.min_workers, spec.max_workers) != (1, 1):
        return False
    try:
        file = Path(spec.root, spec.path)
        return file.stat().st_size <= LIMIT_BYTES and _EXTERNAL not in file.read_bytes()
    except OSError:
        # Its own worker says what is wrong with it.
        return False


def fusion_of(plan: Plan, fused: Fused, specs: Mapping[str, PoolSpec]) -> Fusion:
    """What the worker is told that computes the fused nodes.

    Args:
        plan: The workflow.
        fused: Its fused steps.
        specs: How its models are loaded, by local name.
    """
    wired = zip(fused.steps, fused.args, strict=True)
    nodes = tuple(_node(plan.steps[step], args, place in fused.given) for place, (step, args) in enumerate(wired))
    callees = [plan.steps[step].callees[0] for step in fused.steps]
    others = {callee.name for callee in callees if callee.kind == "model" and callee.name != fused.host}
    return Fusion(nodes, {name: _model(specs[name]) for name in sorted(others)})


def _node(step: Step, args: tuple[int, ...], given: bool) -> FusedNode:
    callee = step.callees[0]
    ensemble = ensemble_of(step)
    if ensemble is not None:
        method, weights = ensemble
        return FusedNode(method, "ensemble", args, given, weights)
    return FusedNode(callee.name, "model" if callee.kind == "model" else "function", args, given)


def _model(spec: PoolSpec) -> FusedModel:
    return FusedModel(spec.engine, spec.root, spec.path, spec.spec, spec.threads)


class Fusing:
    """The fused nodes of one deployment, alive.

    Args:
        plan: The workflow.
        fused: Its fused steps.
        host: The workers that compute them.
        models: The workers of its models, by local name.

    Attributes:
        host: The workers that compute them.
    """

    def __init__(self, plan: Plan, fused: Fused, host: ModelPool, models: Mapping[str, ModelPool]) -> None:
        self._fused = fused
        self.host = host
        self._state: Literal["apart", "loading", "loaded", "refused"] = "apart"
        self._on = False
        self._quick_cpu_s = QUICK_CPU_S if cpu_count() > FEW_PROCESSORS else QUICK_CPU_ALONE_S
        callees = [plan.steps[step].callees[0] for step in fused.steps]
        called = [
            models[callee.name] if callee.kind == "model" else None if callee.kind == "builtin" else host for callee in callees
        ]
        #: By place among the fused steps, but for the host's own calls: the model that is called there, `None` for an ensemble.
        self._called = {place: pool for place, pool in enumerate(called) if pool is not host}
        #: Whose calls are made, and how many for one run.
        self._pools = tuple(Counter(pool for pool in called if pool is not None).items())
        self._models = tuple({models[callee.name] for callee in callees if callee.kind == "model"})
        host.on_fused = self._note

    def current(self) -> Fused | None:
        """The steps that a run which begins now is to have computed in one call; `None` for none."""
        if self._state not in ("apart", "loaded") or not self._worth():
            return None
        if self._state == "loaded":
            return self._fused
        self._state = "loading"
        self.host.submit(Task((), self._loaded, callee=LOAD_FUSED))
        return None

    def _worth(self) -> bool:
        for model in self._models:
            if model.numbers_changed:
                return False
        took_s = cpu_s = 0.0
        for pool, calls in self._pools:
            took_s += pool.cost.took_s * calls
            cpu_s += pool.cost.cpu_s * calls
        slack = SLACK if self._on else 1
        self._on = took_s < QUICK_S * slack and cpu_s < self._quick_cpu_s * slack
        return self._on

    def _loaded(self, outcome: Outcome) -> None:
        """A worker has loaded the models, or could not; the others load them with the first call that they get."""
        failed = outcome is REFUSED or isinstance(outcome, FlowyardError)
        self._state = "refused" if failed else "loaded"

    def _note(self, results: Results, calls: int) -> tuple[float, float]:
        """Counts what models have computed in the host's workers.

        Args:
            results: Of a batch.
            calls: How many calls of fused nodes it had.

        Returns:
            The seconds, and of these the processor's, that the host's own calls took.
        """
        left_s, left_cpu_s = results.compute_s, results.cpu_s
        for place, pool in self._called.items():
            if place >= len(results.times):
                break
            node = results.times[place]
            took_s = node.ended - node.began
            # A worker's own words, which may be anything.
            if 0 <= took_s <= left_s and 0 <= node.cpu_s <= left_cpu_s:
                left_s, left_cpu_s = left_s - took_s, left_cpu_s - node.cpu_s
                if pool is not None:
                    pool.note_elsewhere(calls, took_s, node.cpu_s)
        return left_s, left_cpu_s
