"""The workers of one model: who may be sent a batch, who is to start and who is to end.

Part of the scheduler's state, without a clock as all of it: what is to be done comes back as instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from flowyard.platform.workers.groups import Group, Worker
from flowyard.platform.workers.instructions import Instruction, Kill, Retire, Spawn
from flowyard.platform.workers.restarts import note_failure
from flowyard.schemas.devices import Device

#: Workers of a group that load at the same time; the others follow as these are ready. More would take the processors from each
#: other and from everybody else.
STARTING_AT_ONCE = 8
#: Another worker is started when the oldest queued job has waited this long.
SCALE_UP_AFTER_S = 0.1
#: Who ends first where there are too many.
_ENDS_FIRST = {"idle": 0, "starting": 1, "busy": 2, "configuring": 2}


class Fleet:
    """The workers, by number and in their groups.

    Args:
        groups: The worker groups.
        worker_ids: Numbers workers.
        wake: Is told when something is to be looked at again.

    Attributes:
        groups: By device.
        workers: By number, those that are starting or on their way out, too.
        with_room: Those that may be sent a batch.
        has_space: Whether a group may have one more; as of the last `recount`, as is the next.
        has_surplus: Whether a group has more than it should have at least.
    """

    def __init__(self, groups: Iterable[Group], worker_ids: Iterator[int], wake: Callable[[float], None]) -> None:
        self.groups = {group.device: group for group in groups}
        self.workers: dict[int, Worker] = {}
        self.with_room: list[Worker] = []
        self.has_space = self.has_surplus = False
        self._worker_ids = worker_ids
        self._wake = wake

    # ---- one worker ----

    def offer(self, worker: Worker) -> None:
        """A worker may be sent a batch."""
        if not worker.has_room:
            worker.has_room = True
            self.with_room.append(worker)

    def withhold(self, worker: Worker) -> None:
        """A worker may not be sent a batch, for now or for good."""
        if worker.has_room:
            worker.has_room = False
            if self.with_room[-1] is worker:
                self.with_room.pop()
            else:
                self.with_room.remove(worker)

    def kill(self, worker: Worker, reason: str) -> Kill:
        """A worker is ended by force."""
        worker.killed = True
        self.withhold(worker)
        return Kill(worker.id, reason)

    def forget(self, worker_id: int) -> Worker | None:
        """A worker is gone, or as good as; `None` where it was before."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return None
        self.groups[worker.device].workers.pop(worker_id, None)
        self.withhold(worker)
        return worker

    def note_failure(self, worker: Worker, now: float) -> None:
        """A worker, which is forgotten, could not be started or has died unasked."""
        group = self.groups[worker.device]
        note_failure(group, worker, now)
        self._wake(group.retry_at)

    # ---- how many ----

    def recount(self) -> None:
        """Works out, after the set of workers has changed, what requests would otherwise ask each time."""
        staying = [(group, group.staying()) for group in self.groups.values()]
        self.has_space = any(there < group.max for group, there in staying)
        self.has_surplus = any(there > group.min for group, there in staying)

    def set_numbers(self, min_workers: int, max_workers: int, now: float, device: Device | None) -> None:
        """The number of workers is to change, on one device (a new group if need be) or on each."""
        if device is not None and device not in self.groups:
            self.groups[device] = Group(device, 0, 0)
        for group in self.groups.values():
            if device is None or group.device == device:
                group.min, group.max = min_workers, max(min_workers, max_workers)
                group.retry_at = min(group.retry_at, now)
                if not group.max:
                    # Whoever starts workers again later begins anew.
                    group.failures = 0

    def keep(self, least: Callable[[Group], int], now: float) -> list[Instruction]:
        """Starts what is missing and ends what is too much in each group."""
        out: list[Instruction] = []
        for group in self.groups.values():
            staying, wanted = group.staying(), least(group)
            if staying < wanted:
                out += self._spawn(group, wanted - staying, now)
            elif staying > group.max:
                out += self._retire(group, staying - group.max)
        return out

    def grow(self, since: float, now: float) -> list[Instruction]:
        """One more worker where a job has waited too long since a time, and none is on its way."""
        if any(worker.state == "starting" for worker in self.workers.values()):
            return []
        groups = [group for group in self.groups.values() if group.staying() < group.max]
        if not groups:
            return []
        due = since + SCALE_UP_AFTER_S if self.workers else now
        if due > now:
            self._wake(due)
            return []
        return self._spawn(min(groups, key=lambda group: (group.retry_at, group.staying() / group.max)), 1, now)

    def shrink(self, idle_s: float, now: float) -> list[Instruction]:
        """Retires surplus workers that have been idle for long enough, the longest idle first."""
        out: list[Instruction] = []
        for worker in list(self.with_room):
            group = self.groups[worker.device]
            if worker.running or group.staying() <= group.min:
                continue
            due = worker.since + idle_s
            if due > now:
                self._wake(due)
                continue
            self.forget(worker.id)
            out.append(Retire(worker.id))
        return out

    def end_leaving(self, reason: str) -> list[Instruction]:
        """Workers that are to end after what they have get no more time for it."""
        leaving = [worker for worker in self.workers.values() if worker.retiring and not worker.killed]
        return [self.kill(worker, reason) for worker in leaving]

    def end_all(self) -> list[Instruction]:
        """Ends all workers, whatever they do."""
        out: list[Instruction] = []
        for worker in list(self.workers.values()):
            self.forget(worker.id)
            out.append(Retire(worker.id) if worker.state == "idle" else Kill(worker.id, "shut down"))
        return out

    def _spawn(self, group: Group, count: int, now: float) -> list[Instruction]:
        if group.retry_at > now:
            self._wake(group.retry_at)
            return []
        out: list[Instruction] = []
        starting = sum(worker.state == "starting" for worker in group.workers.values())
        for _ in range(min(count, STARTING_AT_ONCE - starting)):
            worker = Worker(next(self._worker_ids), group.device, now)
            self.workers[worker.id] = group.workers[worker.id] = worker
            out.append(Spawn(worker.id, group.device))
        return out

    def _retire(self, group: Group, count: int) -> list[Instruction]:
        """Ends workers, the idle ones first; one that is busy finishes its batch, one that starts is killed."""
        staying = [worker for worker in group.workers.values() if not worker.retiring]
        out: list[Instruction] = []
        for worker in sorted(staying, key=lambda worker: _ENDS_FIRST[worker.state])[:count]:
            worker.retiring = True
            self.withhold(worker)
            if worker.state == "idle":
                self.forget(worker.id)
                out.append(Retire(worker.id))
            elif worker.state == "starting":
                self.forget(worker.id)
                out.append(Kill(worker.id, "no longer wanted"))
        return out
