"""Ray Serve: one replica, its own batching, on the loopback interface."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import ray
from pipelines import BATCH_DELAY_MS, batch_size, environment_pipeline, rows_of
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Bench:
    """Runs the workload of the environment."""

    def __init__(self) -> None:
        self._predict = environment_pipeline()

    @serve.batch(max_batch_size=batch_size(), batch_wait_timeout_s=BATCH_DELAY_MS / 1000)
    async def predict(self, inputs: list[Any]) -> list[Any]:
        """Answers a batch."""
        return list(self._predict(np.concatenate(inputs)))

    async def __call__(self, request: Request) -> Any:
        """Answers one request."""
        return (await self.predict(rows_of(await request.body()))).tolist()


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
    serve.run(Bench.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
