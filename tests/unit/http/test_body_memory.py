"""How much memory bodies may take that have not come whole."""

from __future__ import annotations

import asyncio

import pytest

from flowyard.platform.http import bodies
from flowyard.platform.http.bodies import ClientGoneError, read_body
from flowyard.schemas.errors import TooLargeError, UnavailableError

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


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bodies, "MAX_COLLECTED_BYTES", 4000)


async def begun(*pieces):
    client = Client(*pieces)
    task = asyncio.ensure_future(read_body(client.receive, LIMIT))
    for _ in range(len(pieces) + 2):
        await asyncio.sleep(0)
    return client, task


def test_bodies_that_never_end_do_not_fill_memory():
    async def main():
        held = [await begun(b"a" * 900) for _ in range(4)]
        _, refused = await begun(b"a" * 900)
        with pytest.raises(UnavailableError, match="bodies that have not come whole"):
            await asyncio.wait_for(refused, 20)
        # Who is refused takes nothing from the others, and what has come whole makes room.
        held[0][0].go.set()
        assert await held[0][1] == b"a" * 900 + b"end"
        client, task = await begun(b"b" * 900)
        client.go.set()
        assert await task == b"b" * 900 + b"end"
        for _, waiting in held[1:]:
            waiting.cancel()
        await asyncio.gather(*(waiting for _, waiting in held), return_exceptions=True)

    asyncio.run(main())
    assert bodies.collected.size_bytes == 0


def test_every_end_makes_room():
    async def gone():
        return {"type": "http.disconnect"}

    async def main():
        _, large = await begun(b"a" * (LIMIT + 1))
        with pytest.raises(TooLargeError):
            await large
        with pytest.raises(ClientGoneError):
            await read_body(gone, LIMIT)
        _, left = await begun(b"a" * 10)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)

    asyncio.run(main())
    assert bodies.collected.size_bytes == 0


def test_a_few_bodies_of_any_allowed_size_have_room():
    async def main():
        client = Client(*[b"a" * 5000] * 2)
        client.go.set()
        assert len(await read_body(client.receive, 20_000)) == 10_003

    asyncio.run(main())


def test_a_body_in_one_piece_is_not_counted():
    async def receive():
        return {"type": "http.request", "body": b"a" * 900, "more_body": False}

    async def main():
        held = [await begun(b"a" * 900) for _ in range(4)]
        assert len(await read_body(receive, LIMIT)) == 900
        for _, waiting in held:
            waiting.cancel()
        await asyncio.gather(*(waiting for _, waiting in held), return_exceptions=True)

    asyncio.run(main())
