"""Predictions on the direct way (`http/direct.py`): those of models and workflows whose answer comes whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import structlog

from flowyard.platform.access.keyring import Keyring
from flowyard.platform.calls import Asked, Running
from flowyard.platform.error_rates import ErrorRates
from flowyard.platform.execution import execute
from flowyard.platform.http.access import Access
from flowyard.platform.http.bodies import reader_of
from flowyard.platform.http.direct import Answered, Headers
from flowyard.platform.http.native.errors import StatusCodes
from flowyard.platform.http.native.messages import Answer
from flowyard.platform.http.native.predictions import (
    answer_of,
    deadline_of,
    error_answer,
    priority_of,
    request_id_of,
    server_timing,
)
from flowyard.platform.http.native.targets import target_of_path
from flowyard.platform.http.request import RequestPayload
from flowyard.platform.memo import remembered
from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.registry import Registry
from flowyard.platform.telemetry.traffic import Exchange, Traffic
from flowyard.platform.workers.process import Outcome
from flowyard.schemas.errors import FlowyardError, InternalError, MemoryFullError
from flowyard.schemas.payload import Payload

log = structlog.stdlib.get_logger(__name__)

Client: TypeAlias = tuple[str, int] | None

#: Requests with one of these ask for something that is not to be had directly.
_LONG_WAY = frozenset(
    (
        *("transfer-encoding", "expect", "upgrade", "handler", "x-flowyard-trace"),
        *("x-synchronous", "x-starting-token", "x-amzn-sagemaker-custom-attributes"),
    )
)
#: Larger bodies go the long way, where what is read of them waits for whoever takes it.
MAX_BODY_BYTES = 64 << 10
_PLAIN_URL = re.compile(rb"/predictions/[^?#%]+")


class Head(NamedTuple):
    """The head of a prediction that can go directly.

    Attributes:
        path: Its path.
        name: What is asked, a model or a workflow.
        version: Its version, `None` where the head names none.
        headers: As they came.
        names: Their texts by name.
        reader: Makes a value of the body.
        body_bytes: Size of the body.
    """

    path: str
    name: str
    version: str | None
    headers: Headers
    names: dict[str, str]
    reader: Callable[[bytes], Payload]
    body_bytes: int


class DirectPredictions:
    """Takes predictions whose path names what they are for.

    Args:
        registry: Where the endpoints are.
        traffic: Is told of every request.
        access: Decides whether a request may go on.
        rates: Gets the statuses of answers where failures are limited.
    """

    def __init__(self, registry: Registry, traffic: Traffic, access: Access, rates: ErrorRates) -> None:
        self.registry = registry
        self.traffic = traffic
        self.rates = rates
        self.codes = StatusCodes.of(registry.settings)
        self._access = access
        self._keyring: Keyring = access.keyring
        self.held = registry.held
        self._id_header = registry.settings.request_id_header_key.lower()
        self._limit_bytes = min(registry.settings.max_request_size, MAX_BODY_BYTES)

    def read(self, url: bytes, headers: Headers) -> Head | None:
        """See `DirectWay`."""
        target = _target_of(url)
        if target is None:
            return None
        names = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        body_bytes = int(names.get("content-length", self._limit_bytes + 1))
        if not _LONG_WAY.isdisjoint(names) or body_bytes > self._limit_bytes:
            return None
        return Head(*target, headers, names, reader_of(names.get("content-type", "")), body_bytes)

    def take(self, head: Head, client: Client) -> DirectPrediction | None:
        """See `DirectWay`. What is refused is not refused here: the long way does that."""
        if self._keyring.is_required and self._is_refused(head):
            return None
        deployment = self.find(head.name, head.version)
        if deployment is None:
            return None
        try:
            self.held.take(head.body_bytes)
        except MemoryFullError:
            return None
        return DirectPrediction(self, deployment, head, client, request_id_of(head.names, self._id_header))

    def _is_refused(self, head: Head) -> bool:
        scope = {"path": head.path, "method": "POST", "headers": head.headers}
        return self._access.refusal(scope) is not None

    def find(self, name: str, version: str | None) -> Deployment | None:
        """What answers a request, where it does so in one piece and nobody else is to get a copy of the request."""
        endpoints = self.registry.endpoints
        if version is None:
            # Asked before it is anybody's turn: who takes a turn answers.
            return endpoints.route(name) if name in endpoints.whole else None
        try:
            deployment = endpoints.route(name, version)
        except FlowyardError:
            return None
        return deployment if deployment.answers_whole else None


class DirectPrediction:
    """One prediction."""

    __slots__ = (
        "_answered",
        "_client",
        "_deployment",
        "_exchange",
        "_execution",
        "_head",
        "_over",
        "_request_id",
        "_way",
    )

    def __init__(self, way: DirectPredictions, deployment: Deployment, head: Head, client: Client, request_id: str) -> None:
        self._way = way
        self._deployment = deployment
        self._head = head
        self._client = client
        self._request_id = request_id
        self._exchange = Exchange()
        self._exchange.bytes_in = head.body_bytes
        self._exchange.routed(deployment)
        self._execution: Running | None = None
        self._answered: Answered | None = None
        self._over = False

    def run(self, body: bytes, answered: Answered) -> bool:
        """See `DirectCall`."""
        way, deployment = self._way, self._deployment
        if deployment.closing:
            # Another version may be there by now, or has to be fetched.
            self._exchange.unrouted()
            way.held.give_back(self._head.body_bytes)
            return False
        self._answered = answered
        headers, request_id = self._head.names, self._request_id
        try:
            deadline, priority = deadline_of(headers), priority_of(headers)
            payload = RequestPayload(headers, (), body, request_id) if deployment.takes_requests else self._head.reader(body)
            asked = Asked(payload, headers, {}, request_id, deadline, priority)
            self._execution = execute(deployment, asked, way.registry.endpoints.route, self._on_answer)
            self._execution.start()
        except FlowyardError as error:
            self._end(error_answer(error, way.codes))
        except Exception:
            log.exception("prediction failed", request_id=request_id, path=self._head.path)
            self._end(self._failure())
        return True

    def cancel(self) -> None:
        """See `DirectCall`."""
        self._over = True
        if self._execution is not None:
            self._execution.cancel()
        self._told()

    def _on_answer(self, outcome: Outcome) -> None:
        if self._over:
            return
        assert self._execution is not None
        codes = self._way.codes
        try:
            answer = answer_of(outcome, self._head.names, server_timing(self._execution), codes)
        except FlowyardError as error:
            answer = error_answer(error, codes)
        except Exception:
            log.exception("prediction failed", request_id=self._request_id, path=self._head.path)
            answer = self._failure()
        self._end(answer)

    def _failure(self) -> Answer:
        return error_answer(InternalError("internal error; the log has the details"), self._way.codes)

    def _end(self, answer: Answer) -> None:
        answered = self._answered
        assert answered is not None
        self._over = True
        status, _, body, _ = answer
        self._exchange.status = status
        self._exchange.bytes_out = len(body)
        if self._way.rates:
            self._way.rates.answered(status)
        try:
            answered(status, _fields(answer, self._request_id), body)
        except Exception:
            # Whoever brings the outcome has those of others to bring, too.
            log.exception("answer not sent", request_id=self._request_id, path=self._head.path)
        self._told()

    def _told(self) -> None:
        # They know of this, too: in a circle they would all stay, with the body, until the garbage collector comes by.
        self._execution = self._answered = None
        self._way.held.give_back(self._head.body_bytes)
        self._way.traffic.answered(self._exchange, "POST", self._head.path, self._client, self._request_id)


def _fields(answer: Answer, request_id: str) -> bytes:
    """The headers that an answer goes out with, as lines."""
    _, content_type, body, extra = answer
    fields = b"content-length: %d\r\nx-request-id: %b\r\n" % (len(body), request_id.encode("latin-1"))
    for header in extra:
        fields += b"%b: %b\r\n" % header
    return fields + b"content-type: %b\r\n" % content_type if content_type else fields


@remembered(1024)
def _target_of(url: bytes) -> tuple[str, str, str | None] | None:
    """Path, name and version of a prediction whose URL is plain: no query and nothing escaped in it."""
    if _PLAIN_URL.fullmatch(url) is None or not url.isascii():
        return None
    try:
        name, version = target_of_path(url)
    except FlowyardError:
        return None
    return (url.decode("ascii"), name, version) if name else None
