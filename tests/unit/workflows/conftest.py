"""Drives runs without a clock or a worker."""

from collections.abc import Callable
from typing import Any

import pytest

from flowyard.schemas.errors import FlowyardError
from flowyard.schemas.payload import Payload
from flowyard.workflows.cache import NodeCache
from flowyard.workflows.check import compile_workflow
from flowyard.workflows.instructions import Answer, AnswerError, CancelCall, Instruction, StartCall, WakeAt
from flowyard.workflows.run import Run

HEAD = "name: w\nmodels: {m: m.pt, n: n.pt}\nfunctions: {f: s:f, g: s:g}\n"


class Driven:
    """A run, its instructions in short form, and the calls that are open."""

    def __init__(
        self,
        nodes: str,
        body: Any = None,
        deadline: float | None = None,
        top: str = "",
        caches: dict[int, NodeCache] | None = None,
        **request: dict[str, str],
    ) -> None:
        indented = "".join(f"  {line}\n" for line in nodes.strip("\n").splitlines())
        self.plan = plan = compile_workflow(f"{HEAD}{top}\nworkflow:\n{indented}".encode(), "w.yaml", None)
        payload = body if isinstance(body, Payload) else Payload.of(body)
        self.run = Run(plan, payload, request.get("headers", {}), request.get("query", {}), deadline, caches)
        self.open: dict[str, StartCall] = {}

    def start(self, now: float = 0.0) -> list[Any]:
        return self._short(self.run.start(now))

    def done(self, call: str, value: Any = None, now: float = 0.0) -> list[Any]:
        return self._short(self.run.done(self.open.pop(call).call_id, Payload.of(value), now))

    def fail(self, call: str, error: FlowyardError, now: float = 0.0) -> list[Any]:
        return self._short(self.run.failed(self.open.pop(call).call_id, error, now))

    def tick(self, now: float) -> list[Any]:
        return self._short(self.run.tick(now))

    def states(self) -> dict[str, str]:
        return {time.name: time.state for time in self.run.timeline}

    def _short(self, instructions: list[Instruction]) -> list[Any]:
        return [self._one(instruction) for instruction in instructions]

    def _one(self, instruction: Instruction) -> Any:
        if isinstance(instruction, StartCall):
            name = f"{instruction.step}:{instruction.callee}"
            while name in self.open:
                name += "+"
            self.open[name] = instruction
            return (name, *(arg.value() for arg in instruction.args))
        if isinstance(instruction, CancelCall):
            name = next(name for name, call in self.open.items() if call.call_id == instruction.call_id)
            del self.open[name]
            return f"cancel {name}"
        if isinstance(instruction, Answer):
            return {"answer": instruction.payload.value()}
        if isinstance(instruction, AnswerError):
            return {"error": f"{type(instruction.error).__name__}: {instruction.error.message}"}
        assert isinstance(instruction, WakeAt)
        return f"wake at {instruction.at:g}"


@pytest.fixture
def drive() -> Callable[..., Driven]:
    return Driven
