"""TorchServe's inference service (TorchServe reference §2.6)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec

from flowyard.platform.http.native.predictions import request_id_of
from flowyard.platform.http.native.streaming import Stream
from flowyard.platform.http.torchserve.api import TorchServe
from flowyard.platform.http.torchserve.entries import Model
from flowyard.platform.http.torchserve.errors import WorkflowNotFoundError
from flowyard.platform.http.torchserve.inference import NO_NAME, AnyRun, Prediction, told
from flowyard.platform.http.torchserve.inputs import Input
from flowyard.platform.http.torchserve.outcomes import open_stream
from flowyard.platform.http.torchserve.requests import Received
from flowyard.platform.http.torchserve.routes import Call as Asked
from flowyard.platform.registry.planner import sequence_headers
from flowyard.platform.rpc.calls import Call, Service
from flowyard.platform.rpc.messages import (
    INFERENCE,
    ErrorInfo,
    Message,
    PredictionResponse,
    Status,
    TorchServeHealthResponse,
)
from flowyard.platform.rpc.sequences import Following, Send
from flowyard.platform.rpc.statuses import NameMissingError, prediction_failure_of
from flowyard.platform.telemetry.traffic import Exchange, Traffic
from flowyard.platform.workers.process import Outcome
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, ModelNotFoundError, ShutDownError


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a prediction is made of.

    Attributes:
        name: The model.
        version: Its version, empty for the default one.
        inputs: The named inputs of its handler.
        headers: What else the handler is told.
        body: The body, where there is one; else there are only inputs.
        request_id: Its own id, empty for that of its call.
    """

    name: str
    version: str
    inputs: list[Input]
    headers: Mapping[str, str]
    body: bytes | None = None
    request_id: str = ""


class Predictor:
    """Makes predictions for calls.

    Args:
        api: What is behind it.
    """

    def __init__(self, api: TorchServe) -> None:
        self._inference = api.inference

    async def whole(self, source: Source, call: Call) -> bytes:
        """One answer; pieces are put together.

        Raises:
            FlowyardError: The prediction failed.
        """
        pieces: list[bytes] = []

        async def keep(piece: bytes) -> None:
            pieces.append(piece)

        await self.pieces(source, call, call.exchange, keep, alone=False)
        return b"".join(pieces)

    async def pieces(
        self, source: Source, call: Call, exchange: Exchange, send: Callable[[bytes], Awaitable[None]], *, alone: bool = True
    ) -> None:
        """Hands on an answer, in pieces where the handler sends them.

        Args:
            source: What is to be predicted.
            call: Who asks.
            exchange: Learns who answers.
            send: Gets the pieces; there is one at least.
            alone: Whether it shares its batch with no other, as TorchServe has it for streams.

        Raises:
            FlowyardError: The prediction failed.
        """
        asked = self._asked(source, call, alone=alone)
        request = Received(headers=source.headers, request_id=source.request_id or call.request_id, body=source.body)
        result, run = await self._inference.outcome(asked, request, exchange, _until_done)
        if not isinstance(result, Stream):
            await send(told(asked, result, request).body)
            return
        try:
            _, encode, piece = await open_stream(result)
            while piece is not None:
                await send(encode(piece))
                piece = await result.next()
        finally:
            run.cancel()

    def _asked(self, source: Source, call: Call, *, alone: bool) -> Prediction:
        if not source.name:
            raise NameMissingError(NO_NAME)
        asked, model = self._found(source.name, source.version or None)
        return Prediction(call=asked, model=model, inputs=source.inputs, deadline=call.deadline, alone=alone)

    def _found(self, name: str, version: str | None) -> tuple[Asked, Model]:
        """A model, else a workflow of that name, which the original does not serve here."""
        asked = Asked(name, version)
        try:
            return asked, self._inference.found(asked, name)
        except ModelNotFoundError:
            if version is not None:
                raise
            workflow = Asked(name, workflow=True)
            with contextlib.suppress(WorkflowNotFoundError):
                return workflow, self._inference.found(workflow, name)
            raise


class Inference:
    """Answers the inference service.

    Args:
        api: What is behind it.
        traffic: Is told of every prediction of a sequence.
    """

    def __init__(self, api: TorchServe, traffic: Traffic) -> None:
        self._api = api
        self._predictor = Predictor(api)
        self._traffic = traffic
        #: Tell a handler of its sequence; a client says the last two as inputs.
        self._headers = sequence_headers(api.settings)
        self._said = frozenset((self._headers.start, self._headers.end))

    def service(self) -> Service:
        """The service."""
        acts = {
            "Ping": self.ping,
            "Predictions": self.predict,
            "StreamPredictions": self.stream,
            "StreamPredictions2": self.follow,
        }
        return Service(
            name=f"{INFERENCE}.InferenceAPIsService",
            key="inference",
            acts=acts,
            predicts=frozenset(("Predictions", "StreamPredictions")),
        )

    async def ping(self, request: Message, call: Call) -> Message:
        """Whether all models are well."""
        del request, call
        return TorchServeHealthResponse(health=self._api.inference.ping().body.decode().rstrip("\n"))

    async def predict(self, request: Message, call: Call) -> Message:
        """One answer."""
        return PredictionResponse(prediction=await self._predictor.whole(_source(request, call.headers), call))

    async def stream(self, request: Message, call: Call) -> None:
        """An answer in pieces."""

        async def send(piece: bytes) -> None:
            await call.send(PredictionResponse(prediction=piece))

        await self._predictor.pieces(_source(request, call.headers), call, call.exchange, send)

    async def follow(self, requests: AsyncIterator[Message], call: Call) -> None:
        """Answers the requests of a sequence, in order; one that fails does not end it.

        Raises:
            ShutDownError: The server is stopping; what had been begun is answered.
        """
        sequence = ""
        following = Following(call.send)
        try:
            try:
                async for request in requests:
                    sequence = _sequence_of(request, sequence, self._headers.start)
                    await following.begin(functools.partial(self._answer, request, sequence, call))
            except ShutDownError:
                await following.end()
                raise
            await following.end()
        except BaseException:
            await following.cancel()
            raise

    async def _answer(self, request: Message, sequence: str, call: Call, send: Send) -> None:
        exchange = Exchange()
        exchange.bytes_in = request.ByteSize()
        exchange.prediction = True
        request_id = request_id_of({})
        try:
            if not sequence:
                raise InvalidRequestError("Parameter sequenceId is required.")
            await self._predict(request, sequence, call, exchange, request_id, send)
            exchange.status = 200
        except FlowyardError as error:
            failure = prediction_failure_of(error)
            exchange.status = failure.status
            await send(_failed(error, sequence))
        finally:
            self._traffic.predicted(exchange, call.scope, request_id)

    async def _predict(
        self, request: Message, sequence: str, call: Call, exchange: Exchange, request_id: str, send: Send
    ) -> None:
        headers = {**call.headers, self._headers.id.lower(): sequence}
        headers |= {name: "true" for name in self._said if _is_true(request, name)}

        async def hand_on(piece: bytes) -> None:
            exchange.bytes_out += len(piece)
            await send(PredictionResponse(prediction=piece, sequence_id=sequence))

        source = msgspec.structs.replace(_source(request, headers, self._said), request_id=request_id)
        await self._predictor.pieces(source, call, exchange, hand_on, alone=False)


def _source(request: Message, headers: Mapping[str, str], said: frozenset[str] = frozenset()) -> Source:
    """What a prediction is made of; inputs that have been said as headers are none of the handler's."""
    inputs = [(name, content, "") for name, content in request.input.items() if name not in said]
    return Source(name=request.model_name, version=request.model_version, inputs=inputs, headers=headers)


async def _until_done(first: asyncio.Future[Outcome | Stream], run: AnyRun) -> Outcome | Stream:
    """Waits for an outcome; a call that is cancelled takes its run back."""
    try:
        return await first
    except asyncio.CancelledError:
        run.cancel()
        raise


def _sequence_of(request: Message, current: str, start: str) -> str:
    """The sequence of a request: the one it names, a new one where it says that one starts, else that of the one before it."""
    if request.sequence_id:
        return str(request.sequence_id)
    if _is_true(request, start):
        return f"ts-seq-{uuid.uuid4()}"
    return current


def _is_true(request: Message, name: str) -> bool:
    return bool(request.input.get(name, b"").lower() == b"true")


def _failed(error: FlowyardError, sequence: str) -> Message:
    failure = prediction_failure_of(error)
    status = Status(code=failure.code.value[0], message=failure.message)
    status.details.add().Pack(ErrorInfo(reason=failure.reason))
    return PredictionResponse(sequence_id=sequence, status=status)
