"""Requests as metrics and the access log see them, whatever API they belong to."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.telemetry.access import AccessLog
from flowyard.platform.telemetry.dialect_logs import DialectLogs
from flowyard.platform.telemetry.logs import Logs
from flowyard.platform.telemetry.measures import count

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Client: TypeAlias = tuple[str, int] | None

#: What is noted for a client that left before its answer; nginx calls it so, and it is never sent.
CLIENT_GONE = 499
NO_MODEL = ("", "")


class Exchange:
    """One request and its answer.

    Attributes:
        started: When the request's head was there, monotonic seconds.
        deployment: What answers it, once that is known.
        prediction: Whether something is to be run; for APIs whose paths do not say so beforehand.
        status: Status of the answer.
        bytes_in: Bytes of the request's body.
        bytes_out: Bytes of the answer's body.
        trace: Makes the header with the run's timeline, of the answer's status; `None` where the request does not ask for one.
    """

    __slots__ = ("bytes_in", "bytes_out", "deployment", "prediction", "started", "status", "trace")

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.deployment: Deployment | None = None
        self.prediction = False
        self.status = CLIENT_GONE
        self.bytes_in = 0
        self.bytes_out = 0
        self.trace: Callable[[int], tuple[bytes, bytes]] | None = None

    def routed(self, deployment: Deployment) -> None:
        """It is known who answers."""
        self.deployment = deployment
        deployment.requests.in_flight += 1

    def unrouted(self) -> None:
        """Somebody else is to answer."""
        assert self.deployment is not None
        self.deployment.requests.in_flight -= 1
        self.deployment = None

    def sending(self, send: Send) -> Send:
        """A `send` that notes what is sent."""

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            else:
                self.bytes_out += len(message.get("body", b""))
            await send(message)

        return noted

    def receiving(self, receive: Receive) -> Receive:
        """A `receive` that notes what is received."""

        async def noted() -> Any:
            message = await receive()
            self.bytes_in += len(message.get("body", b""))
            return message

        return noted


class Traffic:
    """Counts answers and logs them.

    Args:
        logs: The log of the process.
        access_log: Whether each request gets a line there.

    Attributes:
        inference: Answered predictions by status.
        management: Other answers by status.
        unrouted: Predictions that reached no model, by status.
        startup_s: Seconds from the start of the server to its readiness.
        log_files: The log files of a dialect, `None` where there are none.
    """

    def __init__(self, logs: Logs, *, access_log: bool) -> None:
        self.inference: dict[int, int] = {}
        self.management: dict[int, int] = {}
        self.unrouted: dict[int, int] = {}
        self.startup_s = 0.0
        self.log_files: DialectLogs | None = None
        self._writer = logs.writer
        self._access = AccessLog(logs) if access_log else None

    @property
    def lines_dropped(self) -> int:
        """Log lines that nobody took in time."""
        return self._writer.dropped + (self.log_files.dropped if self.log_files is not None else 0)

    def predicted(self, exchange: Exchange, scope: Mapping[str, Any], request_id: str) -> None:
        """A prediction is over."""
        self.answered(exchange, scope["method"], scope["path"], scope["client"], request_id)

    def answered(self, exchange: Exchange, method: str, path: str, client: Client, request_id: str) -> None:
        """A prediction is over that had no ASGI scope."""
        elapsed_s = time.monotonic() - exchange.started
        status = exchange.status
        count(self.inference, status)
        deployment = exchange.deployment
        if deployment is not None:
            deployment.requests.end(status, elapsed_s)
        else:
            count(self.unrouted, status)
        if self._access is not None and self._access.enabled:
            self._log(exchange, method, path, client, request_id, elapsed_s)

    def managed(self, exchange: Exchange, scope: Mapping[str, Any], request_id: str) -> None:
        """Any other request is over."""
        count(self.management, exchange.status)
        if self._access is not None and self._access.enabled:
            elapsed_s = time.monotonic() - exchange.started
            self._log(exchange, scope["method"], scope["path"], scope["client"], request_id, elapsed_s)

    def _log(self, exchange: Exchange, method: str, path: str, client: Client, request_id: str, elapsed_s: float) -> None:
        assert self._access is not None
        deployment = exchange.deployment
        self._access.add(
            (
                int(time.time() * 1000),
                method,
                path,
                client,
                request_id,
                deployment.identity if deployment is not None else NO_MODEL,
                exchange.status,
                elapsed_s,
                exchange.bytes_in,
                exchange.bytes_out,
            )
        )

    def ended(self, exchange: Exchange, scope: Mapping[str, Any], request_id: str) -> None:
        """A request is over, of either kind."""
        if exchange.prediction:
            self.predicted(exchange, scope, request_id)
        else:
            self.managed(exchange, scope, request_id)

    def flush(self) -> None:
        """Hands on the lines that wait."""
        if self._access is not None:
            self._access.flush()
