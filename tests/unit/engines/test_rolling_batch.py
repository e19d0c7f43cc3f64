"""Continuous batching: who is in which step, and what each gets, with steps that know nothing of handlers."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest

from flowyard.engines import messages
from flowyard.engines.torchserve import answers
from flowyard.engines.torchserve.answers import PendingAnswer
from flowyard.engines.torchserve.rolling import RollingBatch
from flowyard.schemas.errors import HandlerError, ShutDownError
from flowyard.schemas.messages import Message


def message(text, code=200):
    return Message(code, "", (("x", "y"),), ((None, text.encode()),))


class Steps:
    """Steps that end when they are let go, one by one; a request `name:count` has so many."""

    def __init__(self, most, *, hold=True):
        self.seen = queue.Queue()
        self.go = threading.Semaphore(0 if hold else 1000)
        self.most = most
        #: By the first name of a step: the sequences that are over with it.
        self.over = {}

    def __call__(self, members):
        names = [member.message.data.decode().partition(":")[0] for member in members]
        self.seen.put(names)
        assert self.go.acquire(timeout=20)
        if "bad" in names:
            raise ValueError("a defect")
        for name, member in zip(names, members, strict=True):
            count = int(member.message.data.decode().partition(":")[2])
            if member.steps + 1 < count:
                member.answer.add(message(f"{name}{member.steps}"))
            else:
                member.answer.end(message(f"{name}!"))
        return self.over.pop(names[0], ())

    async def next(self):
        return await asyncio.to_thread(self.seen.get, timeout=20)


def rolling(most=4, *, hold=True):
    """Runs a test with a batch, on a loop."""

    def decorate(test):
        def run():
            async def main():
                steps = Steps(most, hold=hold)
                batch = RollingBatch(asyncio.get_running_loop(), most, steps)
                try:
                    await asyncio.wait_for(test(batch, steps), 30)
                finally:
                    batch.close()

            asyncio.run(main())

        return run

    return decorate


async def take(answer):
    """All of an answer: its head's code, or the whole, and the pieces."""
    outcome = await answer
    return outcome.data.decode() if isinstance(outcome, Message) else [piece async for piece in outcome][1:]


def ask(batch, text, **said):
    return asyncio.create_task(take(batch.answer(message(text), **said)))


@rolling(hold=False)
async def test_one_step_is_a_whole_answer(batch, steps):
    assert await take(batch.answer(message("a:1"))) == "a!"


@rolling()
async def test_a_late_one_joins_and_each_leaves_when_it_has_ended(batch, steps):
    first = ask(batch, "a:3")
    assert await steps.next() == ["a"]
    late = ask(batch, "b:1")
    await asyncio.sleep(0)
    steps.go.release()
    assert await steps.next() == ["a", "b"]
    assert not late.done()
    steps.go.release()
    assert await steps.next() == ["a"]
    assert await late == "b!"
    assert not first.done()
    steps.go.release()
    assert await first == [b"a0", b"a1", b"a!"]


@rolling()
async def test_pieces_are_there_as_they_are_made(batch, steps):
    answer = asyncio.create_task(batch.answer(message("a:2")))
    assert await steps.next() == ["a"]
    steps.go.release()
    pieces = await answer
    assert [await anext(pieces), await anext(pieces)] == [Message(200, "", (("x", "y"),)), b"a0"]
    assert await steps.next() == ["a"]
    steps.go.release()
    assert [piece async for piece in pieces] == [b"a!"]


@rolling(most=2)
async def test_there_is_room_for_so_many_and_the_others_wait_in_order(batch, steps):
    asked = [ask(batch, f"{name}:1") for name in "abc"]
    assert await steps.next() == ["a", "b"]
    steps.go.release()
    assert await steps.next() == ["c"]
    steps.go.release()
    assert await asyncio.gather(*asked) == ["a!", "b!", "c!"]


@rolling()
async def test_one_that_is_to_be_alone_waits_for_all_and_all_wait_for_it(batch, steps):
    asked = [ask(batch, "a:1"), ask(batch, "b:1", is_alone=True), ask(batch, "c:1")]
    for names in (["a"], ["b"], ["c"]):
        assert await steps.next() == names
        steps.go.release()
    assert await asyncio.gather(*asked) == ["a!", "b!", "c!"]


@rolling()
async def test_of_a_sequence_one_joins_at_a_time_and_goes_on_beside_the_next(batch, steps):
    asked = [ask(batch, text, sequence=text[0]) for text in ("a1:3", "a2:1", "a3:1", "b1:1")]
    for names in (["a1", "b1"], ["a1", "a2"], ["a1", "a3"]):
        assert await steps.next() == names
        steps.go.release()
    assert await asyncio.gather(*asked) == [[b"a10", b"a11", b"a1!"], "a2!", "a3!", "b1!"]


@rolling()
async def test_those_that_wait_for_a_sequence_that_is_over_are_told_so(batch, steps):
    steps.over["a1"] = ("a", "none")
    asked = [ask(batch, text, sequence=text[0]) for text in ("a1:2", "b1:1", "b2:1")]
    assert await steps.next() == ["a1", "b1"]
    late = asyncio.create_task(batch.answer(message("a2:1"), sequence="a"))
    await asyncio.sleep(0)
    steps.go.release()
    assert await steps.next() == ["a1", "b2"]
    refused = await late
    assert isinstance(refused, ShutDownError)
    assert refused.message == 'Sequence "a" is closed: its handler has ended it'
    steps.go.release()
    assert await asyncio.gather(*asked) == [[b"a10", b"a1!"], "b1!", "b2!"]


@rolling()
async def test_who_is_cancelled_leaves_but_not_before_its_step_has_ended(batch, steps):
    kept, cancelled = ask(batch, "a:2"), ask(batch, "b:9")
    assert await steps.next() == ["a", "b"]
    cancelled.cancel()
    await asyncio.wait([cancelled], timeout=0.05)
    assert not cancelled.done()
    steps.go.release()
    assert await steps.next() == ["a"]
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    steps.go.release()
    assert await kept == [b"a0", b"a!"]


@rolling()
async def test_who_closes_its_pieces_leaves(batch, steps):
    answer = asyncio.create_task(batch.answer(message("b:9")))
    kept = ask(batch, "a:3")
    assert await steps.next() == ["b", "a"]
    steps.go.release()
    pieces = await answer
    await anext(pieces)
    assert await steps.next() == ["b", "a"]
    closed = asyncio.create_task(pieces.aclose())
    await asyncio.sleep(0)
    steps.go.release()
    assert await steps.next() == ["a"]
    await closed
    steps.go.release()
    assert await kept == [b"a0", b"a1", b"a!"]


@rolling(most=1)
async def test_who_is_cancelled_while_it_waits_is_in_no_step(batch, steps):
    first, waiting, last = ask(batch, "a:1"), ask(batch, "b:1"), ask(batch, "c:1")
    assert await steps.next() == ["a"]
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    steps.go.release()
    assert await steps.next() == ["c"]
    steps.go.release()
    assert [await first, await last] == ["a!", "c!"]


@rolling(hold=False)
async def test_a_defect_fails_those_of_the_step_and_the_next_is_computed(batch, steps):
    failed = await batch.answer(message("bad:1"))
    assert isinstance(failed, HandlerError)
    assert failed.message == "ValueError: a defect"
    assert await take(batch.answer(message("a:1"))) == "a!"


def test_a_client_that_does_not_read_loses_its_answer(monkeypatch):
    monkeypatch.setattr(answers, "MOST_AHEAD", 3)

    async def main():
        pending = PendingAnswer(asyncio.get_running_loop())
        for _ in range(5):
            pending.add(message("x"))
        assert pending.ended
        pieces = await pending.outcome()
        assert [await anext(pieces) for _ in range(3)][1:] == [b"x", b"x"]
        with pytest.raises(HandlerError, match="3 pieces wait"):
            await anext(pieces)

    asyncio.run(main())


def test_after_the_end_nothing_is_added():
    async def main():
        pending = PendingAnswer(asyncio.get_running_loop())
        pending.end(message("whole"))
        pending.add(message("late"))
        pending.end(HandlerError("late"))
        assert (await pending.outcome()).data == b"whole"

    asyncio.run(main())


def test_a_stream_may_fail_after_its_first_pieces():
    async def main():
        pending = PendingAnswer(asyncio.get_running_loop())
        pending.add(message("x", code=201))
        pending.end(HandlerError("no", status=503))
        pieces = await pending.outcome()
        assert (await anext(pieces)).code == 201
        assert await anext(pieces) == b"x"
        with pytest.raises(HandlerError, match="no"):
            await anext(pieces)

    asyncio.run(main())


@pytest.mark.parametrize("count", [3, 4])
def test_an_answer_that_is_wanted_whole_has_an_end(monkeypatch, count):
    monkeypatch.setattr(messages, "MOST_COLLECTED", 3)

    async def pieces():
        yield message("")
        for _ in range(count):
            yield b"x"

    if count == 3:
        assert asyncio.run(messages.collected(pieces())).data == b"xxx"
        return
    with pytest.raises(HandlerError, match="has over 3 pieces"):
        asyncio.run(messages.collected(pieces()))
