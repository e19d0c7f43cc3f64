"""Fused nodes with real workers: the same answers, the same figures, and nothing lost when something goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.archives import linear_onnx

from flowyard.platform.calls import Asked, FusedCall
from flowyard.platform.execution import execute
from flowyard.platform.registry.deployment import FUNCTIONS, Deployment
from flowyard.platform.registry.fusing import LIMIT_BYTES, may_be_fused
from flowyard.platform.registry.planner import Planner
from flowyard.platform.registry.scaling import Scaling
from flowyard.platform.settings import Settings
from flowyard.platform.traced_execution import TracedExecution
from flowyard.platform.workers.process import STREAMED, Outcome
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import InvalidInputError, NodeError
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.payload import Payload
from flowyard.workflows.check import compile_workflow

STEPS = """
import os
import time

import numpy

def row(value):
    if value == "bad":
        raise ValueError("bad row")
    if value == "die":
        os._exit(1)
    return [[float(value), 1.0]]

def stay(value):
    time.sleep(value)

def wide(value):
    return numpy.full((20_000, 2), value, numpy.float32)

def tell(value, context):
    return {"pid": os.getpid(), "value": value, "id": context.request_id}

def pieces(value):
    for row in value["value"]:
        yield row
"""
HEAD = """
name: w
models:
  a: {url: a.onnx, batch_size: 4}
  b: b.onnx
functions: {row: steps:row, wide: steps:wide, tell: steps:tell, pieces: steps:pieces}
workflow:
"""
NODES = "  x: [row, in]\n  a: [a, x]\n  b: [b, x]\n  out: [ensemble, a, b]\n"


def quick(deployment: Deployment) -> None:
    """Has it known that every call takes next to nothing."""
    for pool in deployment.pools.values():
        pool.cost.took_s = pool.cost.cpu_s = 1e-6


@asynccontextmanager
async def deployed(folder: Path, nodes: str = NODES, head: str = HEAD) -> AsyncIterator[Deployment]:
    (folder / "steps.py").write_text(STEPS)
    (folder / "a.onnx").write_bytes(linear_onnx([[1.0, 2.0], [0.0, 0.0]]))
    (folder / "b.onnx").write_bytes(linear_onnx([[3.0, 4.0], [0.0, 1.0]]))
    plan = compile_workflow((head + nodes).encode(), "workflow.yaml", None)
    specs = Planner(Settings(), (CPU,)).pool_specs("w", plan, folder, ModelSpec(), {})
    deployment = Deployment("w", "", plan, specs)
    await deployment.start()
    try:
        yield deployment
    finally:
        await deployment.close(0)


async def ask(deployment: Deployment, value: Any, kind: Callable[..., Any] = execute, **more: Any) -> tuple[Any, Outcome]:
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    asked = Asked(Payload.of(value), {}, {}, f"r-{value}", None, 3)
    run = kind(deployment, asked, None, answer.set_result, **more)
    run.start()
    return run, await answer


async def fuse(deployment: Deployment) -> None:
    quick(deployment)
    assert deployment.fusing is not None
    while deployment.fusing.current() is None:
        quick(deployment)
        await asyncio.sleep(0)


def batches(deployment: Deployment) -> dict[str, int]:
    return {key: sum(pool.batches) for key, pool in deployment.pools.items()}


def test_fused_nodes_answer_as_they_did_before_and_count_as_they_did(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            _, before = await ask(deployment, 2)
            assert batches(deployment) == {"a": 1, "b": 1, FUNCTIONS: 1}
            await fuse(deployment)
            (count,) = {pool.measures.waits.read().count for key, pool in deployment.pools.items() if key != FUNCTIONS}
            asked = [ask(deployment, 2) for _ in range(6)]
            (run, after), *_ = await asyncio.gather(*asked)
            assert after.value().tolist() == before.value().tolist()
            times = {time.name: time for time in run.timeline}
            assert [times[name].state for name in ("x", "a", "b", "out")] == ["done"] * 4
            assert times["x"].started < times["x"].ended <= times["a"].ended <= times["b"].ended <= times["out"].ended
            for key in ("a", "b"):
                measures = deployment.pools[key].measures
                assert measures.waits.read().count == count + 6
                assert measures.on("cpu").rows.read().total == count + 6
                assert 0 < measures.on("cpu").compute.read().total < 1

    asyncio.run(scenario())


def test_large_results_come_back_through_shared_memory(tmp_path):
    nodes = "  x: [wide, in]\n  a: [a, x]\n  s: [row, in]\n  out: [ensemble, x, a]\n  unused: [id, s]\n"

    async def scenario():
        async with deployed(tmp_path, nodes) as deployment:
            await fuse(deployment)
            for value in (1, 2, 3):
                _, outcome = await ask(deployment, value)
                expected = np.full((20_000, 2), value, np.float32) * np.array([1.0, 1.5], np.float32)
                np.testing.assert_array_equal(outcome.value(), expected)
            del outcome, _
            # The loop still holds the future that this was woken by.
            await asyncio.sleep(0)
            assert deployment.pools[FUNCTIONS].shared_bytes() == 0

    asyncio.run(scenario())


def test_the_nodes_of_one_request_run_in_one_process_and_know_their_request(tmp_path):
    nodes = "  x: [row, in]\n  a: [a, x]\n  t: [tell, a]\n  out: [merge, t, {value: {last: true}}]\n"

    async def scenario():
        async with deployed(tmp_path, nodes) as deployment:
            await fuse(deployment)
            _, outcome = await ask(deployment, 5)
            told = outcome.value()
            (worker,) = deployment.pools[FUNCTIONS].workers()
            assert (told["pid"], told["id"], np.asarray(told["value"]).tolist()) == (worker.pid, "r-5", [[5.0, 10.0]])

    asyncio.run(scenario())


@pytest.mark.parametrize("together", [False, True])
def test_a_failure_names_its_node_and_is_nobody_elses(tmp_path, together):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            if together:
                await fuse(deployment)
            outcomes = [outcome for _, outcome in await asyncio.gather(*(ask(deployment, value) for value in (1, "bad", 3)))]
            assert isinstance(outcomes[1], NodeError)
            assert (str(outcomes[1]), outcomes[1].node) == ('node "x": ValueError: bad row', "x")
            assert [type(outcome) for outcome in (outcomes[0], outcomes[2])] == [Payload, Payload]
            _, outcome = await ask(deployment, "[]")
            assert isinstance(outcome, NodeError)

    asyncio.run(scenario())


def test_a_model_that_refuses_its_input_is_named(tmp_path):
    async def scenario():
        async with deployed(tmp_path, "  x: [tell, in]\n  a: [a, x]\n  out: [id, a]\n") as deployment:
            await fuse(deployment)
            _, outcome = await ask(deployment, 1)
            assert isinstance(outcome, InvalidInputError)
            assert str(outcome).startswith('node "a": expected a mapping')

    asyncio.run(scenario())


def test_a_worker_that_dies_takes_one_request_along(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            await fuse(deployment)
            outcomes = [outcome for _, outcome in await asyncio.gather(*(ask(deployment, value) for value in (1, "die", 3)))]
            assert type(outcomes[1]).__name__ == "WorkerDiedError"
            assert [outcomes[at].value().tolist() for at in (0, 2)] == [[[2.0, 3.5]], [[6.0, 9.5]]]

    asyncio.run(scenario())


def test_models_alone_are_computed_by_the_first_of_them(tmp_path):
    nodes = "  y: [a, in]\n  z: [b, y]\n  v: [a, z]\n  out: [ensemble, v, y]\n"

    async def scenario():
        async with deployed(tmp_path, nodes) as deployment:
            value = [[1.0, 2.0]]
            _, before = await ask(deployment, value)
            await fuse(deployment)
            counted = batches(deployment)
            _, after = await ask(deployment, value)
            assert after.value().tolist() == before.value().tolist()
            # The first one's calls are all in the one batch that it was sent.
            assert {key: count - counted[key] for key, count in batches(deployment).items()} == {"a": 1, "b": 1, FUNCTIONS: 0}
            _, wrong = await ask(deployment, [[1.0, 2.0, 3.0]])
            assert str(wrong).startswith('node "y": input "x"')

    asyncio.run(scenario())


def test_a_worker_that_starts_later_loads_what_it_needs(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            await fuse(deployment)
            (worker,) = deployment.pools[FUNCTIONS].workers()
            os.kill(worker.pid, signal.SIGKILL)
            quick(deployment)
            _, outcome = await ask(deployment, 1)
            assert isinstance(outcome, Payload)
            assert batches(deployment)["a"] == 1

    asyncio.run(scenario())


def test_what_a_worker_cannot_compute_in_one_call_is_called_one_by_one(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            await fuse(deployment)
            (tmp_path / "b.onnx").write_bytes(b"no model")
            (worker,) = deployment.pools[FUNCTIONS].workers()
            os.kill(worker.pid, signal.SIGKILL)
            quick(deployment)
            run, outcome = await ask(deployment, 2)
            assert outcome.value().tolist() == [[4.0, 6.5]]
            assert isinstance(run, FusedCall)
            assert {time.name for time in run.timeline if time.ended} == {"x", "a", "b", "out"}
            assert batches(deployment)["b"] == 1
            assert deployment._runs == 0

    asyncio.run(scenario())


def test_a_run_of_one_call_ends_in_time_and_can_be_taken_back(tmp_path):
    nodes = NODES.replace("row", "stay")

    async def scenario():
        async with deployed(tmp_path, nodes, HEAD.replace("row: steps:row", "stay: steps:stay")) as deployment:
            await fuse(deployment)
            answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            asked = Asked(Payload.of(30), {}, {}, "r", time.monotonic() + 0.2, 3)
            run = execute(deployment, asked, None, answer.set_result)
            run.start()
            assert [entry.state for entry in run.timeline] == ["running"] * 4
            assert str(await answer) == "the request was not done in time"
            other = execute(deployment, asked, None, lambda _: pytest.fail("nobody waits for it"))
            other.start()
            assert deployment._runs == 1
            other.cancel()
            assert deployment._runs == 0

    asyncio.run(scenario())


def test_an_answer_that_an_ensemble_gives_comes_whole(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            assert deployment.answers_whole
            assert deployment.fuses_all
        async with deployed(tmp_path, "  x: [row, in]\n  out: [pieces, x]\n") as deployment:
            assert not deployment.answers_whole

    asyncio.run(scenario())


def test_a_trace_shows_every_node_with_a_worker_of_its_own(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            await fuse(deployment)
            run, _ = await ask(deployment, 1, TracedExecution, on_chunk=None, arrived=0.0)
            assert len({node.worker for node in run.trace(200).nodes if node.name != "out"}) == 3

    asyncio.run(scenario())


def test_an_answer_may_come_in_pieces(tmp_path):
    nodes = "  x: [row, in]\n  a: [a, x]\n  t: [tell, a]\n  out: [pieces, t]\n"

    async def scenario():
        async with deployed(tmp_path, nodes) as deployment:
            await fuse(deployment)
            _, outcome = await ask(deployment, 1)
            assert np.asarray(outcome.value()).tolist() == [[1.0, 2.0]]
            pieces = []
            _, outcome = await ask(deployment, 1, on_chunk=lambda piece, more: (pieces.append(piece.value()), more()))
            assert outcome is STREAMED
            assert np.asarray(pieces).tolist() == [[1.0, 2.0]]

    asyncio.run(scenario())


def test_nodes_are_fused_only_while_that_costs_nobody_anything(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            assert deployment.fusing.current() is None
            await fuse(deployment)
            for name in ("a", FUNCTIONS):
                deployment.pools[name].cost.cpu_s = 1e-3
                assert deployment.fusing.current() is None
                quick(deployment)
                deployment.pools[name].cost.took_s = 9e-3
                assert deployment.fusing.current() is None
                quick(deployment)
            deployment.scale(Scaling(min_worker=1, max_worker=2, model="a"))
            assert deployment.fusing.current() is None
            deployment.scale(Scaling(min_worker=1, max_worker=1, model="a"))
            assert deployment.fusing.current() is not None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "said", ["timeout: 1s", "job_queue_size: 5", "batching: fill", "max_worker: 2", "min_worker: 0", "engine: Python"]
)
def test_a_model_about_which_something_is_said_is_served_as_it_says(tmp_path, said):
    (tmp_path / "a.onnx").write_bytes(linear_onnx([[1.0]]))
    url = "steps:row" if "Python" in said else "a.onnx"
    head = f"name: w\nmodels:\n  a: {{url: {url}, {said}}}\nfunctions: {{row: steps:row}}\n"
    (tmp_path / "steps.py").write_text(STEPS)

    async def scenario():
        plan = compile_workflow((head + "workflow:\n  out: [a, [row, in]]\n").encode(), "workflow.yaml", None)
        specs = Planner(Settings(), (CPU,)).pool_specs("w", plan, tmp_path, ModelSpec(), {})
        assert Deployment("w", "", plan, specs).fusing is None

    asyncio.run(scenario())


def test_models_that_are_large_or_not_whole_have_only_their_own_worker(tmp_path):
    def may_be(content: bytes | None) -> bool:
        if content is None:
            (tmp_path / "a.onnx").unlink()
        else:
            (tmp_path / "a.onnx").write_bytes(content)
        return may_be_fused(spec)

    (tmp_path / "a.onnx").write_bytes(linear_onnx([[1.0]]))
    plan = compile_workflow(b"name: w\nmodels: {a: a.onnx}\nworkflow:\n  out: [a, in]\n", "workflow.yaml", None)
    spec = Planner(Settings(), (CPU,)).pool_specs("w", plan, tmp_path, ModelSpec(), {})["a"]
    assert may_be(linear_onnx([[1.0]]))
    assert not may_be(bytes(LIMIT_BYTES + 1))
    assert not may_be(b"... location ... weights.bin")
    assert not may_be(None)


def test_a_model_that_cannot_be_loaded_again_is_called_where_it_is(tmp_path):
    async def scenario():
        async with deployed(tmp_path) as deployment:
            (tmp_path / "b.onnx").write_bytes(b"no model")
            quick(deployment)
            while deployment.fusing._state != "refused":
                _, outcome = await ask(deployment, 1)
                assert isinstance(outcome, Payload)
            _, outcome = await ask(deployment, 1)
            assert isinstance(outcome, Payload)

    asyncio.run(scenario())
