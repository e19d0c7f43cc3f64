"""Traces over HTTP: who asks for one, and how it gets into the answer without touching its body."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

import msgspec

from flowyard.platform.http.native.messages import Answer
from flowyard.platform.telemetry.traces import MAX_HEADER_BYTES, Trace, Traces
from flowyard.platform.traced_execution import TracedExecution
from flowyard.schemas.errors import InvalidRequestError

ASKS = "x-flowyard-trace"


def arrival_of(headers: Mapping[str, str]) -> float | None:
    """The time, where a request asks for its timeline: `X-Flowyard-Trace: 1`.

    Args:
        headers: The request's, names in lower case.

    Returns:
        Monotonic seconds, `None` where it does not ask.

    Raises:
        InvalidRequestError: The header is neither 1 nor 0.
    """
    text = headers.get(ASKS)
    if text is None:
        return None
    if text.strip() not in ("0", "1", ""):
        raise InvalidRequestError(f"Header X-Flowyard-Trace: {text[:50]!r}; allowed are 1 and 0.")
    return time.monotonic() if text.strip() == "1" else None


def with_trace(answer: Answer, execution: TracedExecution, traces: Traces) -> Answer:
    """Adds a run's trace to its answer: the trace itself, or where it is when it is too long for a header.

    Args:
        answer: The answer.
        execution: The run.
        traces: Keeps long traces.

    Returns:
        The answer with one more header.
    """
    status, content_type, body, headers = answer
    return status, content_type, body, [*headers, trace_header(execution, traces, status)]


def trace_header(execution: TracedExecution, traces: Traces, status: int) -> tuple[bytes, bytes]:
    """The header with a run's trace, or with where it is when it is too long for one.

    Args:
        execution: The run.
        traces: Keeps long traces.
        status: Of the answer.
    """
    text = encode_trace(execution.trace(status))
    if len(text) <= MAX_HEADER_BYTES and text.isascii():
        return ASKS.encode(), text
    trace_id, place = place_of_trace()
    traces.keep(trace_id, text)
    return ASKS.encode(), place


def place_of_trace() -> tuple[str, bytes]:
    """An id for a trace, and the header's value that says where it will be."""
    trace_id = uuid.uuid4().hex
    return trace_id, f'{{"url":"/traces/{trace_id}"}}'.encode()


def encode_trace(trace: Trace) -> bytes:
    """The JSON of a trace."""
    return msgspec.json.encode(trace)
