"""How much memory bodies may take, all together."""

from __future__ import annotations

import asyncio

import pytest

from flowyard.platform.held import Held, held_of
from flowyard.platform.http.bodies import ClientGoneError, read_body, read_parameters
from flowyard.schemas.errors import MemoryFullError, TooLargeError

LIMIT = 1000


class Client:
    """Sends pieces of a body, and the rest when it is told to."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.go = asyncio.Event()

    async def receive(self):
        if self.pieces:
            return {"type": "http.request", "body": self.pieces.pop(0), "more_body": True}
        await self.go.wait()
        return {"type": "http.request", "body": b"end", "more_body": False}


async def begun(held, *pieces):
    client = Client(*pieces)
    task = asyncio.ensure_future(read_body(client.receive, LIMIT, held))
    for _ in range(len(pieces) + 2):
        await asyncio.sleep(0)
    return client, task


def test_bodies_that_never_end_do_not_fill_memory():
    async def main():
        held = Held(4000)
        several = [await begun(held, b"a" * 900) for _ in range(4)]
        _, refused = await begun(held, b"a" * 900)
        with pytest.raises(MemoryFullError, match=r"holds 3600 bytes .* may hold 4000 \(setting max_held_size_bytes\)"):
            await asyncio.wait_for(refused, 20)
        # Who is refused takes nothing from the others; what has come whole counts until it is given back.
        several[0][0].go.set()
        whole = await several[0][1]
        assert whole == b"a" * 900 + b"end"
        _, refused = await begun(held, b"b" * 900)
        with pytest.raises(MemoryFullError):
            await asyncio.wait_for(refused, 20)
        held.give_back(len(whole))
        client, task = await begun(held, b"b" * 900)
        client.go.set()
        held.give_back(len(await task))
        for _, waiting in several[1:]:
            waiting.cancel()
        await asyncio.gather(*(waiting for _, waiting in several), return_exceptions=True)
        assert held.size_bytes == 0

    asyncio.run(main())


def test_every_end_makes_room():
    async def gone():
        return {"type": "http.disconnect"}

    async def main():
        held = Held(4000)
        _, large = await begun(held, b"a" * 900, b"a" * 101)
        with pytest.raises(TooLargeError):
            await large
        with pytest.raises(ClientGoneError):
            await read_body(gone, LIMIT, held)
        _, left = await begun(held, b"a" * 10)
        assert held.size_bytes == 10
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert held.size_bytes == 0

    asyncio.run(main())


def test_a_body_in_one_piece_counts_as_any_other():
    async def receive():
        return {"type": "http.request", "body": b"a" * 900, "more_body": False}

    async def main():
        held = Held(2000)
        assert len(await read_body(receive, LIMIT, held)) == held.size_bytes == 900
        assert len(await read_parameters(receive, held)) == held.size_bytes == 900
        await read_body(receive, LIMIT, held)
        with pytest.raises(MemoryFullError):
            await read_body(receive, LIMIT, held)
        assert held.size_bytes == 1800

    asyncio.run(main())


@pytest.mark.parametrize("pieces", [(), (b"a" * 600, b"a" * 600)])
def test_a_body_that_never_has_room_is_too_large(pieces):
    async def receive():
        return {"type": "http.request", "body": b"a" * 1001, "more_body": False}

    async def main():
        held = Held(1000)
        with pytest.raises(TooLargeError, match=r"larger than 1000 bytes \(setting max_held_size_bytes\)"):
            await read_body(Client(*pieces).receive if pieces else receive, 5000, held)
        assert held.size_bytes == 0

    asyncio.run(main())


def test_what_is_here_already_counts_and_keeps_others_out():
    held = Held(10)
    held.take(10)
    with pytest.raises(MemoryFullError):
        held.check()
    held.keep(5)
    held.give_back(10)
    held.check()
    held.take(5)
    with pytest.raises(MemoryFullError):
        held.take(1)
    assert held.size_bytes == 10


@pytest.mark.parametrize(
    ("said", "there", "largest", "limit"),
    [(7, 4000, 500, 7), (None, 4000, 500, 1000), (None, 4000, 1500, 1500), (None, None, 500, 2 << 30)],
)
def test_without_a_setting_it_is_a_quarter_of_the_memory_or_the_largest_body(monkeypatch, said, there, largest, limit):
    monkeypatch.setattr("flowyard.platform.held.total_bytes", lambda: there)
    assert held_of(said, largest).limit_bytes == limit
