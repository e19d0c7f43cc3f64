"""What a run tells its shell: what to do, and in the end what it did when."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from flowyard.schemas.errors import FlowyardError
from flowyard.schemas.payload import Payload
from flowyard.workflows.plan import CalleeKind


class StartCall(msgspec.Struct, frozen=True, gc=False):
    """Start a call of a model, function or registered workflow; its end is told by `Run.done` or `Run.failed`.

    A call of fused nodes (`kind` is `fused`, `step` the first of them) ends with `Run.fused_done`, `Run.failed` or
    `Run.fused_refused`.

    Attributes:
        call_id: Number of the call, unique in its run.
        step: Name of the step.
        kind: What is called.
        callee: Its local name; of a workflow, `name[:version]`.
        args: The arguments, not decoded.
        timeout_at: When the run gives the call up, `None` if never; the run's own deadline is included.
    """

    call_id: int
    step: str
    kind: CalleeKind | Literal["fused"]
    callee: str
    args: tuple[Payload, ...]
    timeout_at: float | None


class CancelCall(msgspec.Struct, frozen=True, gc=False):
    """Nobody waits for this call any more; whatever it still reports is ignored."""

    call_id: int


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The run is over: this is the answer."""

    payload: Payload


class AnswerError(msgspec.Struct, frozen=True):
    """The run is over: it has failed."""

    error: FlowyardError


class WakeAt(msgspec.Struct, frozen=True, gc=False):
    """Call `Run.tick` at this time, or soon after."""

    at: float


Instruction: TypeAlias = StartCall | CancelCall | Answer | AnswerError | WakeAt


class StepTime(msgspec.Struct, frozen=True, gc=False):
    """One line of a run's timeline.

    Attributes:
        name: Name of the step.
        started: When its inputs were there; `None` when it never got that far.
        ended: When it ended; `None` while it has not.
        state: `idle` (never needed), `waiting`, `running`, `done`, `cached`, `skipped`, `fallback`, `failed` or `cancelled`.
    """

    name: str
    started: float | None
    ended: float | None
    state: str
