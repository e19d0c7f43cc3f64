"""The scheduler: events in, instructions out."""

from __future__ import annotations

import itertools

import pytest

from flowyard.platform.workers.batching import QUICK_S
from flowyard.platform.workers.fleet import SCALE_UP_AFTER_S, STARTING_AT_ONCE
from flowyard.platform.workers.groups import Group
from flowyard.platform.workers.instructions import (
    Abandon,
    Answer,
    Closed,
    Configure,
    Dispatch,
    Kill,
    Retire,
    Spawn,
    Started,
    StartFailed,
)
from flowyard.platform.workers.jobs import PRIORITY_STEP_S, SWEEP_AT, Job
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.restarts import BACKOFF_S, CRASH_LOOP, SETTLED_S
from flowyard.platform.workers.scheduler import ABANDONED_S, Scheduler
from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.errors import (
    DeadlineError,
    InvalidModelError,
    NotReadyError,
    QueueFullError,
    ShutDownError,
    WorkerDiedError,
)

GPU = Device("gpu", 0)


def make(low=1, high=1, devices=(CPU,), **policy):
    groups = [Group(device, low, high) for device in devices]
    return Scheduler(Policy(name="m", **policy), groups, itertools.count(1))


def serving(low=1, high=None, devices=(CPU,), **policy):
    """A scheduler whose first workers are ready and idle at time 0."""
    scheduler = make(low, high or low, devices, **policy)
    for spawn in [item for item in scheduler.start(0) if isinstance(item, Spawn)]:
        scheduler.worker_ready(spawn.worker, 0)
    assert scheduler.phase == "serving"
    return scheduler


def quick(*args, **policy):
    """The same, when its batches have been found to take no time."""
    scheduler = serving(*args, **policy)
    scheduler._duration_s = 0.0
    return scheduler


def kinds(instructions):
    return [type(item) for item in instructions]


def only(instructions, kind):
    found = [item for item in instructions if isinstance(item, kind)]
    assert len(found) == 1, instructions
    return found[0]


def outcome_of(instructions, job):
    answers = [item for item in instructions if isinstance(item, Answer) and item.job is job]
    assert len(answers) == 1, instructions
    return answers[0].outcome


class TestWhatArchivesAsk:
    def test_a_request_is_only_taken_in_when_a_worker_waits_for_it(self):
        scheduler = serving(2, needs_idle=True)
        jobs = [Job(n) for n in range(3)]
        out = scheduler.submit(jobs, 1)
        assert isinstance(outcome_of(out, jobs[2]), QueueFullError)
        dispatched = [item for item in out if isinstance(item, Dispatch)]
        assert [item.jobs for item in dispatched] == [(jobs[0],), (jobs[1],)]
        assert isinstance(outcome_of(scheduler.submit([late := Job(3)], 2), late), QueueFullError)

    def test_a_request_is_answered_by_the_time_that_its_client_waits(self):
        scheduler = serving(1, client_timeout_s=0.5)
        first, second, hasty = Job(1), Job(2), Job(3, deadline=1.2)
        scheduler.submit([first, second, hasty], 1)
        assert isinstance(outcome_of(scheduler.tick(1.3), hasty), DeadlineError)
        assert scheduler.wake_at <= 1.5
        out = scheduler.tick(1.6)
        assert isinstance(outcome_of(out, first), DeadlineError)
        assert isinstance(outcome_of(out, second), DeadlineError)


class TestStart:
    def test_spawns_the_minimum_on_every_device_and_says_when_all_are_ready(self):
        scheduler = make(2, 4, devices=(CPU, GPU))
        spawned = scheduler.start(0)
        assert spawned == [Spawn(1, CPU), Spawn(2, CPU), Spawn(3, GPU), Spawn(4, GPU)]
        assert [kinds(scheduler.worker_ready(worker, 1)) for worker in (1, 2, 3)] == [[], [], []]
        assert scheduler.worker_ready(4, 1) == [Started()]

    def test_many_workers_start_a_few_at_a_time_and_all_are_waited_for(self):
        scheduler = make(2 * STARTING_AT_ONCE, 2 * STARTING_AT_ONCE)
        starting = [item.worker for item in scheduler.start(0)]
        assert len(starting) == STARTING_AT_ONCE
        ready = 0
        while starting:
            out = scheduler.worker_ready(starting.pop(0), 1)
            ready += 1
            starting += [item.worker for item in out if isinstance(item, Spawn)]
            assert len(starting) <= STARTING_AT_ONCE
            assert (Started in kinds(out)) == (ready == 2 * STARTING_AT_ONCE)
        assert ready == 2 * STARTING_AT_ONCE
        assert scheduler.phase == "serving"

    def test_with_a_minimum_of_zero_it_is_started_at_once(self):
        assert make(0, 1).start(0) == [Started()]

    def test_a_model_that_cannot_be_loaded_fails_the_start_and_ends_the_others(self):
        scheduler = make(2, 2)
        scheduler.start(0)
        scheduler.worker_ready(1, 1)
        error = InvalidModelError("broken")
        assert scheduler.worker_failed(2, error, 1) == [Retire(1), StartFailed(error)]
        assert scheduler.phase == "closed"

    def test_a_worker_that_dies_while_loading_fails_the_start(self):
        scheduler = make(1, 1)
        scheduler.start(0)
        failed = only(scheduler.worker_died(1, "killed by SIGSEGV", 1), StartFailed)
        assert isinstance(failed.error, WorkerDiedError)
        assert "SIGSEGV" in failed.error.message


class TestDispatch:
    def test_an_idle_worker_takes_a_job_at_once(self):
        scheduler = serving(batch_size=8)
        job = Job("a")
        assert only(scheduler.submit([job], 1), Dispatch).jobs == (job,)

    def test_what_queued_up_while_it_computed_becomes_one_batch(self):
        scheduler = serving(batch_size=3)
        jobs = [Job(name) for name in "abc"]
        first = only([item for job in jobs for item in scheduler.submit([job], 1)], Dispatch)
        assert first.jobs == (jobs[0],)
        out = scheduler.batch_done(1, first.batch, ["A"], 2)
        assert outcome_of(out, jobs[0]) == "A"
        assert only(out, Dispatch).jobs == (jobs[1], jobs[2])

    def test_what_comes_at_the_same_instant_goes_out_together(self):
        scheduler = serving(batch_size=3)
        jobs = [Job(name) for name in "ab"]
        assert only(scheduler.submit(jobs, 1), Dispatch).jobs == tuple(jobs)

    def test_requests_count_by_their_rows(self):
        scheduler = serving(batch_size=4)
        jobs = [Job("a", rows=3), Job("b", rows=2), Job("c", rows=2), Job("d", rows=9)]
        sent = only(scheduler.submit(jobs[:3], 1), Dispatch)
        assert sent.jobs == (jobs[0],)
        sent = only(scheduler.batch_done(1, sent.batch, ["A"], 2), Dispatch)
        assert sent.jobs == (jobs[1], jobs[2])
        scheduler.submit([jobs[3]], 2)
        assert only(scheduler.batch_done(1, sent.batch, ["B", "C"], 3), Dispatch).jobs == (jobs[3],)

    def test_the_next_batch_goes_out_before_the_answers_are_written(self):
        scheduler = serving(batch_size=2)
        first = only(scheduler.submit([Job("a")], 1), Dispatch)
        scheduler.submit([Job("b")], 1)
        assert kinds(scheduler.batch_done(1, first.batch, ["A"], 2)) == [Dispatch, Answer]

    def test_a_full_batch_goes_ahead_to_the_busy_worker(self):
        scheduler = quick(batch_size=2)
        jobs = [Job(name) for name in "abcdef"]
        first, ahead = (item for item in scheduler.submit(jobs, 1) if isinstance(item, Dispatch))
        assert (first.jobs, ahead.jobs) == ((jobs[0], jobs[1]), (jobs[2], jobs[3]))
        assert scheduler.queue_length == 4
        out = scheduler.batch_done(1, first.batch, ["A", "B"], 1.001)
        assert only(out, Dispatch).jobs == (jobs[4], jobs[5])
        assert scheduler.batch_done(1, first.batch, ["A", "B"], 1.001) == []
        assert [item.outcome for item in scheduler.batch_done(1, ahead.batch, ["C", "D"], 1.002)] == ["C", "D"]

    def test_a_batch_that_is_not_full_waits_for_company_instead(self):
        scheduler = quick(batch_size=2)
        assert len(only(scheduler.submit([Job(name) for name in "abc"], 1), Dispatch).jobs) == 2

    def test_batches_go_ahead_only_while_they_are_quick(self):
        scheduler = serving()
        assert len(scheduler.submit([Job("a"), Job("b")], 0)) == 1
        now = 0.0
        for _ in range(100):
            now += QUICK_S / 10
            (worker,) = scheduler.workers
            scheduler.submit([Job("x"), Job("y")], now)
            scheduler.batch_done(1, next(iter(worker.running)), ["x"], now)
        assert next(iter(scheduler.workers)).ahead is not None

    def test_calls_of_functions_share_a_batch_only_while_they_are_quick(self):
        jobs = [Job(name) for name in "abc"]
        slow = serving(batch_size=8, join_quick=True)
        assert only(slow.submit(jobs, 1), Dispatch).jobs == (jobs[0],)
        swift = quick(batch_size=8, join_quick=True)
        assert only(swift.submit(jobs, 1), Dispatch).jobs == tuple(jobs)

    def test_idle_workers_share_many_calls_of_functions_and_one_takes_few(self):
        swift = quick(batch_size=32, join_quick=True)
        swift.scale(2, 2, 1)
        swift.worker_ready(2, 1)
        few, many = [Job(n) for n in range(7)], [Job(n) for n in range(20)]
        sent = only(swift.submit(few, 2), Dispatch)
        assert sent.jobs == tuple(few)
        swift.batch_done(sent.worker, sent.batch, few, 2)
        assert [len(item.jobs) for item in swift.submit(many, 3)] == [10, 10]

    def test_a_batch_sent_ahead_is_not_held_against_its_jobs_when_the_worker_dies(self):
        scheduler = quick()
        computing, ahead = Job("a"), Job("b")
        scheduler.submit([computing, ahead], 1)
        scheduler.worker_died(1, "gone", 2)
        assert (computing.deaths, ahead.deaths) == (1, 0)
        sent = only(scheduler.worker_ready(2, 3), Dispatch)
        assert sent.jobs == (computing,)
        assert only(scheduler.batch_done(2, sent.batch, ["A"], 4), Dispatch).jobs == (ahead,)

    def test_lower_priority_goes_first_and_nobody_starves(self):
        scheduler = serving(batch_size=4)
        sent = only(scheduler.submit([Job("busy")], 0), Dispatch)
        patient, usual, urgent = Job("patient", priority=9), Job("usual"), Job("urgent", priority=0)
        scheduler.submit([patient], 1)
        scheduler.submit([usual, urgent], 2)
        out = scheduler.batch_done(1, sent.batch, ["x"], 3)
        assert only(out, Dispatch).jobs == (urgent, usual, patient)
        sent = only(out, Dispatch)
        late, old = Job("late", priority=0), Job("old", priority=9)
        scheduler.submit([old], 3)
        scheduler.submit([late], 3 + 9 * PRIORITY_STEP_S + 0.1)
        assert only(scheduler.batch_done(1, sent.batch, ["x"] * 3, 20), Dispatch).jobs == (old, late)

    def test_all_devices_are_fed_from_the_one_queue(self):
        scheduler = serving(devices=(CPU, GPU))
        sent = [only(scheduler.submit([Job(name)], 1), Dispatch).worker for name in "ab"]
        assert sorted(sent) == [1, 2]

    def test_results_of_another_batch_or_worker_are_ignored(self):
        scheduler = serving()
        sent = only(scheduler.submit([Job("a")], 1), Dispatch)
        assert scheduler.batch_done(1, sent.batch + 1, ["A"], 2) == []
        assert scheduler.batch_done(9, sent.batch, ["A"], 2) == []

    def test_a_worker_that_answers_too_few_is_killed(self):
        scheduler = serving(batch_size=2)
        sent = only(scheduler.submit([Job("a")], 1), Dispatch)
        assert kinds(scheduler.batch_done(1, sent.batch, [], 2)) == [Kill]


class TestConcurrency:
    """Several batches in one worker, each answered when it is done."""

    def sent(self, scheduler, *names, now=1, **job):
        jobs = [Job(name, **job) for name in names]
        return jobs, [item for item in scheduler.submit(jobs, now) if isinstance(item, Dispatch)]

    def test_a_slow_one_does_not_hold_the_others(self):
        scheduler = serving(concurrency=3)
        (slow, *_), sent = self.sent(scheduler, "slow", "a", "b", "c")
        assert [dispatch.worker for dispatch in sent] == [1, 1, 1]
        assert [job.item for dispatch in sent for job in dispatch.jobs] == ["slow", "a", "b"]
        out = scheduler.batch_done(1, sent[1].batch, ["A"], 2)
        assert [job.item for job in only(out, Dispatch).jobs] == ["c"]
        assert only(out, Answer).outcome == "A"
        assert outcome_of(scheduler.batch_done(1, sent[2].batch, ["B"], 2), sent[2].jobs[0]) == "B"
        assert outcome_of(scheduler.batch_done(1, sent[0].batch, ["S"], 9), slow) == "S"

    def test_the_least_busy_worker_is_next(self):
        scheduler = serving(2, concurrency=2)
        _, sent = self.sent(scheduler, *"abcde")
        assert sorted(dispatch.worker for dispatch in sent[:2]) == [1, 2]
        assert sorted(dispatch.worker for dispatch in sent[2:]) == [1, 2]
        assert scheduler.queue_length == 1

    def test_a_worker_that_has_something_to_do_is_not_idle(self):
        scheduler = serving(0, 1, concurrency=2, idle_s=5)
        jobs = [Job("a"), Job("b")]
        worker = only(scheduler.submit(jobs, 0), Spawn).worker
        sent = [item for item in scheduler.worker_ready(worker, 1) if isinstance(item, Dispatch)]
        scheduler.batch_done(worker, sent[0].batch, ["A"], 2)
        assert scheduler.tick(10) == []
        scheduler.batch_done(worker, sent[1].batch, ["B"], 11)
        assert scheduler.tick(16) == [Retire(worker)]

    def test_each_is_tried_once_more_alone_when_their_worker_dies(self):
        scheduler = serving(concurrency=3)
        (done, first, second), sent = self.sent(scheduler, "done", "first", "second")
        scheduler.batch_done(1, sent[0].batch, ["D"], 2)
        spawned = only(scheduler.worker_died(1, "killed", 3), Spawn).worker
        later = Job("later")
        scheduler.submit([later], 3)
        again = only(scheduler.worker_ready(spawned, 4), Dispatch)
        assert again.jobs == (first,)
        out = scheduler.batch_done(spawned, again.batch, ["F"], 5)
        alone = only(out, Dispatch)
        assert alone.jobs == (second,)
        out = scheduler.worker_died(spawned, "killed", 6)
        assert isinstance(outcome_of(out, second), WorkerDiedError)
        scheduler.tick(7.5)
        assert only(scheduler.worker_ready(3, 8), Dispatch).jobs == (later,)
        assert done.answered

    def test_one_that_has_cost_a_worker_waits_for_one_with_nothing_to_do(self):
        scheduler = serving(2, concurrency=2)
        _, sent = self.sent(scheduler, "a", "b")
        scheduler.worker_died(sent[0].worker, "killed", 2)
        other = sent[1]
        assert scheduler.queue_length == 1
        new = Job("new")
        assert Dispatch not in kinds(scheduler.submit([new], 2))
        out = scheduler.batch_done(other.worker, other.batch, ["B"], 3)
        assert only(out, Dispatch).jobs == sent[0].jobs

    def test_who_is_cancelled_or_late_is_abandoned(self):
        scheduler = serving(concurrency=3)
        (cancelled, late, queued), sent = self.sent(scheduler, "cancelled", "late", "x", now=0)
        late.deadline = 5
        out = scheduler.cancel(cancelled, 1)
        assert only(out, Abandon) == Abandon(1, sent[0].batch, 0)
        out = scheduler.tick(5)
        assert only(out, Abandon) == Abandon(1, sent[1].batch, 0)
        assert isinstance(outcome_of(out, late), DeadlineError)
        assert scheduler.batch_done(1, sent[0].batch, ["C"], 6) == []
        assert Abandon not in kinds(serving(concurrency=3).cancel(queued, 1))

    def test_one_that_takes_too_long_is_abandoned_before_its_worker_is_killed(self):
        scheduler = serving(concurrency=3, timeout_s=10, timeout_error="too long")
        (slow,), (first,) = self.sent(scheduler, "slow", now=0)
        (mate, stream), (second, third) = self.sent(scheduler, "mate", "stream", now=6)
        out = scheduler.tick(10)
        assert str(outcome_of(out, slow)) == "too long"
        assert [item for item in out if not isinstance(item, Answer)] == [Abandon(1, first.batch, 0)]
        assert scheduler.chunk(1, first.batch, 0, 10) is None
        scheduler.chunk(1, third.batch, 0, 10)
        out = scheduler.tick(10 + ABANDONED_S)
        assert kinds(out) == [Kill]
        out = scheduler.worker_died(1, "killed", 15)
        assert mate.deaths == 0
        assert isinstance(outcome_of(out, stream), WorkerDiedError)
        assert second.jobs == (mate,)

    def test_one_that_lets_go_in_time_costs_no_worker(self):
        scheduler = serving(concurrency=2, timeout_s=10, timeout_error="too long")
        _, (sent,) = self.sent(scheduler, "slow", now=0)
        scheduler.tick(10)
        scheduler.batch_done(1, sent.batch, ["cancelled"], 10.1)
        assert Kill not in kinds(scheduler.tick(30))

    def test_a_call_for_every_worker_waits_until_it_has_nothing_else_to_do(self):
        scheduler = serving(concurrency=2)
        _, sent = self.sent(scheduler, "a")
        assert scheduler.spread("k", "order", None, 1) == []
        (waiting,), none = self.sent(scheduler, "b", now=1)
        assert none == []
        order = only(scheduler.batch_done(1, sent[0].batch, ["A"], 2), Configure)
        assert only(scheduler.configured(1, order.batch, 3), Dispatch).jobs == (waiting,)

    def test_a_worker_that_leaves_takes_nothing_more(self):
        scheduler = serving(2, concurrency=2)
        _, sent = self.sent(scheduler, "a", "b")
        scheduler.scale(1, 1, 1)
        (leaving,) = [worker.id for worker in scheduler.workers if worker.retiring]
        _, further = self.sent(scheduler, "c", "d", now=2)
        assert [dispatch.worker for dispatch in further] == [3 - leaving]
        batch = next(dispatch.batch for dispatch in sent if dispatch.worker == leaving)
        assert Retire(leaving) in scheduler.batch_done(leaving, batch, ["x"], 3)


class TestFill:
    def test_waits_for_a_full_batch(self):
        scheduler = serving(batch_size=2, fill=True, batch_delay_s=0.1)
        first, second = Job("a"), Job("b")
        assert scheduler.submit([first], 1) == []
        assert scheduler.wake_at == pytest.approx(1.1)
        assert only(scheduler.submit([second], 1.05), Dispatch).jobs == (first, second)

    def test_waits_no_longer_than_the_delay(self):
        scheduler = serving(batch_size=2, fill=True, batch_delay_s=0.1)
        job = Job("a")
        scheduler.submit([job], 1)
        assert scheduler.tick(1.05) == []
        assert only(scheduler.tick(1.1), Dispatch).jobs == (job,)

    def test_a_queue_that_can_never_hold_a_full_batch_is_sent_when_it_is_full(self):
        scheduler = serving(batch_size=8, fill=True, batch_delay_s=10, queue_size=2)
        assert scheduler.submit([Job("a")], 1) == []
        assert len(only(scheduler.submit([Job("b")], 1), Dispatch).jobs) == 2


class TestQueue:
    def test_is_bounded(self):
        scheduler = serving(queue_size=2, batch_size=2)
        for name in "abc":
            scheduler.submit([Job(name)], 1)
        refused = Job("d")
        error = outcome_of(scheduler.submit([refused], 1), refused)
        assert isinstance(error, QueueFullError)
        assert error.message == "Worker queue capacity exceeded for model: m"

    def test_a_cancelled_job_is_never_dispatched_and_frees_its_place(self):
        scheduler = serving(queue_size=1, batch_size=2)
        sent = only(scheduler.submit([Job("a")], 1), Dispatch)
        gone, next_one = Job("b"), Job("c")
        scheduler.submit([gone], 1)
        scheduler.cancel(gone, 1)
        assert scheduler.submit([next_one], 1) == []
        assert only(scheduler.batch_done(1, sent.batch, ["A"], 2), Dispatch).jobs == (next_one,)

    def test_cancelling_one_in_computation_leaves_its_mates_alone(self):
        scheduler = serving(batch_size=2)
        gone, mate = Job("a"), Job("b")
        sent = only(scheduler.submit([gone, mate], 1), Dispatch)
        assert kinds(scheduler.cancel(gone, 1)) == [Answer]
        out = scheduler.batch_done(1, sent.batch, ["A", "B"], 2)
        assert [(item.job, item.outcome) for item in out] == [(mate, "B")]

    def test_cancelled_jobs_do_not_pile_up_behind_a_busy_worker(self):
        scheduler = serving()
        scheduler.submit([Job("busy")], 1)
        for _ in range(10 * SWEEP_AT):
            job = Job("gone")
            scheduler.submit([job], 1)
            scheduler.cancel(job, 1)
        assert len(scheduler._queue) <= SWEEP_AT + 1


class TestDeadline:
    def test_a_job_past_its_deadline_is_answered_and_never_dispatched(self):
        scheduler = serving(batch_size=2)
        sent = only(scheduler.submit([Job("a")], 1), Dispatch)
        late = Job("b", deadline=1.5)
        scheduler.submit([late], 1)
        assert scheduler.wake_at == pytest.approx(1.5)
        assert isinstance(outcome_of(scheduler.tick(1.5), late), DeadlineError)
        assert Dispatch not in kinds(scheduler.batch_done(1, sent.batch, ["A"], 2))

    def test_one_in_computation_is_answered_at_its_deadline_and_its_result_dropped(self):
        scheduler = serving()
        job = Job("a", deadline=2)
        sent = only(scheduler.submit([job], 1), Dispatch)
        assert isinstance(outcome_of(scheduler.tick(2), job), DeadlineError)
        assert scheduler.batch_done(1, sent.batch, ["A"], 3) == []

    def test_a_deadline_that_nobody_ticked_for_still_keeps_a_job_from_being_dispatched(self):
        scheduler = serving(batch_size=2)
        sent = only(scheduler.submit([Job("a")], 1), Dispatch)
        late = Job("b", deadline=1.5)
        scheduler.submit([late], 1)
        out = scheduler.batch_done(1, sent.batch, ["A"], 9)
        assert isinstance(outcome_of(out, late), DeadlineError)
        assert Dispatch not in kinds(out)

    def test_a_worker_that_computes_for_longer_than_the_timeout_is_killed_once(self):
        scheduler = serving(timeout_s=10)
        scheduler.submit([Job("a", deadline=5)], 1)
        assert Kill not in kinds(scheduler.tick(10.9))
        assert only(scheduler.tick(11), Kill).worker == 1
        assert scheduler.tick(12) == []


class TestDeath:
    def test_a_dead_workers_jobs_are_tried_once_more_each_alone(self):
        scheduler = serving(batch_size=4)
        sent = only(scheduler.submit([Job("x")], 1), Dispatch)
        pair = [Job("a"), Job("b")]
        for job in pair:
            scheduler.submit([job], 1)
        scheduler.batch_done(1, sent.batch, ["X"], 1)
        out = scheduler.worker_died(1, "killed by SIGKILL", 2)
        assert out == [Spawn(2, CPU)]
        first = only(scheduler.worker_ready(2, 3), Dispatch)
        assert first.jobs == (pair[0],)
        out = scheduler.batch_done(2, first.batch, ["A"], 4)
        assert outcome_of(out, pair[0]) == "A"
        assert only(out, Dispatch).jobs == (pair[1],)

    def test_a_request_that_kills_two_workers_is_answered(self):
        scheduler = serving()
        poison = Job("poison")
        scheduler.submit([poison], 1)
        scheduler.worker_died(1, "killed by SIGKILL", 2)
        scheduler.worker_ready(2, 3)
        error = outcome_of(scheduler.worker_died(2, "killed by SIGKILL", 4), poison)
        assert isinstance(error, WorkerDiedError)

    def test_a_job_that_was_retried_goes_first(self):
        scheduler = serving(batch_size=2)
        first, second = Job("a"), Job("b")
        scheduler.submit([first], 1)
        scheduler.submit([second], 1)
        scheduler.worker_died(1, "gone", 2)
        assert only(scheduler.worker_ready(2, 3), Dispatch).jobs == (first,)

    def test_restarts_back_off(self):
        scheduler = serving()
        now, worker, waits = 0.0, 1, []
        for _ in range(4):
            out = scheduler.worker_died(worker, "gone", now)
            died_at = now
            while not any(isinstance(item, Spawn) for item in out):
                now = scheduler.wake_at
                out = scheduler.tick(now)
            waits.append(now - died_at)
            worker = only(out, Spawn).worker
        assert waits == pytest.approx(BACKOFF_S[:4])

    def test_a_computed_batch_ends_the_back_off(self):
        scheduler = serving()
        scheduler.worker_died(1, "gone", 1)
        scheduler.worker_ready(2, 2)
        sent = only(scheduler.submit([Job("a")], 2), Dispatch)
        scheduler.batch_done(2, sent.batch, ["A"], 3)
        assert kinds(scheduler.worker_died(2, "gone", 4)) == [Spawn]

    def test_a_batch_of_a_worker_that_was_there_before_does_not_end_the_back_off_of_one_that_cannot_start(self):
        scheduler = serving(1, 2)
        scheduler.scale(2, 2, 1)
        now, worker, waits = 1.0, 2, []
        for _ in range(CRASH_LOOP + 1):
            out = scheduler.worker_failed(worker, InvalidModelError("no memory"), now)
            failed_at = now
            sent = only(scheduler.submit([Job("a", now + 100)], now), Dispatch)
            scheduler.batch_done(1, sent.batch, ["A"], now)
            while not any(isinstance(item, Spawn) for item in out):
                now = scheduler.wake_at
                out = scheduler.tick(now)
            waits.append(now - failed_at)
            worker = only(out, Spawn).worker
        assert waits == pytest.approx(BACKOFF_S[: CRASH_LOOP + 1])
        assert scheduler.start_failing
        assert kinds(scheduler.submit([Job("served")], now)) == [Dispatch]

    def test_a_settled_worker_ends_the_back_off_too(self):
        scheduler = serving()
        scheduler.worker_died(1, "gone", 1)
        scheduler.worker_ready(2, 2)
        assert kinds(scheduler.worker_died(2, "gone", 3 + SETTLED_S)) == [Spawn]

    def test_a_crash_loop_answers_the_queue_and_refuses_until_a_worker_is_back(self):
        scheduler = serving()
        now, worker, waiting = 1.0, 1, Job("waiting", deadline=1e9)
        out = scheduler.worker_died(worker, "gone", now)
        out += scheduler.submit([waiting], now)
        for _ in range(CRASH_LOOP - 1):
            while not any(isinstance(item, Spawn) for item in out):
                now = scheduler.wake_at
                out = scheduler.tick(now)
            worker = only(out, Spawn).worker
            out = scheduler.worker_failed(worker, InvalidModelError("broken"), now)
        assert isinstance(outcome_of(out, waiting), NotReadyError)
        refused = Job("refused")
        assert isinstance(outcome_of(scheduler.submit([refused], now), refused), NotReadyError)
        while not any(isinstance(item, Spawn) for item in out):
            now = scheduler.wake_at
            out = scheduler.tick(now)
        scheduler.worker_ready(only(out, Spawn).worker, now)
        assert kinds(scheduler.submit([Job("welcome")], now)) == [Dispatch]


class TestScale:
    def test_a_queue_that_waits_gets_another_worker_one_at_a_time(self):
        scheduler = serving(1, 3)
        for name in "abc":
            scheduler.submit([Job(name)], 1)
        assert Spawn not in kinds(scheduler.tick(1 + SCALE_UP_AFTER_S / 2))
        assert kinds(scheduler.tick(1 + SCALE_UP_AFTER_S)) == [Spawn]
        assert scheduler.tick(1 + 2 * SCALE_UP_AFTER_S) == []

    def test_a_surplus_worker_is_retired_after_being_idle(self):
        scheduler = serving(1, 2, idle_s=10, batch_size=2)
        for name in "ab":
            scheduler.submit([Job(name)], 1)
        spawn = only(scheduler.tick(2), Spawn)
        scheduler.worker_ready(spawn.worker, 3)
        for worker in list(scheduler.workers):
            scheduler.batch_done(worker.id, next(iter(worker.running)), ["done"], 4)
        assert scheduler.wake_at <= 14
        assert kinds(scheduler.tick(14)) == [Retire]
        assert scheduler.tick(100) == []

    def test_from_zero_the_first_request_starts_a_worker_and_waits_for_it(self):
        scheduler = serving(0, 1)
        job = Job("a")
        spawn = only(scheduler.submit([job], 1), Spawn)
        assert only(scheduler.worker_ready(spawn.worker, 2), Dispatch).jobs == (job,)

    def test_a_maximum_of_zero_means_off(self):
        scheduler = serving()
        assert scheduler.scale(0, 0, 1) == [Retire(1)]
        job = Job("a")
        error = outcome_of(scheduler.submit([job], 1), job)
        assert isinstance(error, ShutDownError)
        assert error.message == "All model workers has been shutdown: m"

    def test_scaling_down_lets_a_busy_worker_finish(self):
        scheduler = serving(2)
        sent = [only(scheduler.submit([Job(name)], 1), Dispatch) for name in "ab"]
        assert scheduler.scale(1, 1, 2) == []
        done = [scheduler.batch_done(item.worker, item.batch, ["x"], 3) for item in sent]
        assert sorted(kind.__name__ for out in done for kind in kinds(out)) == ["Answer", "Answer", "Retire"]

    def test_what_waits_when_everything_is_switched_off_is_answered(self):
        scheduler = serving(batch_size=2)
        sent = only(scheduler.submit([Job("a")], 1), Dispatch)
        waiting = Job("b")
        scheduler.submit([waiting], 1)
        scheduler.scale(0, 0, 2)
        out = scheduler.batch_done(1, sent.batch, ["A"], 3)
        assert isinstance(outcome_of(out, waiting), ShutDownError)

    def test_a_new_device_gets_a_group_of_its_own(self):
        scheduler = serving()
        assert scheduler.scale(1, 1, 1, GPU) == [Spawn(2, GPU)]
        assert set(scheduler.groups) == {CPU, GPU}


class TestDrain:
    def test_finishes_what_was_accepted_then_closes(self):
        scheduler = serving(batch_size=2)
        sent = only(scheduler.submit([Job("a")], 1), Dispatch)
        waiting, late = Job("b"), Job("c")
        scheduler.submit([waiting], 1)
        assert scheduler.drain(10, 2) == []
        assert isinstance(outcome_of(scheduler.submit([late], 3), late), ShutDownError)
        sent = only(scheduler.batch_done(1, sent.batch, ["A"], 3), Dispatch)
        out = scheduler.batch_done(1, sent.batch, ["B"], 4)
        assert outcome_of(out, waiting) == "B"
        assert kinds(out) == [Retire, Closed, Answer]

    def test_an_idle_model_closes_at_once(self):
        assert serving().drain(10, 1) == [Retire(1), Closed()]

    def test_what_is_left_at_the_end_of_the_time_is_answered_and_the_worker_killed(self):
        scheduler = serving(batch_size=2)
        stuck, waiting = Job("a"), Job("b")
        scheduler.submit([stuck], 1)
        scheduler.submit([waiting], 1)
        scheduler.drain(10, 2)
        assert scheduler.wake_at <= 10
        out = scheduler.tick(10)
        assert isinstance(outcome_of(out, stuck), ShutDownError)
        assert isinstance(outcome_of(out, waiting), ShutDownError)
        assert [type(item) for item in out if not isinstance(item, Answer)] == [Kill, Closed]

    def test_closing_twice_does_nothing(self):
        scheduler = serving()
        scheduler.drain(10, 1)
        assert scheduler.drain(10, 2) == []


class TestWhatIsMeasured:
    def test_the_jobs_of_a_batch_are_known_while_it_is_computed(self):
        scheduler, (one, two) = serving(batch_size=2), (Job("a"), Job("b"))
        dispatch = only(scheduler.submit([one, two], 1), Dispatch)
        assert scheduler.computing(dispatch.worker, dispatch.batch) == (one, two)
        assert scheduler.computing(dispatch.worker, dispatch.batch + 1) == ()
        assert scheduler.computing(99, dispatch.batch) == ()
        scheduler.batch_done(dispatch.worker, dispatch.batch, ["x", "y"], 2)
        assert scheduler.computing(dispatch.worker, dispatch.batch) == ()

    def test_workers_that_are_lost_are_counted_and_the_count_stays(self):
        scheduler = serving()
        group = scheduler.groups[CPU]
        spawned = only(scheduler.worker_died(1, "killed by SIGKILL", 1), Spawn).worker
        assert group.lost == 1
        scheduler.worker_ready(spawned, 2)
        dispatch = only(scheduler.submit([Job("a")], 3), Dispatch)
        scheduler.batch_done(spawned, dispatch.batch, ["x"], 4)
        assert (group.failures, group.lost) == (0, 1)

    def test_workers_that_were_asked_to_end_are_not(self):
        scheduler = serving(2)
        retired = only(scheduler.scale(1, 1, 1), Retire)
        scheduler.worker_died(retired.worker, "exit status 0", 2)
        assert scheduler.groups[CPU].lost == 0


class TestOrders:
    """Calls that every worker has to make."""

    def test_idle_workers_make_them_at_once_and_the_one_that_has_does_not(self):
        scheduler = serving(3)
        out = scheduler.spread("a", "register a", "register a", 1, done_by=2)
        assert [(item.worker, item.order) for item in out] == [(1, "register a"), (3, "register a")]
        job = Job("x")
        assert only(scheduler.submit([job], 1), Dispatch).worker == 2

    def test_a_busy_worker_makes_them_after_its_batch_and_before_the_next_one(self):
        scheduler = serving(1)
        first, second = Job("x"), Job("y")
        sent = only(scheduler.submit([first], 0), Dispatch)
        scheduler.submit([second], 0)
        assert scheduler.spread("a", "order", "standing", 1) == []
        out = scheduler.batch_done(1, sent.batch, ["done"], 2)
        made = only(out, Configure)
        assert kinds(out) == [Configure, Answer]
        assert only(scheduler.configured(1, made.batch, 3), Dispatch).jobs == (second,)

    def test_nothing_is_sent_ahead_to_a_worker_that_has_to_make_one(self):
        scheduler = quick(1)
        scheduler.submit([Job("x")], 0)
        scheduler.spread("a", "order", "standing", 0)
        assert scheduler.submit([Job("y")], 0) == []

    def test_a_worker_that_starts_makes_the_standing_ones_in_order_before_it_counts_as_ready(self):
        scheduler = make(1, 1)
        scheduler.spread("a", "-", "a1", 0)
        scheduler.spread("b", "-", "b1", 0)
        scheduler.spread("a", "-", "a2", 0)
        scheduler.spread("c", "-", "c1", 0)
        scheduler.spread("c", "-", None, 0)
        scheduler.start(0)
        made = only(scheduler.worker_ready(1, 1), Configure)
        assert made.order == "b1"
        # One that comes meanwhile is made too.
        assert scheduler.spread("d", "d now", "d1", 1) == []
        made = only(scheduler.configured(1, made.batch, 2), Configure)
        assert made.order == "a2"
        made = only(scheduler.configured(1, made.batch, 3), Configure)
        assert made.order == "d now"
        assert scheduler.configured(1, made.batch, 4) == [Started()]

    def test_a_worker_that_refuses_one_while_it_starts_cannot_start(self):
        scheduler = make(1, 1)
        scheduler.spread("a", "-", "a1", 0)
        scheduler.start(0)
        made = only(scheduler.worker_ready(1, 1), Configure)
        error = InvalidModelError("no")
        out = scheduler.configuring_failed(1, made.batch, error, 2)
        assert kinds(out) == [Kill, StartFailed]
        assert only(out, StartFailed).error is error

    def test_a_worker_that_refuses_one_later_is_replaced(self):
        scheduler = serving(2)
        made = scheduler.spread("a", "order", "standing", 1, done_by=1)[0]
        assert kinds(scheduler.configuring_failed(2, made.batch, InvalidModelError("no"), 2)) == [Kill]
        assert only(scheduler.worker_died(2, "killed", 3), Spawn).device == CPU
        assert only(scheduler.worker_ready(3, 4), Configure).order == "standing"

    def test_a_worker_that_hangs_in_one_is_killed(self):
        scheduler = serving(1, timeout_s=5)
        scheduler.spread("a", "order", "standing", 0)
        assert scheduler.wake_at <= 5
        assert kinds(scheduler.tick(5)) == [Kill]

    def test_one_that_is_scaled_away_meanwhile_goes_when_it_has_made_it(self):
        scheduler = serving(1)
        made = only(scheduler.spread("a", "order", "standing", 0), Configure)
        assert scheduler.scale(0, 0, 1) == []
        assert scheduler.configured(1, made.batch, 2) == [Retire(1)]

    def test_answers_to_one_that_is_over_are_ignored(self):
        scheduler = serving(1)
        made = only(scheduler.spread("a", "order", "standing", 0), Configure)
        scheduler.configured(1, made.batch, 1)
        assert scheduler.configured(1, made.batch, 2) == []
        assert scheduler.configuring_failed(1, made.batch, InvalidModelError("no"), 2) == []

    def test_a_job_knows_the_worker_that_computed_it(self):
        scheduler = serving(1)
        job = Job("x")
        scheduler.submit([job], 0)
        assert job.worker == 1
