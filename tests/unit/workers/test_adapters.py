"""The adapters of a model: one worker is asked first, then all are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowyard.platform.workers import adapters as module
from flowyard.platform.workers.adapters import Adapters, refusal
from flowyard.platform.workers.jobs import Job
from flowyard.schemas.adapters import Adapter, AdapterSpec
from flowyard.schemas.errors import (
    AdapterConflictError,
    AdapterNotFoundError,
    AnsweredError,
    InvalidModelError,
    InvalidRequestError,
    NodeError,
    OutOfMemoryError,
    WorkerDiedError,
)
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload

A = Adapter(name="a", src="s", options={"rank": "8"})


class Workers:
    """Answers every call at once with what is to come next."""

    def __init__(self) -> None:
        self.outcome = Payload.of(Message(200, "done"))
        self.asked: list[Message] = []
        self.told: list[tuple[str, str, str | None, int]] = []

    def submit(self, task):
        self.asked.append(task.args[0].message())
        job = Job(task)
        job.worker = 7
        asyncio.get_running_loop().call_soon(task.on_done, self.outcome)
        return job

    def spread(self, key, order, standing, done_by):
        self.told.append((key, order.callee, standing and standing.callee, done_by))


def run(play, **options):
    """Plays with the adapters of some workers, which are returned."""

    async def playing():
        workers = Workers()
        await play(workers, Adapters("m", workers, **options))
        return workers

    return asyncio.run(playing())


def test_a_change_is_asked_of_one_worker_and_told_to_the_others():
    async def play(workers, adapters):
        assert await adapters.register(A) == "done"
        assert await adapters.update("a", lambda found: found) == "done"
        assert list(adapters) == [A]
        assert await adapters.unregister("a") == "done"
        assert list(adapters) == []

    workers = run(play)
    assert workers.told == [
        ("a", "register_adapter", "register_adapter", 7),
        ("a", "update_adapter", "register_adapter", 7),
        ("a", "unregister_adapter", None, 7),
    ]
    first, _, last = workers.asked
    assert (first.properties, first.contents) == ((("name", "a"), ("src", "s")), (("rank", b"8"),))
    assert (last.properties, last.contents) == ((("name", "a"),), ())


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Payload.of(Message(424, "no")), AnsweredError),
        (Payload.of(Message(300, "")), AnsweredError),
        (OutOfMemoryError("MemoryError"), OutOfMemoryError),
        (WorkerDiedError("gone"), WorkerDiedError),
    ],
)
def test_what_is_refused_changes_nothing(outcome, error):
    async def play(workers, adapters):
        await adapters.register(A)
        workers.outcome = outcome
        for change in (
            adapters.register(Adapter(name="b", src="s")),
            adapters.update("a", lambda _: A),
            adapters.unregister("a"),
        ):
            with pytest.raises(error):
                await change
        assert list(adapters) == [A]

    assert len(run(play).told) == 1


def test_names_that_are_taken_or_not_there_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(module, "MAX_ADAPTERS", 1)

    async def play(workers, adapters):
        await adapters.register(A)
        with pytest.raises(AdapterConflictError):
            await adapters.register(A)
        with pytest.raises(InvalidRequestError):
            await adapters.register(Adapter(name="b", src="s"))
        for change in (adapters.update("z", lambda found: found, "nick"), adapters.unregister("z", "nick")):
            with pytest.raises(AdapterNotFoundError, match="The adapter nick was not found"):
                await change

    assert len(run(play).asked) == 1


def test_changes_of_one_model_come_one_after_the_other():
    async def play(workers, adapters):
        both = await asyncio.gather(adapters.register(A), adapters.register(A), return_exceptions=True)
        assert both[0] == "done"
        assert isinstance(both[1], AdapterConflictError)

    assert len(run(play).asked) == 1


def test_a_change_that_could_not_be_recorded_is_taken_back():
    async def play(workers, adapters):
        await adapters.register(A)
        await adapters.register(Adapter(name="b", src="s"))
        before = adapters.known()
        await adapters.unregister("a")
        await adapters.update("b", lambda _: Adapter(name="b", src="other"))
        await adapters.register(Adapter(name="c", src="s"))
        del workers.told[:]
        adapters.restore(before)
        assert adapters.known() == before

    assert sorted(run(play).told) == [
        ("a", "register_adapter", "register_adapter", 0),
        ("b", "update_adapter", "register_adapter", 0),
        ("c", "unregister_adapter", None, 0),
    ]


def test_adapters_that_came_with_the_model_are_found_in_its_folder():
    async def play(workers, adapters):
        adapters.begin_with([Adapter(name="f", src="shown/f", within="adapters/f")], Path("/archive"))
        await adapters.update("f", lambda found: found)

    workers = run(play)
    assert workers.told[0] == ("f", "register_adapter", "register_adapter", 0)
    assert workers.asked[0].get("src") == "/archive/adapters/f"


def test_requests_for_adapters_that_are_not_there():
    def asked(*contents):
        return Payload.of(Message(contents=contents))

    async def play(workers, adapters):
        await adapters.register(A)
        adapters.check(asked(("adapter", b"a"), ("data", b"x")))
        adapters.check(asked(("data", b"x")))
        with pytest.raises(NodeError, match=r"^The adapter z has not been registered$"):
            adapters.check(asked(("adapter", b"z")))

    async def anything(workers, adapters):
        adapters.check(asked(("adapter", b"z")))

    run(play)
    run(anything, dynamic=True)


def test_why_a_worker_cannot_be_brought_to_where_the_others_are():
    async def play(workers, adapters):
        orders = []
        workers.spread = lambda key, order, standing, done_by: orders.append(order)
        await adapters.register(A)
        (order,) = orders
        assert refusal(order, [Payload.of(Message())]) is None
        error = refusal(order, [Payload.of(Message(424, "invoke handler failure"))])
        assert isinstance(error, InvalidModelError)
        assert str(error) == 'adapter "a": register_adapter: invoke handler failure'
        assert isinstance(refusal(order, [OutOfMemoryError("x")]), OutOfMemoryError)
        assert isinstance(refusal(order, []), InvalidModelError)

    run(play)


def spec(name, src="s", **options):
    return AdapterSpec(name=name, src=src, options=options)


def test_a_whole_set_takes_the_place_of_what_was_there():
    async def play(_, adapters):
        adapters.begin_with([Adapter(name="own", src="adapters/own", within="adapters/own"), A], Path("/model"))
        assert (
            await adapters.replace([spec("own"), spec("b", rank=8, pin=True), spec("a", rank=8)]) == "The model m has 3 adapters"
        )
        assert [adapter.name for adapter in adapters] == ["own", "a", "b"]
        assert (adapters.find("own").src, adapters.find("own").within) == ("s", "")
        assert adapters.find("b").options == {"name": "b", "src": "s", "rank": "8", "pin": "true"}
        assert await adapters.replace([]) == "The model m has 0 adapters"

    workers = run(play)
    told = [(key, callee) for key, callee, _, _ in workers.told[2:]]
    assert told == [
        ("own", "update_adapter"),
        ("b", "register_adapter"),
        ("own", "unregister_adapter"),
        ("a", "unregister_adapter"),
        ("b", "unregister_adapter"),
    ]


def test_what_changes_of_an_adapter_in_the_archive_is_still_found_there():
    async def play(workers, adapters):
        adapters.begin_with([Adapter(name="own", src="adapters/own", within="adapters/own")], Path("/model"))
        await adapters.replace([spec("own", "adapters/own", pin="true")])
        assert workers.asked[-1].get("src") == "/model/adapters/own"
        assert adapters.find("own").pin

    run(play)


def test_a_set_of_which_one_is_refused_changes_nothing():
    async def play(workers, adapters):
        adapters.begin_with([A], Path("/model"))
        before = adapters.known()
        submit = workers.submit

        def refusing(task):
            if task.callee == "register_adapter":
                workers.outcome = Payload.of(Message(400, "no room"))
            return submit(task)

        workers.submit = refusing
        with pytest.raises(AnsweredError, match='adapter "b": no room') as refused:
            await adapters.replace([spec("a", "other"), spec("b")])
        assert refused.value.answer.code == 400
        assert adapters.known() == before

    workers = run(play)
    assert [(key, callee) for key, callee, _, _ in workers.told[1:]] == [("a", "update_adapter"), ("a", "update_adapter")]


def test_a_set_may_be_too_large(monkeypatch):
    monkeypatch.setattr(module, "MAX_ADAPTERS", 1)

    async def play(_, adapters):
        with pytest.raises(InvalidRequestError, match="2 adapters are too many; a model has 1 at most"):
            await adapters.replace([spec("a"), spec("b")])

    assert run(play).asked == []
