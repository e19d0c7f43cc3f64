"""Ray Serve: one replica, its own batching, on the loopback interface. `ray_server.py [graph]`: one of each step of a graph."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
from pipelines import BATCH_DELAY_MS, DAG_STEPS, batch_size, dag_step, environment_pipeline, rows_of
from ray import serve
from starlette.requests import Request

deployment = serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
batch = serve.batch(max_batch_size=batch_size(), batch_wait_timeout_s=BATCH_DELAY_MS / 1000)


@deployment
class Bench:
    """Runs the workload of the environment."""

    def __init__(self) -> None:
        self._predict = environment_pipeline()

    @batch
    async def predict(self, inputs: list[Any]) -> list[Any]:
        """Answers a batch."""
        return list(self._predict(np.concatenate(inputs)))

    async def __call__(self, request: Request) -> Any:
        """Answers one request."""
        return (await self.predict(rows_of(await request.body()))).tolist()


class _OfDag:
    """A step of the workload `dag`."""

    def __init__(self, name: str) -> None:
        self._step = dag_step(name, Path(os.environ["BENCH_MODELS"]))


@deployment
class Step(_OfDag):
    """One that takes the rows of one other."""

    @batch
    async def __call__(self, inputs: list[Any]) -> list[Any]:
        """Computes a batch, each of one row."""
        return list(self._step(np.concatenate(inputs))[:, None])


@deployment
class Merge(_OfDag):
    """The last one, which takes the rows of two."""

    @batch
    async def __call__(self, left: list[Any], right: list[Any]) -> list[Any]:
        """Computes a batch."""
        return list(self._step(np.concatenate(left), np.concatenate(right)))


@deployment
class Graph:
    """Hands what one step answers to the next, without waiting for it."""

    def __init__(self, prepare: Any, left: Any, right: Any, merge: Any) -> None:
        self._prepare, self._left, self._right, self._merge = prepare, left, right, merge

    async def __call__(self, request: Request) -> Any:
        """Answers one request."""
        prepared = self._prepare.remote(rows_of(await request.body()))
        return (await self._merge.remote(self._left.remote(prepared), self._right.remote(prepared))).tolist()


def graph() -> Any:
    """The workload `dag` as Ray Serve composes it: each step a deployment of its own."""
    steps = [(Merge if name == "merge" else Step).options(name=name).bind(name) for name in DAG_STEPS]
    return Graph.bind(*steps)


if __name__ == "__main__":
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("BENCH_") or name in ("PYTHONPATH", "OMP_NUM_THREADS")
    }
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["BENCH_TEMP"],
        object_store_memory=200_000_000,
        runtime_env={"env_vars": passed},
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])}, logging_config={"enable_access_log": False}
    )
    serve.run(graph() if "graph" in sys.argv else Bench.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
