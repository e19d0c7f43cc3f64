"""Drawing a trace."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.cli.timeline import draw_timeline, read_trace
from flowyard.platform.telemetry.traces import NodeTrace, Trace
from flowyard.schemas.errors import InvalidRequestError

NODES = (
    NodeTrace(
        name="image", status="done", callee="decode", start_ms=0.0, end_ms=5.0, attempts=1, queue_ms=0.0, transfer_ms=1.0,
        compute_ms=4.0, batch_size=1, worker=3, device="cpu", call_count=1,
    ),
    NodeTrace(
        name="a", status="fallback", callee="cnn", start_ms=5.0, end_ms=10.0, attempts=2, queue_ms=2.5, transfer_ms=0.0,
        compute_ms=2.5, batch_size=16, worker=1, device="gpu0", call_count=2,
    ),
    NodeTrace(name="spare", status="idle"),
    NodeTrace(name="out", status="done", callee="merge", start_ms=10.0, end_ms=10.0),
)  # fmt: skip
TRACE = Trace(request_id="r1", workflow="digits", version="1.0", status=200, body_ms=0.0, total_ms=10.0, nodes=NODES)


def test_nodes_are_bars_on_one_scale() -> None:
    assert draw_timeline(TRACE, 88).splitlines() == [
        "digits:1.0  status 200  10.00 ms  request r1",
        "image |▒▒████████          |      5.00 ms  batch 1, worker 3 cpu",
        "a     |          ░░░░░█████|      5.00 ms  fallback, 2 calls, attempt 2, batch 16, worker 1 gpu0",
        "out   |                   ▪|      0.00 ms",
        "not run: spare",
        "░ queue  ▒ transfer  █ compute  ▪ in the server",
    ]


def test_a_trace_is_read_as_it_was_written() -> None:
    assert read_trace(msgspec.json.encode(TRACE)) == TRACE


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"url":"/traces/x"}', b"\xff"])
def test_what_is_no_trace_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="no trace"):
        read_trace(text)


TIMES = st.none() | st.floats(-1, 1e6)
ANY_NODE = st.builds(
    NodeTrace, name=st.text(max_size=40), status=st.sampled_from(["done", "failed", "idle"]), start_ms=TIMES, end_ms=TIMES,
    queue_ms=st.none() | st.floats(0, 1e6), transfer_ms=st.none() | st.floats(0, 1e6), compute_ms=st.none() | st.floats(0, 1e6),
)  # fmt: skip


@given(nodes=st.lists(ANY_NODE, max_size=8), total=st.floats(0, 1e6), width=st.integers(0, 200))
def test_any_trace_can_be_drawn_and_bars_have_one_length(nodes: list[NodeTrace], total: float, width: int) -> None:
    named = tuple(msgspec.structs.replace(node, name=f"n{at}") for at, node in enumerate(nodes))
    trace = Trace(request_id="r", workflow="w", version="", status=200, body_ms=0, total_ms=total, nodes=named)
    bars = [line.split("|")[1] for line in draw_timeline(trace, width).splitlines()[1:-1] if "|" in line]
    assert len(bars) == sum(node.start_ms is not None for node in nodes)
    assert len({len(bar) for bar in bars}) <= 1
