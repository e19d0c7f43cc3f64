"""Calls that are begun, and whose request does not come: they must not keep the places that there are for calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from flowyard.platform.held import Held
from flowyard.platform.http.torchserve.errors import InvalidKeyError
from flowyard.platform.rpc.calls import Call, Desk, Service, request_limit_s
from flowyard.platform.rpc.messages import INFERENCE, PredictionResponse, TorchServeHealthResponse

NAME = f"{INFERENCE}.InferenceAPIsService"


class Api:
    """Counts answers, and lets in who has the token where there is one."""

    log_files = None

    def __init__(self, token: str | None = None) -> None:
        self.statuses: list[int] = []
        self.held = Held(1 << 20)
        self.tokens = SimpleNamespace(check=self._check) if token else None
        self._token = token

    def _check(self, given: str, kinds: tuple[str, ...]) -> None:
        if given != self._token:
            raise InvalidKeyError("no")

    def answered(self, status: int) -> None:
        self.statuses.append(status)


async def ping(request: Any, call: Call) -> Any:
    return TorchServeHealthResponse(health="well")


async def follow(requests: AsyncIterator[Any], call: Call) -> None:
    async for request in requests:
        await call.send(PredictionResponse(prediction=request.model_name.encode()))


def with_server(test: Callable[[grpc.aio.Channel], Any], api: Api, *, limit_s: float = 0.2, places: int | None = None) -> None:
    """Runs a server with one place for calls, and a client for it."""

    async def run() -> None:
        server = grpc.aio.server(maximum_concurrent_rpcs=places)
        desk = Desk(api, SimpleNamespace(ended=lambda *_: None), limit_s)  # type: ignore[arg-type]
        service = Service(name=NAME, key="inference", acts={"Ping": ping, "StreamPredictions2": follow})
        server.add_generic_rpc_handlers([desk.handlers(service)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await test(channel)
        finally:
            await server.stop(None)

    asyncio.run(run())


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code(), str(failed.value.details())


def test_a_call_without_its_request_ends_and_leaves_its_place():
    async def test(channel: grpc.aio.Channel) -> None:
        # A call of many requests begins without one; on the way it is the same as one that has a single request.
        begun = channel.stream_unary(f"/{NAME}/Ping")()
        await begun.wait_for_connection()
        code, details = await failure(begun)
        assert (code, details.splitlines()[0]) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "The request has not come within 0.2 s.",
        )
        reply = await channel.unary_unary(f"/{NAME}/Ping")(b"")
        assert TorchServeHealthResponse.FromString(reply).health == "well"

    api = Api()
    with_server(test, api, places=1)
    assert api.statuses == [408, 200]


def test_a_call_of_many_requests_gets_the_first_one_in_time_and_the_others_when_they_come():
    async def test(channel: grpc.aio.Channel) -> None:
        begun = channel.stream_stream(f"/{NAME}/StreamPredictions2")()
        await begun.wait_for_connection()
        assert (await failure(begun.read()))[0] is grpc.StatusCode.DEADLINE_EXCEEDED

    with_server(test, Api())

    async def talk(channel: grpc.aio.Channel) -> None:
        begun = channel.stream_stream(f"/{NAME}/StreamPredictions2")()
        for name in (b"a", b"b"):
            await begun.write(b"\x0a\x01" + name)
            assert PredictionResponse.FromString(await begun.read()).prediction == name
        await begun.done_writing()
        assert await begun.read() is grpc.aio.EOF

    with_server(talk, Api(), limit_s=60)


def test_who_ends_without_a_request_is_told_so():
    async def test(channel: grpc.aio.Channel) -> None:
        begun = channel.stream_unary(f"/{NAME}/Ping")()
        await begun.done_writing()
        code, details = await failure(begun)
        assert (code, details.splitlines()[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "The call has no request.")

    with_server(test, Api(), limit_s=60)


def test_who_has_no_token_is_told_so_before_the_request_is_there():
    async def test(channel: grpc.aio.Channel) -> None:
        begun = channel.stream_unary(f"/{NAME}/Ping")()
        assert (await failure(begun))[0] is grpc.StatusCode.PERMISSION_DENIED

    with_server(test, Api("Bearer x"), limit_s=60)


def test_larger_requests_get_more_time():
    assert request_limit_s(0) == 30
    assert request_limit_s(64 << 20) == 94
