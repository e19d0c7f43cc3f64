"""LitServe: one API server, one worker, dynamic batching. Its fast queue is slower on one core."""

from __future__ import annotations

import os
from typing import Any

import litserve
import numpy as np
from pipelines import BATCH_DELAY_MS, batch_size, environment_pipeline, rows_of


class Bench(litserve.LitAPI):
    """Runs the workload of the environment. Binary bodies come as the file of a form, its way of taking them."""

    def setup(self, device: Any) -> None:
        """Loads the models."""
        self._predict = environment_pipeline()

    def decode_request(self, request):
        """JSON or a form to rows."""
        return rows_of(request if isinstance(request, list) else request["content"].file.read())

    def batch(self, inputs: Any) -> Any:
        """Concatenates."""
        return np.concatenate(inputs)

    def predict(self, x: Any) -> Any:
        """Answers a batch."""
        return self._predict(x)

    def unbatch(self, output: Any) -> Any:
        """Takes the answers apart."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """One answer as lists."""
        return output.tolist()


if __name__ == "__main__":
    server = litserve.LitServer(
        Bench(max_batch_size=batch_size(), batch_timeout=BATCH_DELAY_MS / 1000),
        accelerator="cpu",
        devices=1,
        workers_per_device=1,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="error",
        access_log=False,
    )
