"""Sequences of requests: each stays with its worker, in order, whatever happens; and nobody waits for ever."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowyard.platform.workers.groups import Group
from flowyard.platform.workers.instructions import Answer, Closed, Dispatch, Kill, Retire, Spawn
from flowyard.platform.workers.jobs import Job, SequenceMark
from flowyard.platform.workers.messages import MAX_SEQUENCE_ID, in_sequence
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.sequence_scheduler import SequenceScheduler
from flowyard.platform.workers.sequences import SequenceHeaders, SequenceLimits
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import DeadlineError, InvalidInputError, QueueFullError, ShutDownError, WorkerDiedError
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload

HEADERS = SequenceHeaders()


def make(low=1, high=None, *, most=4, queue_size=2, idle_s=10.0, timeout_s=0.0, **policy):
    """A scheduler whose first workers are ready and idle at time 0."""
    limits = SequenceLimits(idle_s=idle_s, timeout_s=timeout_s, most=most, queue_size=queue_size)
    scheduler = SequenceScheduler(Policy(name="m", **policy), limits, [Group(CPU, low, high or low)], itertools.count(1))
    for spawn in [item for item in scheduler.start(0) if isinstance(item, Spawn)]:
        scheduler.worker_ready(spawn.worker, 0)
    return scheduler


def job(sequence, starts=False, ends=False, **more):
    made = Job(sequence, **more)
    made.sequence = SequenceMark(sequence, starts, ends)
    return made


def sent(instructions):
    return [(item.worker, item.batch, [job.item for job in item.jobs]) for item in instructions if isinstance(item, Dispatch)]


def told(instructions):
    return [item.outcome for item in instructions if isinstance(item, Answer)]


def submit(scheduler, sequence, now, **more):
    return scheduler.submit([job(sequence, **more)], now)


class TestWhoComputes:
    def test_a_sequence_stays_with_its_worker_and_a_new_one_goes_to_who_keeps_fewest(self):
        scheduler = make(2)
        ((first, batch, _),) = sent(submit(scheduler, "a", 1))
        scheduler.batch_done(first, batch, ["A"], 1)
        ((second, _, _),) = sent(submit(scheduler, "b", 1))
        assert {first, second} == {1, 2}
        for _ in range(3):
            ((again, batch, _),) = sent(submit(scheduler, "a", 1))
            assert again == first
            scheduler.batch_done(again, batch, ["A"], 1)

    def test_the_next_request_of_a_sequence_waits_for_its_worker_while_another_idles(self):
        scheduler = make(2)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1))
        assert sent(submit(scheduler, "a", 1)) == []
        assert [one for one, _, _ in sent(scheduler.batch_done(worker, batch, ["A"], 2))] == [worker]

    def test_a_batch_has_one_request_of_each_sequence(self):
        scheduler = make(batch_size=4, queue_size=5)
        jobs = [job(name) for name in "aabbc"]
        ((worker, batch, names),) = sent(scheduler.submit([job("x")], 1))
        assert names == ["x"]
        assert sent(scheduler.submit(jobs, 1)) == []
        ((_, batch, names),) = sent(scheduler.batch_done(worker, batch, ["X"], 1))
        assert names == ["a", "b", "c"]
        assert [names for _, _, names in sent(scheduler.batch_done(worker, batch, ["A", "B", "C"], 1))] == [["a", "b"]]

    def test_a_batch_is_filled_until_every_sequence_is_in_it(self):
        scheduler = make(batch_size=4, fill=True, batch_delay_s=1.0)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1))
        scheduler.batch_done(worker, batch, ["A"], 1)
        ((_, batch, _),) = sent(submit(scheduler, "b", 2) + scheduler.tick(3))
        scheduler.batch_done(worker, batch, ["B"], 3)
        assert sent(submit(scheduler, "a", 4)) == []
        assert scheduler.wake_at <= 5
        assert [names for _, _, names in sent(submit(scheduler, "b", 4.5))] == [["a", "b"]]

    def test_a_worker_is_started_for_the_first_sequence(self):
        scheduler = make(0, 1)
        out = submit(scheduler, "a", 1)
        (spawn,) = [item for item in out if isinstance(item, Spawn)]
        assert [names for _, _, names in sent(scheduler.worker_ready(spawn.worker, 2))] == [["a"]]

    def test_a_worker_that_keeps_a_sequence_is_not_retired_for_being_idle(self):
        scheduler = make(0, 1, idle_s=100.0)
        scheduler.policy = Policy(name="m", idle_s=5)
        (spawn,) = [item for item in submit(scheduler, "a", 1) if isinstance(item, Spawn)]
        ((worker, batch, _),) = sent(scheduler.worker_ready(spawn.worker, 1))
        scheduler.batch_done(worker, batch, ["A"], 1)
        assert not [item for item in scheduler.tick(50) if isinstance(item, Retire)]
        assert scheduler.wake_at <= 102
        assert [item for item in scheduler.tick(102) if isinstance(item, Retire)]


class TestHowLong:
    def test_one_that_rests_too_long_is_closed_and_makes_room(self):
        scheduler = make(most=1, idle_s=10.0)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1))
        scheduler.batch_done(worker, batch, ["A"], 5)
        (refused,) = told(submit(scheduler, "b", 14))
        assert isinstance(refused, QueueFullError)
        assert sent(submit(scheduler, "b", 15))

    def test_one_is_closed_by_its_last_request(self):
        scheduler = make(most=1)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1, ends=True))
        (refused,) = told(submit(scheduler, "b", 1))
        assert isinstance(refused, QueueFullError)
        scheduler.batch_done(worker, batch, ["A"], 1)
        assert sent(submit(scheduler, "b", 1))

    def test_one_that_lasts_too_long_is_closed_once_nothing_of_it_waits(self):
        scheduler = make(most=2, idle_s=100.0, timeout_s=20.0)
        ((worker, batch, _),) = sent(submit(scheduler, "long", 0))
        scheduler.batch_done(worker, batch, ["A"], 1)
        ((_, batch, _),) = sent(submit(scheduler, "a", 10))
        submit(scheduler, "a", 11)
        ((_, batch, _),) = sent(scheduler.batch_done(worker, batch, ["A"], 31))
        scheduler.batch_done(worker, batch, ["A"], 32)
        assert told(submit(scheduler, "b", 33) + submit(scheduler, "c", 33)) == []

    def test_too_many_requests_of_one_are_refused(self):
        scheduler = make(queue_size=1)
        assert told(submit(scheduler, "a", 1) + submit(scheduler, "a", 1)) == []
        (refused,) = told(submit(scheduler, "a", 1))
        assert isinstance(refused, QueueFullError)
        assert '"a"' in refused.message


class TestWhenAWorkerIsGone:
    def test_what_it_computed_and_what_waited_is_answered_and_what_follows_is_refused(self):
        scheduler = make(2, queue_size=5, idle_s=10.0)
        ((worker, _, _),) = sent(submit(scheduler, "a", 1))
        submit(scheduler, "a", 1)
        out = scheduler.worker_died(worker, "killed by signal 9", 2)
        died, lost = told(out)
        assert isinstance(died, WorkerDiedError)
        assert isinstance(lost, ShutDownError)
        assert sent(out) == []
        (refused,) = told(submit(scheduler, "a", 5))
        assert 'Sequence "a" is closed' in refused.message
        assert [one for one, _, _ in sent(submit(scheduler, "a", 6, starts=True))] == [3 - worker]

    def test_its_id_is_free_again_when_it_would_have_rested_too_long(self):
        scheduler = make(2, idle_s=10.0)
        ((worker, _, _),) = sent(submit(scheduler, "a", 1))
        scheduler.worker_died(worker, "gone", 2)
        assert told(submit(scheduler, "a", 11.9))
        assert sent(submit(scheduler, "a", 12))

    def test_a_worker_that_is_to_go_loses_them_after_its_batch(self):
        scheduler = make(1, queue_size=5)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1))
        submit(scheduler, "a", 1)
        (lost,) = told(scheduler.scale(0, 0, 2))
        assert isinstance(lost, ShutDownError)
        assert told(scheduler.batch_done(worker, batch, ["A"], 3)) == ["A"]

    def test_one_that_hangs_is_killed_and_loses_them_at_once(self):
        scheduler = make(2, timeout_s=0.0, queue_size=5)
        scheduler.policy = Policy(name="m", timeout_s=5, timeout_error="Worker died.")
        ((worker, _, _),) = sent(submit(scheduler, "a", 1))
        submit(scheduler, "a", 1)
        out = scheduler.tick(6)
        assert [type(one) for one in told(out)] == [WorkerDiedError, ShutDownError]
        assert [item.worker for item in out if isinstance(item, Kill)] == [worker]


class TestSideBySide:
    """Where requests are computed side by side, each in a batch of its own."""

    def test_the_next_one_of_a_sequence_goes_to_its_worker_at_once(self):
        scheduler = make(2, concurrency=3, queue_size=5)
        ((worker, first, _),) = sent(submit(scheduler, "a", 1))
        ((again, second, _),) = sent(submit(scheduler, "a", 1))
        assert again == worker
        ((other, _, _),) = sent(submit(scheduler, "b", 1))
        assert other != worker
        assert told(scheduler.batch_done(worker, second, ["A2"], 2)) == ["A2"]
        assert told(scheduler.batch_done(worker, first, ["A1"], 3)) == ["A1"]

    def test_those_that_wait_go_in_order_and_sequences_in_turns(self):
        scheduler = make(1, concurrency=2, queue_size=5)
        ((_, first, _), (_, second, _)) = sent(scheduler.submit([job(name) for name in "aaaab"], 1))
        ((_, third, names),) = sent(scheduler.batch_done(1, second, ["A"], 2))
        assert names == ["a"]
        assert [names for _, _, names in sent(scheduler.batch_done(1, first, ["A"], 2))] == [["b"]]
        assert [names for _, _, names in sent(scheduler.batch_done(1, third, ["A"], 2))] == [["a"]]

    def test_one_rests_when_all_of_it_is_computed(self):
        scheduler = make(1, concurrency=2, most=1, idle_s=10.0)
        ((_, first, _), (_, second, _)) = sent(scheduler.submit([job("a"), job("a")], 1))
        scheduler.batch_done(1, second, ["A"], 2)
        assert told(submit(scheduler, "b", 50))
        scheduler.batch_done(1, first, ["A"], 50)
        assert told(submit(scheduler, "b", 59))
        assert sent(submit(scheduler, "b", 60))

    def test_its_last_request_ends_it_when_the_ones_before_have_ended(self):
        scheduler = make(1, concurrency=2, most=1)
        ((_, first, _), (_, second, _)) = sent(scheduler.submit([job("a"), job("a", ends=True)], 1))
        scheduler.batch_done(1, second, ["A"], 2)
        assert told(submit(scheduler, "b", 2))
        scheduler.batch_done(1, first, ["A"], 2)
        assert sent(submit(scheduler, "b", 2))

    def test_its_handler_ends_it_whatever_waits(self):
        scheduler = make(1, concurrency=2, most=1, queue_size=5)
        ((_, first, _), (_, second, _)) = sent(scheduler.submit([job("a"), job("a"), job("a")], 1))
        out = scheduler.step_done(1, ("a", "unknown"), 2)
        (refused,) = told(out)
        assert isinstance(refused, ShutDownError)
        assert 'Sequence "a" is closed: its handler has ended it' in refused.message
        assert told(scheduler.batch_done(1, first, ["A1"], 2)) == ["A1"]
        # It may begin anew while the rest of it is computed.
        assert sent(submit(scheduler, "a", 2))
        assert told(scheduler.batch_done(1, second, ["A2"], 2)) == ["A2"]

    def test_only_the_worker_that_keeps_it_ends_it(self):
        scheduler = make(2, concurrency=2, queue_size=5)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1))
        scheduler.batch_done(worker, batch, ["A"], 1)
        assert scheduler.step_done(3 - worker, ("a",), 2) == []
        assert scheduler.step_done(9, ("a",), 2) == []
        assert [one for one, _, _ in sent(submit(scheduler, "a", 3))] == [worker]

    def test_each_step_has_as_much_time(self):
        scheduler = make(1, concurrency=2, timeout_s=0.0)
        scheduler.policy = Policy(name="m", concurrency=2, timeout_s=5, timeout_error="Worker died.")
        submit(scheduler, "a", 0)
        for now in (4, 8, 12):
            assert scheduler.step_done(1, (), now) == []
            assert told(scheduler.tick(now + 4)) == []
        assert [type(one) for one in told(scheduler.tick(17))] == [WorkerDiedError]

    def test_a_step_does_not_put_off_the_end_of_one_that_is_to_be_let_go(self):
        scheduler = make(1, concurrency=2)
        scheduler.policy = Policy(name="m", concurrency=2, timeout_s=5, timeout_error="Worker died.")
        submit(scheduler, "a", 0)
        scheduler.tick(5)
        for now in range(6, 11):
            scheduler.step_done(1, (), now)
        assert [item.worker for item in scheduler.tick(10) if isinstance(item, Kill)] == [1]

    def test_a_worker_that_dies_takes_all_of_it_along(self):
        scheduler = make(1, concurrency=2, queue_size=5)
        scheduler.submit([job("a"), job("b"), job("a")], 1)
        out = scheduler.worker_died(1, "killed by signal 9", 2)
        assert [type(one) for one in told(out)] == [WorkerDiedError, WorkerDiedError, ShutDownError]
        assert 'Sequence "b" is closed' in told(submit(scheduler, "b", 3))[0].message


class TestWhatIsTakenBack:
    def test_one_that_waits_is_not_computed_and_the_next_one_is(self):
        scheduler = make(queue_size=5)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1))
        hasty, patient = job("a", deadline=2), job("a")
        scheduler.submit([hasty, patient], 1)
        out = scheduler.batch_done(worker, batch, ["A"], 3)
        assert [type(one) for one in told(out)] == [DeadlineError, str]
        assert [item.jobs for item in out if isinstance(item, Dispatch)] == [(patient,)]

    def test_one_whose_turn_it_was_leaves_its_turn_to_the_next_sequence(self):
        scheduler = make(1)
        ((worker, batch, _),) = sent(submit(scheduler, "a", 1))
        gone = job("b")
        scheduler.submit([gone], 1)
        submit(scheduler, "c", 1)
        scheduler.cancel(gone, 1)
        assert [names for _, _, names in sent(scheduler.batch_done(worker, batch, ["A"], 2))] == [["c"]]

    def test_a_sequence_of_which_nothing_is_left_makes_room(self):
        scheduler = make(0, 1, most=1)
        only = job("a")
        scheduler.submit([only], 1)
        scheduler.cancel(only, 1)
        assert told(submit(scheduler, "b", 1)) == []


class TestWhatARequestSays:
    def test_it_under_headers_of_other_names(self):
        message = Message(properties=(("x-session", "a"), ("x-last", "true"), ("ts_request_sequence_id", "b")))
        _, mark = in_sequence((Payload.of(message),), SequenceHeaders("X-Session", "X-First", "X-Last"))
        assert mark == SequenceMark("a", ends=True)

    @pytest.mark.parametrize(
        ("properties", "mark"),
        [
            ((("TS_request_sequence_id", "a"),), SequenceMark("a")),
            ((("ts_request_sequence_id", "a"), ("ts_request_sequence_start", "True")), SequenceMark("a", starts=True)),
            ((("ts_request_sequence_id", "a"), ("ts_request_sequence_end", "true")), SequenceMark("a", ends=True)),
            ((("ts_request_sequence_id", "a"), ("ts_request_sequence_end", "no")), SequenceMark("a")),
        ],
    )
    def test_its_sequence(self, properties, mark):
        args = (Payload.of(Message(properties=properties)),)
        assert in_sequence(args, HEADERS) == (args, mark)

    def test_one_that_names_none_begins_one_and_the_handler_is_told(self):
        (payload,), mark = in_sequence((Payload.of(Message(properties=(("ts_request_sequence_id", ""), ("x", "y")))),), HEADERS)
        message = payload.message()
        assert mark.id.startswith("ts-seq-")
        assert mark.starts
        assert message.properties == (("x", "y"), ("ts_request_sequence_start", "true"), ("ts_request_sequence_id", mark.id))

    def test_a_question_about_the_model_ends_its_own_sequence(self):
        _, mark = in_sequence((Payload.of(Message(properties=(("describe", "True"),))),), HEADERS)
        assert mark.ends

    def test_an_id_that_is_too_long_is_refused(self):
        message = Message(properties=(("ts_request_sequence_id", "a" * (MAX_SEQUENCE_ID + 1)),))
        with pytest.raises(InvalidInputError, match="ts_request_sequence_id: a"):
            in_sequence((Payload.of(message),), HEADERS)


EVENTS = st.tuples(
    st.sampled_from(
        ["submit"] * 5
        + ["pair", "start", "end", "hasty", "cancel", "ready", "die", "done", "done", "done"]
        + ["scale", "tick", "step", "over"]
    ),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.01, 0.3, 2.0, 30.0]),
)


class World:
    """Plays the processes, and holds the promises against the scheduler."""

    def __init__(self, low, high, batch_size, concurrency, fill, most):
        policy = Policy(
            name="m",
            batch_size=batch_size,
            concurrency=concurrency,
            fill=fill,
            batch_delay_s=0.1,
            queue_size=6,
            timeout_s=10,
            idle_s=5,
        )
        limits = SequenceLimits(idle_s=3, timeout_s=20, most=most, queue_size=2)
        self.scheduler = SequenceScheduler(policy, limits, [Group(CPU, low, high)], itertools.count(1))
        self.now = 0.0
        #: By worker that is ready: what it computes.
        self.starting, self.dying, self.ready = [], [], {}
        self.jobs, self.outcomes, self.order = [], {}, []
        self.closed = False
        self.carry_out(self.scheduler.start(0))
        for _ in range(low):
            self.act("ready", 0, 0.0)

    def carry_out(self, instructions):
        for item in instructions:
            match item:
                case Spawn(worker):
                    self.starting.append(worker)
                case Dispatch(worker, _, jobs):
                    assert len(self.ready[worker]) < self.scheduler.policy.concurrency
                    names = [job.sequence.id for job in jobs]
                    assert len(set(names)) == len(names) <= self.scheduler.policy.batch_size
                    assert not any(job in self.outcomes for job in jobs)
                    self.order += jobs
                    self.ready[worker].append(item)
                case Answer(job, outcome):
                    assert job not in self.outcomes
                    self.outcomes[job] = outcome
                case Retire(worker):
                    assert not self.ready.pop(worker)
                case Kill(worker):
                    self.ready.pop(worker, None)
                    if worker in self.starting:
                        self.starting.remove(worker)
                    self.dying.append(worker)
                case Closed():
                    self.closed = True
        self.check()

    def check(self):
        queue = self.scheduler._sequences
        waiting = [job for job in self.jobs if job not in self.outcomes]
        computing = [job for items in self.ready.values() for item in items for job in item.jobs]
        assert queue.waiting == sum(job.queued for job in waiting) <= 6
        assert all(job.queued or job in computing or self.dying for job in waiting)
        assert len(queue._open) <= queue._limits.most
        assert len(queue._lost) <= queue._limits.most
        assert set(queue._resting) == {one.id for one in queue._open.values() if one.rests}
        assert all(job.deadline >= self.scheduler.wake_at for job in waiting)
        if not self.scheduler.policy.fill and self.scheduler.phase == "serving" and not self.dying:
            # Whoever has room has no job that it could do.
            with_room = [worker for worker, items in self.ready.items() if len(items) < self.scheduler.policy.concurrency]
            assert not any(queue.ready_count(worker) for worker in with_room)

    @property
    def busy(self):
        return sorted(worker for worker, items in self.ready.items() if items)

    def act(self, event, number, wait):
        self.now += wait
        scheduler, now = self.scheduler, self.now
        if scheduler.wake_at <= now:
            self.carry_out(scheduler.tick(now))
        match event:
            case "submit" | "start" | "end" | "hasty" | "pair":
                names = [f"s{number % 4}"] * (1 + (event == "pair"))
                made = [
                    job(name, event == "start", event == "end", deadline=now + 0.2 if event == "hasty" else 1e9) for name in names
                ]
                self.jobs += made
                self.carry_out(scheduler.submit(made, now))
            case "cancel" if self.jobs:
                self.carry_out(scheduler.cancel(self.jobs[-1 - number % min(4, len(self.jobs))], now))
            case "ready" if self.starting:
                worker = self.starting.pop(0)
                self.ready[worker] = []
                self.carry_out(scheduler.worker_ready(worker, now))
            case "done" if self.busy:
                worker = self.busy[number % len(self.busy)]
                item = self.ready[worker].pop(number % len(self.ready[worker]))
                self.carry_out(scheduler.batch_done(worker, item.batch, ["done"] * len(item.jobs), now))
            case "step" | "over" if self.busy:
                worker = self.busy[number % len(self.busy)]
                ended = (f"s{number % 4}",) if event == "over" else ()
                kept = scheduler._sequences._kept.get(worker, {})
                is_kept = bool(ended) and ended[0] in kept
                self.carry_out(scheduler.step_done(worker, ended, now))
                # Nothing of it waits any more, unless it has begun anew.
                assert not is_kept or ended[0] not in scheduler._sequences._open
            case "die" if self.dying or self.ready:
                worker = [*self.dying, *self.busy, *sorted(self.ready)][0]
                self.ready.pop(worker, None)
                self.dying = [one for one in self.dying if one != worker]
                self.carry_out(scheduler.worker_died(worker, "gone", now))
            case "scale":
                self.carry_out(scheduler.scale(min(number % 3, 2), 1 + number % 3, now))
            case "tick":
                self.carry_out(scheduler.tick(now))

    def finish(self):
        """Everything is answered once the model goes, whatever the workers do."""
        self.carry_out(self.scheduler.drain(self.now + 1, self.now))
        self.now += 2
        self.carry_out(self.scheduler.tick(self.now))
        assert all(job in self.outcomes for job in self.jobs)

    def check_order(self):
        """Requests of a sequence are computed in order, and by one worker until that is gone or the sequence is over."""
        places = {job: place for place, job in enumerate(self.jobs)}
        for name in {job.sequence.id for job in self.order}:
            of_sequence = [places[job] for job in self.order if job.sequence.id == name]
            assert of_sequence == sorted(of_sequence)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]),
    st.booleans(),
    st.integers(1, 4),
    st.lists(EVENTS, max_size=60),
)
def test_the_promises_hold_whatever_happens(low, high, sizes, fill, most, events):
    world = World(low, max(low, high), *sizes, fill, most)
    for event in events:
        world.act(*event)
    world.check_order()
    world.finish()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_a_sequence_stays_with_its_worker_while_that_lives(workers, batch_size, fill, steps):
    scheduler = make(workers, most=9, queue_size=9, idle_s=1e6, batch_size=batch_size, fill=fill, batch_delay_s=0.5)
    worker_of, busy = {}, {}

    def note(instructions):
        for worker, batch, names in sent(instructions):
            busy[worker] = (batch, names)
            assert all(worker_of.setdefault(name, worker) == worker for name in names)

    for now, (number, is_done) in enumerate(steps):
        if is_done and busy:
            worker = sorted(busy)[number % len(busy)]
            batch, names = busy.pop(worker)
            note(scheduler.batch_done(worker, batch, names, now))
        else:
            note(submit(scheduler, f"s{number}", now))
        note(scheduler.tick(now))
