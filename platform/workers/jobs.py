"""Jobs, and the queue of a model: in which order they are computed."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import msgspec

#: A job of priority p is queued as if it had come p times this much later: lower goes first, and nobody starves.
PRIORITY_STEP_S = 1.0
DEFAULT_PRIORITY = 3
MAX_PRIORITY = 9
#: Cancelled jobs that still lie in the queue before it is swept.
SWEEP_AT = 64

FOREVER = math.inf


class SequenceMark(msgspec.Struct, frozen=True):
    """What a request says of the sequence that it belongs to.

    Attributes:
        id: The sequence.
        starts: Whether it is the first one.
        ends: Whether it is the last one.
    """

    id: str
    starts: bool = False
    ends: bool = False


class Job:
    """One request to a model, in the scheduler's eyes.

    Attributes:
        item: What is to be computed; opaque here.
        deadline: When it must be answered, monotonic seconds.
        priority: 0 to 9, lower goes first.
        rows: Rows of the model's input that it brings; a batch holds `batch_size` of them.
        submitted: When it was submitted.
        dispatched: When its last batch was sent, 0 before.
        worker: The worker that it was sent to last, 0 before.
        deaths: Workers that died computing it.
        answered: Whether it has had its answer.
        streamed: Whether pieces of its result have gone out: it cannot be tried again.
        sequence: The sequence it belongs to, where the model has such.
    """

    __slots__ = (
        "answered",
        "deadline",
        "deaths",
        "dispatched",
        "item",
        "priority",
        "queued",
        "rows",
        "sequence",
        "streamed",
        "submitted",
        "worker",
    )

    def __init__(self, item: Any, deadline: float = FOREVER, priority: int = DEFAULT_PRIORITY, rows: int = 1) -> None:
        self.item = item
        self.deadline = deadline
        self.priority = min(max(priority, 0), MAX_PRIORITY)
        self.rows = rows
        self.submitted = 0.0
        self.dispatched = 0.0
        self.worker = 0
        self.deaths = 0
        self.streamed = False
        self.queued = False
        self.answered = False
        self.sequence: SequenceMark | None = None


class JobQueue:
    """Jobs that wait. First in line are those whose worker has died, then those of lower priority and earlier submission.

    A job that is answered while it waits stays where it is until it comes to the front, or the queue is swept.

    Attributes:
        waiting: Number of jobs that wait.
    """

    __slots__ = ("_again", "_lines", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._again: deque[Job] = deque()
        #: One line per priority; a line is dropped when it is empty.
        self._lines: dict[int, deque[Job]] = {}

    def add(self, job: Job) -> None:
        """Puts a job at the end of its line."""
        job.queued = True
        self.waiting += 1
        line = self._lines.get(job.priority)
        if line is not None:
            line.append(job)
        else:
            self._lines[job.priority] = deque((job,))

    def add_first(self, job: Job) -> None:
        """Puts a job before all others."""
        job.queued = True
        self.waiting += 1
        self._again.appendleft(job)

    def withdraw(self, job: Job) -> None:
        """A job is answered, if it waits, without having been computed."""
        if job.queued:
            job.queued = False
            self.waiting -= 1

    def sweep(self) -> None:
        """Takes withdrawn jobs out of the lines before they outgrow the waiting ones."""
        if len(self) - self.waiting > max(SWEEP_AT, self.waiting):
            self._again = deque(job for job in self._again if job.queued)
            lines = {priority: deque(job for job in line if job.queued) for priority, line in self._lines.items()}
            self._lines = {priority: line for priority, line in lines.items() if line}

    def clear(self) -> None:
        """Forgets all jobs; they must have been withdrawn."""
        self._again.clear()
        self._lines.clear()

    def __len__(self) -> int:
        """Number of jobs in the lines, withdrawn ones included."""
        return len(self._again) + sum(map(len, self._lines.values()))

    def head(self) -> Job | None:
        """The job that is next."""
        if not self.waiting:
            return None
        if len(self._lines) == 1 and not self._again:
            # The usual case: nobody asks for a priority, and no worker has died.
            (line,) = self._lines.values()
            if line and line[0].queued:
                return line[0]
        best = self._next_line()
        return best[0] if best else None

    def pop(self, head: Job) -> None:
        """Takes the job that is next, which `head` has just given."""
        line = self._again if self._again and self._again[0] is head else self._lines[head.priority]
        line.popleft()
        head.queued = False
        self.waiting -= 1

    @property
    def retries(self) -> bool:
        """Whether the job that is next is one whose worker has died."""
        return _first(self._again) is not None

    def _next_line(self) -> deque[Job] | None:
        """The line whose first job is next."""
        if self._again and _first(self._again):
            return self._again
        best: deque[Job] | None = None
        rank = FOREVER
        for priority, line in list(self._lines.items()):
            head = _first(line)
            if head is None:
                del self._lines[priority]
            elif (its_rank := head.submitted + priority * PRIORITY_STEP_S) < rank:
                best, rank = line, its_rank
        return best


def _first(line: deque[Job]) -> Job | None:
    while line and not line[0].queued:
        line.popleft()
    return line[0] if line else None
