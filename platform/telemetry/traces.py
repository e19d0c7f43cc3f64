"""What a run did when, in full: the answer to a request with `X-Flowyard-Trace: 1`."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from flowyard.schemas.errors import NotFoundError

#: Most bytes of a trace that goes into a header: common proxies and clients take 4 KiB or a little more.
MAX_HEADER_BYTES = 3_072
#: Traces that are kept to be fetched, the oldest making room, and the most bytes that they take.
MAX_KEPT = 256
MAX_KEPT_BYTES = 16 << 20
#: Calls of one node that are listed one by one.
MAX_CALLS = 100


class CallTrace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a model or function.

    Attributes:
        start_ms: When it was queued, since the request's arrival.
        end_ms: When its result was there; absent when it was taken back or never came.
        attempt: 1, or more for a retry.
        queue_ms: How long it waited for a worker.
        transfer_ms: What was neither waiting nor computing, the wait behind an earlier batch of the worker included.
        compute_ms: How long the worker computed its batch.
        batch_size: Number of calls in the batch.
        worker: Number of the worker.
        device: The worker's device.
    """

    start_ms: float
    end_ms: float | None = None
    attempt: int = 1
    queue_ms: float | None = None
    transfer_ms: float | None = None
    compute_ms: float | None = None
    batch_size: int | None = None
    worker: int | None = None
    device: str | None = None


class NodeTrace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node, or a call nested in one.

    Attributes:
        name: Its name; the call nested in node `out` as its first argument is `out[1]`.
        status: `done`, `skipped`, `cached`, `fallback`, `failed`, `cancelled`, `running`, `waiting` or `idle` (never needed).
        callee: What it calls.
        start_ms: When its inputs were there, since the request's arrival; absent when it never got that far.
        end_ms: When it ended.
        attempts: Most attempts of any of its calls, 0 without a call.
        queue_ms: Of its only or last call, as are the following.
        transfer_ms: Likewise.
        compute_ms: Likewise.
        batch_size: Likewise.
        worker: Likewise.
        device: Likewise.
        call_count: Number of its calls.
        calls: The calls one by one where there are several, the first hundred.
    """

    name: str
    status: str
    callee: str = ""
    start_ms: float | None = None
    end_ms: float | None = None
    attempts: int = 0
    queue_ms: float | None = None
    transfer_ms: float | None = None
    compute_ms: float | None = None
    batch_size: int | None = None
    worker: int | None = None
    device: str | None = None
    call_count: int = 0
    calls: tuple[CallTrace, ...] = ()


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        request_id: The request's id.
        workflow: Name of the model or workflow.
        version: Its version, empty for none.
        status: Status of the answer.
        body_ms: When the request's body was there, since its arrival.
        total_ms: When the result was there.
        nodes: The nodes, inputs before those who use them.
    """

    request_id: str
    workflow: str
    version: str
    status: int
    body_ms: float
    total_ms: float
    nodes: tuple[NodeTrace, ...]


class Traces:
    """Traces that are too long for a header, for a while."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size_bytes = 0

    def keep(self, trace_id: str, text: bytes) -> None:
        """Keeps a trace; the oldest make room."""
        self._kept[trace_id] = text
        self._size_bytes += len(text)
        while len(self._kept) > MAX_KEPT or (self._size_bytes > MAX_KEPT_BYTES and len(self._kept) > 1):
            _, dropped = self._kept.popitem(last=False)
            self._size_bytes -= len(dropped)

    def get(self, trace_id: str) -> bytes:
        """Finds a trace.

        Args:
            trace_id: From the `url` in the answer's header.

        Returns:
            Its JSON.

        Raises:
            NotFoundError: It is not there, or not any more.
        """
        text = self._kept.get(trace_id)
        if text is None:
            raise NotFoundError(f"no trace {trace_id[:64]}: the last {MAX_KEPT} are kept until the server stops")
        return text
