"""TorchServe's inference API (TorchServe reference §2)."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import msgspec

from flowyard.platform.calls import Asked, Running
from flowyard.platform.execution import execute
from flowyard.platform.http.bodies import Receive
from flowyard.platform.http.native.predictions import Watch, deadline_of, listen_for_end, priority_of
from flowyard.platform.http.native.streaming import Reply, Stream
from flowyard.platform.http.native.tracing import arrival_of, trace_header
from flowyard.platform.http.torchserve import openapi
from flowyard.platform.http.torchserve.answers import JSON, Answer, Headers, json_answer, status_answer
from flowyard.platform.http.torchserve.descriptions import configured_of
from flowyard.platform.http.torchserve.entries import Model, Models
from flowyard.platform.http.torchserve.errors import NodeFailedError
from flowyard.platform.http.torchserve.inputs import HandlerRequest, Input, field_of, inputs_of, told_headers
from flowyard.platform.http.torchserve.outcomes import answer_of, send_stream
from flowyard.platform.http.torchserve.requests import HttpRequest, Received
from flowyard.platform.http.torchserve.routes import Call, torchserve_call
from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.registry import Registry
from flowyard.platform.shadows import mirror
from flowyard.platform.telemetry.traces import Traces
from flowyard.platform.telemetry.traffic import Exchange
from flowyard.platform.traced_execution import TracedExecution
from flowyard.platform.workers.pool import ModelPool
from flowyard.platform.workers.process import Outcome
from flowyard.platform.workers.tasks import Task
from flowyard.schemas.errors import (
    DeadlineError,
    FlowyardError,
    InvalidRequestError,
    NodeError,
    NotReadyError,
    QueueFullError,
    ShutDownError,
    UnavailableError,
    WorkerDiedError,
)
from flowyard.schemas.payload import Payload

NO_NAME = "Parameter model_name is required."
#: What the server says of itself where it speaks the Open Inference Protocol.
NAME, VERSION, EXTENSIONS = "Torchserve", "0.12.0", ("kserve", "kubeflow")
#: Why nobody can answer now; the original has one text for all of it.
NOBODY = (ShutDownError, NotReadyError, QueueFullError)


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction that can be made.

    Attributes:
        call: How it was asked for.
        model: The model.
        inputs: The named inputs of its handler.
        deadline: When the answer must be there, monotonic seconds; `None` for what the headers say.
        alone: Whether it shares its batch with no other.
    """

    call: Call
    model: Model
    inputs: list[Input]
    deadline: float | None = None
    alone: bool = False


#: Whatever answers a request.
AnyRun: TypeAlias = "Running | NodeCall"
#: Waits for the first outcome of a run, and takes the run back where nobody waits for it any more.
Wait: TypeAlias = Callable[[asyncio.Future[Outcome | Stream], AnyRun], Awaitable[Outcome | Stream]]


class Inference:
    """Answers the inference API.

    Args:
        registry: Where models are.
        measure: Is told of every prediction that was made: the model's name and version, as far as it was named, and its times.
        traces: Keeps the timelines that are too long for a header; the native API has them.
    """

    def __init__(self, registry: Registry, measure: Callable[[Model, Call, float, float], None], traces: Traces) -> None:
        self._registry = registry
        self._settings = registry.settings
        self._models = Models(registry.endpoints)
        self._measure = measure
        self._traces = traces
        self._watch = Watch()

    def call_of(self, segments: tuple[str, ...]) -> Call | None:
        """What is to be predicted at a path, `None` for nothing."""
        return torchserve_call(segments)

    async def answer(self, request: HttpRequest) -> Answer | None:
        """Answers what is no prediction; `None` where nothing is at its path.

        Raises:
            FlowyardError: It cannot be done.
        """
        match request.segments:
            case ["ping", *_]:
                return self.ping()
            case segments if self.is_open_inference:
                return self._open_inference(segments)
        return None

    @property
    def is_open_inference(self) -> bool:
        """Whether the Open Inference Protocol is served."""
        return (self._settings.ts_open_inference_protocol or "").lower() == "true"

    def ping(self) -> Answer:
        """Whether all models are well."""
        is_healthy = all(self.is_healthy(model) for model in self._models.default_models())
        return status_answer("Healthy") if is_healthy else status_answer("Unhealthy", 500)

    def is_healthy(self, model: Model) -> bool:
        """Whether a model has its workers, or is given time to get them."""
        pool = model.pool
        if pool is None or pool.healthy:
            return True
        return pool.failing_s(time.monotonic()) <= configured_of(pool).max_retry_timeout_in_sec

    @staticmethod
    def _open_inference(segments: tuple[str, ...]) -> Answer | None:
        match segments:
            case ["v2"]:
                # The original spells it so; clients may look for either.
                about = {"name": NAME, "version": VERSION, "extenstion": EXTENSIONS, "extensions": EXTENSIONS}
                return json_answer(about)
            case ["v2", "health", ("ready" | "live") as what]:
                return json_answer({what: True})
            case [_, _, _, _, _, *_] if any(segment.startswith("versions") for segment in segments):
                return json_answer({"error": "Model versioning is not yet supported."}, 501)
        return None

    # ---- predictions ----

    def find(self, call: Call, request: HttpRequest) -> Model:
        """The model that is asked, before the body is read.

        Raises:
            InvalidRequestError: The path names none, and neither does the query.
            ModelNotFoundError: There is no such model or version.
        """
        return self.found(call, self._name(call, request, []))

    def found(self, call: Call, name: str) -> Model:
        """The model, version or workflow of a name.

        Raises:
            ModelNotFoundError: There is no such model or version.
            WorkflowNotFoundError: There is no such workflow.
        """
        return Model(self._models.workflow(name), name) if call.workflow else self._models.find(name, call.version)

    def versions_of(self, name: str) -> list[str]:
        """The versions of a model.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        return [model.version for model in self._models.versions(name)]

    def described(self, call: Call, request: HttpRequest) -> Answer:
        """The document of how to run a model."""
        return json_answer(openapi.torchserve_model(self.find(call, request).name))

    def prediction(self, call: Call, request: HttpRequest) -> Prediction:
        """What is to be predicted.

        Raises:
            FlowyardError: There is no such model, or the form cannot be read.
        """
        inputs = inputs_of(call, request.query, request.headers.get("content-type", ""), request.body)
        model = self.found(call, self._name(call, request, inputs))
        return Prediction(call=call, model=model, inputs=inputs)

    def _name(self, call: Call, request: HttpRequest, inputs: list[Input]) -> str:
        if call.name is not None:
            return call.name
        said = next((value for name, value in request.query if name == "model_name"), None)
        if said is None:
            said = self.named_in_form(inputs)
        found = said if said is not None else self._models.only_at_startup()
        if found is None:
            raise InvalidRequestError(NO_NAME)
        return found

    def named_in_form(self, inputs: list[Input]) -> str | None:
        """The model that a form names."""
        return field_of(inputs, "model_name")

    async def predict(
        self, asked: Prediction, request: HttpRequest, exchange: Exchange, receive: Receive, send: Any, common: Headers
    ) -> Answer | None:
        """Predicts.

        Returns:
            The answer, `None` where it has been sent in pieces.

        Raises:
            FlowyardError: The prediction failed.
            ClientGoneError: The client went away.
        """
        result, run = await self.outcome(asked, request, exchange, functools.partial(self._watched, receive))
        if isinstance(result, Stream):
            sending = send_stream(result, request.request_id, common, exchange.sending(send))
            await self._send(result, run, receive, sending)
            return None
        return told(asked, result, request)

    def _watched(self, receive: Receive, first: asyncio.Future[Outcome | Stream], run: AnyRun) -> Awaitable[Outcome | Stream]:
        return self._watch.wait(first, run, receive)

    async def outcome(
        self, asked: Prediction, request: Received, exchange: Exchange, wait: Wait
    ) -> tuple[Payload | Stream, AnyRun]:
        """Runs a prediction.

        Args:
            asked: What is to be predicted.
            request: What it was asked with.
            exchange: Learns who answers.
            wait: Waits for the first outcome.

        Returns:
            The result, or its pieces, and the run.

        Raises:
            FlowyardError: The prediction failed.
        """
        reply = Reply()
        started = time.monotonic()
        try:
            deployment = self._models.route(asked.model, request.headers, versioned=asked.call.version is not None)
            exchange.routed(deployment)
            run = self._run(asked, request, deployment, reply, arrival_of(request.headers), exchange.bytes_in)
            if isinstance(run, TracedExecution):
                exchange.trace = functools.partial(trace_header, run, self._traces)
            run.start()
            first = reply.first
            result = first.result() if first.done() else await wait(first, run)
        except NOBODY:
            raise self.no_worker(asked) from None
        if asked.call.workflow:
            return workflow_result(result), run
        if isinstance(result, NOBODY):
            raise self.no_worker(asked)
        self._measure(asked.model, asked.call, time.monotonic() - started, run.queued_s)
        if isinstance(result, WorkerDiedError):
            raise self.worker_died(result)
        if isinstance(result, FlowyardError):
            raise result
        return result, run

    async def _send(self, stream: Stream, run: Any, receive: Receive, sending: Coroutine[Any, Any, None]) -> None:
        """Sends a stream while its client is there."""
        listening = asyncio.ensure_future(listen_for_end(stream.gone, run, receive))
        try:
            await sending
        finally:
            listening.cancel()
            run.cancel()

    def _run(
        self,
        asked: Prediction,
        request: Received,
        deployment: Deployment,
        reply: Reply,
        arrived: float | None,
        body_bytes: int,
    ) -> AnyRun:
        headers = dict(request.headers)
        deadline = asked.deadline if asked.deadline is not None else deadline_of(headers)
        payload = HandlerRequest(headers, request.query, request.body, request.request_id, asked.inputs, told_headers(asked.call))
        if asked.model.key:
            pool = deployment.pools[asked.model.key]
            task = functools.partial(
                Task,
                (payload,),
                callee=asked.model.function,
                request_id=request.request_id,
                headers=headers,
                deadline=deadline,
            )
            return NodeCall(pool, task, reply)
        priority = priority_of(headers)
        run = Asked(payload, headers, dict(request.query), request.request_id, deadline, priority, alone=asked.alone)
        endpoints = self._registry.endpoints
        shadows = endpoints.shadows.get(asked.model.name, ()) if asked.call.version is None else ()
        if shadows:
            mirror(run, shadows, endpoints.route, body_bytes)
        if arrived is not None:
            return TracedExecution(deployment, run, endpoints.route, reply.on_answer, reply.on_chunk, arrived)
        return execute(deployment, run, endpoints.route, reply.on_answer, reply.on_chunk)

    def no_worker(self, asked: Prediction) -> UnavailableError:
        """Nobody can answer now: no worker, or a full queue. The quote behind the version is the original's."""
        version = asked.call.version
        label = f'"{asked.model.name}"' if version is None else f'"{asked.model.name}" Version {version}"'
        return UnavailableError(
            f"Model {label} has no worker to serve inference request. Please use scale workers API to add workers. "
            "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
        )

    @staticmethod
    def worker_died(error: WorkerDiedError) -> WorkerDiedError:
        """The worker ended while it computed, or took too long."""
        return WorkerDiedError("Worker died.", error.message)


def told(asked: Prediction, result: Payload, request: Received) -> Answer:
    """Tells a result; that of a workflow are the bytes of its last node, always as JSON.

    Raises:
        FlowyardError: It cannot be told.
    """
    if asked.call.workflow:
        return Answer(200, answer_of(result, "", "").body, JSON)
    return answer_of(result, request.headers.get("accept", ""), request.headers.get("content-type", ""))


def workflow_result(result: Outcome | Stream) -> Payload:
    """What a workflow has answered.

    Raises:
        NodeFailedError: A node failed or took too long; the original says no more than which.
        FlowyardError: The workflow failed otherwise.
    """
    if isinstance(result, (NodeError, DeadlineError)) and result.node:
        raise NodeFailedError(f"Error executing {result.node}", str(getattr(result, "detail", "") or result))
    if isinstance(result, FlowyardError):
        raise result
    assert not isinstance(result, Stream)
    return result


class NodeCall:
    """A call of one node of a workflow as if it were a model.

    Args:
        pool: Where it is computed.
        task: Makes the task of what takes its outcome.
        reply: Gets the answer.
    """

    def __init__(self, pool: ModelPool, task: Callable[..., Task], reply: Reply) -> None:
        self._pool = pool
        self._task = task
        self._reply = reply
        self._job: Any = None
        self.queued_s = 0.0

    def start(self) -> None:
        """Queues the call."""
        self._job = self._pool.submit(self._task(self._done, on_chunk=self._reply.on_chunk))

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self._job is not None:
            self._pool.cancel(self._job)

    def _done(self, outcome: Outcome) -> None:
        self._reply.on_answer(outcome)
