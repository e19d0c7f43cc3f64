"""Draws what a run did when, as bars on one scale of time: the trace of a request with `X-Flowyard-Trace: 1`."""

from __future__ import annotations

import math

import msgspec

from flowyard.platform.telemetry.traces import NodeTrace, Trace
from flowyard.schemas.errors import InvalidRequestError

#: Queue, transfer, compute; and a node about whose call nothing is known.
_WAIT, _MOVE, _WORK, _PLAIN = "░", "▒", "█", "▪"
_LEGEND = f"{_WAIT} queue  {_MOVE} transfer  {_WORK} compute  {_PLAIN} in the server"
_MIN_BAR = 20
_MAX_NAME = 32


def read_trace(text: bytes) -> Trace:
    """Reads a trace, from the header of an answer or from where that header says.

    Args:
        text: JSON.

    Returns:
        The trace.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        return msgspec.json.decode(text, type=Trace)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"no trace: {error}") from None


def draw_timeline(trace: Trace, width: int = 100) -> str:
    """Draws a trace.

    Args:
        trace: The trace.
        width: Columns of the terminal; less than what names and numbers need is exceeded.

    Returns:
        A line per node that began, in the order they did, between a heading and the meaning of the bars.
    """
    nodes = sorted((node for node in trace.nodes if node.start_ms is not None), key=lambda node: node.start_ms or 0.0)
    label = max((len(_label(node)) for node in nodes), default=0)
    note = max((len(_note(node)) for node in nodes), default=0)
    bar = max(_MIN_BAR, width - label - note - 16)
    scale = bar / max(trace.total_ms, 1e-6)
    name = f"{trace.workflow}:{trace.version}" if trace.version else trace.workflow
    lines = [f"{name}  status {trace.status}  {trace.total_ms:.2f} ms  request {trace.request_id}"]
    for node in nodes:
        end = trace.total_ms if node.end_ms is None else node.end_ms
        took = end - (node.start_ms or 0.0)
        lines.append(f"{_label(node):<{label}} |{_bar(node, end, scale, bar)}| {took:9.2f} ms  {_note(node)}".rstrip())
    idle = [_label(node) for node in trace.nodes if node.start_ms is None]
    if idle:
        lines.append(f"not run: {', '.join(idle)}")
    return "\n".join([*lines, _LEGEND]) + "\n"


def _label(node: NodeTrace) -> str:
    return node.name if len(node.name) <= _MAX_NAME else f"{node.name[: _MAX_NAME - 1]}…"


def _bar(node: NodeTrace, end_ms: float, scale: float, columns: int) -> str:
    """The node's time on the common scale, at least one column of it."""
    start = min(columns - 1, max(0, math.floor((node.start_ms or 0.0) * scale)))
    stop = min(columns, max(start + 1, math.ceil(end_ms * scale)))
    return (" " * start + _filled(node, stop - start)).ljust(columns)


def _filled(node: NodeTrace, columns: int) -> str:
    """Divides a bar among the parts of the node's last call."""
    parts = [(_WAIT, node.queue_ms or 0.0), (_MOVE, node.transfer_ms or 0.0), (_WORK, node.compute_ms or 0.0)]
    total = sum(part for _, part in parts)
    if not total:
        return _PLAIN * columns
    drawn, passed = "", 0.0
    for sign, part in parts:
        passed += part
        drawn += sign * (round(columns * passed / total) - len(drawn))
    return drawn


def _note(node: NodeTrace) -> str:
    """What is to be said besides the time: status, attempts, batch, worker."""
    words = [] if node.status == "done" else [node.status]
    if node.call_count > 1:
        words.append(f"{node.call_count} calls")
    if node.attempts > 1:
        words.append(f"attempt {node.attempts}")
    if node.batch_size is not None:
        words.append(f"batch {node.batch_size}")
    if node.worker is not None:
        words.append(f"worker {node.worker} {node.device or ''}".rstrip())
    return ", ".join(words)
