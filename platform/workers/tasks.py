"""What a job computes, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable

from flowyard.platform.workers.jobs import DEFAULT_PRIORITY
from flowyard.platform.workers.process import Outcome
from flowyard.schemas.payload import Payload

#: Takes a piece of a result, and what lets the worker send one more.
OnChunk = Callable[[Payload, Callable[[], None]], None]


class Task:
    """What a job computes: the arguments, what is known of the request, and whom to tell.

    Without `on_chunk`, a result that comes in pieces is collected in the worker and arrives as a list. With `alone`, it shares
    its batch with no other call.
    """

    __slots__ = ("alone", "args", "callee", "deadline", "headers", "on_chunk", "on_done", "priority", "request_id")

    def __init__(
        self,
        args: tuple[Payload, ...],
        on_done: Callable[[Outcome], None],
        *,
        callee: str = "",
        request_id: str = "",
        headers: dict[str, str] | None = None,
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
        on_chunk: OnChunk | None = None,
    ) -> None:
        self.args = args
        self.on_done = on_done
        self.callee = callee
        self.request_id = request_id
        self.headers = headers if headers is not None else {}
        self.deadline = deadline
        self.priority = priority
        self.on_chunk = on_chunk
        self.alone = False
