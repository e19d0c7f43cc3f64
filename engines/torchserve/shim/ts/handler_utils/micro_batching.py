"""Runs the steps of a handler on parts of a batch at the same time: `handler.handle = MicroBatching(handler, size)`."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

STEPS = ("preprocess", "inference", "postprocess")
HANDLER_METHODS = list(STEPS)


class MicroBatching:
    """A handler whose batches go through its steps in parts, each step with threads of its own."""

    def __init__(self, parent_handler: Any, micro_batch_size: int = 1, parallelism: dict[str, int] | None = None) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._parallelism: dict[str, int] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._local = threading.local()
        self.parallelism = parallelism or {}

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads of each step."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: dict[str, int]) -> None:
        unknown = set(parallelism) - set(STEPS)
        if unknown:
            raise ValueError(f"no steps: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
        self._parallelism.update(parallelism)
        self.shutdown()
        self._pools = {step: ThreadPoolExecutor(max(1, self._parallelism.get(step, 1)), step) for step in STEPS}

    def shutdown(self) -> None:
        """Ends the threads."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def get_micro_batch_idx(self) -> int | None:
        """The part that this thread works on."""
        return getattr(self._local, "index", None)

    def handle(self, data: list[Any]) -> list[Any]:
        """Takes a batch through the steps."""
        size = self.micro_batch_size
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        ends: list[Future[Any]] = [self._pools[STEPS[0]].submit(self._step, 0, index, part) for index, part in enumerate(parts)]
        for at, step in enumerate(STEPS[1:], start=1):
            ends = [self._pools[step].submit(self._after, at, index, before) for index, before in enumerate(ends)]
        return [item for end in ends for item in end.result()]

    def _step(self, at: int, index: int, data: Any) -> Any:
        self._local.index = index
        return getattr(self.handler, STEPS[at])(data)

    def _after(self, at: int, index: int, before: Future[Any]) -> Any:
        return self._step(at, index, before.result())

    def __call__(self, data: list[Any], context: Any) -> list[Any]:
        """Handles a batch as `BaseHandler.handle` does."""
        started = time.monotonic()
        handler = self.handler
        handler.context = context
        if handler._is_describe():
            output = [handler.describe_handle()]
        elif handler._is_explain():
            output = handler.explain_handle(handler.preprocess(data), data)
        else:
            output = self.handle(data)
        context.metrics.record("HandlerTime", (time.monotonic() - started) * 1000)
        return output
