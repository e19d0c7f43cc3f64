"""How a model is served: what its scheduler is told once and for all."""

from __future__ import annotations

import msgspec

from flowyard.platform.workers.sequences import SequenceLimits


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is served. Times are in seconds.

    Attributes:
        name: Name of the model, for messages.
        batch_size: Most rows of one batch; a job is one row unless it says otherwise.
        concurrency: Most batches that one worker computes at the same time: more than one where handlers are asynchronous.
        join_quick: Whether jobs share a batch only while batches are quick: the calls of functions, which do not gain by being
            computed together, but by being sent together.
        batch_delay_s: With `fill`, how long a batch waits for company.
        fill: Whether to wait for full batches.
        queue_size: Most jobs that wait.
        idle_s: A surplus worker is retired after being idle for so long.
        timeout_s: A batch that computes for longer hangs: its worker is killed. Where there may be others beside it, the worker
            is first told to end it. Each piece of a result, and each step of what is computed in steps, has so much time.
        timeout_error: What a request is told that has been computed for `timeout_s`, and is not tried again then; empty where
            `timeout_s` bounds the time since it was submitted, as its deadline does.
        died_error: What a request is told whose workers died; empty for our text, which says of what.
        client_timeout_s: A request is answered by then, whatever its own deadline; 0 for no such limit.
        needs_idle: Whether a request is only taken in when a worker waits for it.
        sequences: The limits of its sequences, where requests come in such; `sequence_scheduler.py` sees to it.
    """

    name: str
    batch_size: int = 1
    concurrency: int = 1
    join_quick: bool = False
    batch_delay_s: float = 0.1
    fill: bool = False
    queue_size: int = 1000
    idle_s: float = 60.0
    timeout_s: float = 120.0
    timeout_error: str = ""
    died_error: str = ""
    client_timeout_s: float = 0.0
    needs_idle: bool = False
    sequences: SequenceLimits | None = None
