"""The engine alone, in a loop, on one core: `python -m benchmarks.rawloop WORKLOAD MODELS SECONDS BATCH [BATCH ...]`.

Prints rows per second for each batch size as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peers.pipelines import Pipeline, pipeline
from benchmarks.processes import SERVER_CORE
from benchmarks.workloads import workloads


def main() -> None:
    """Measures each batch size for the given time."""
    name, models, seconds, *batches = sys.argv[1:]
    os.sched_setaffinity(0, {SERVER_CORE})
    predict = pipeline(name, Path(models))
    row = workloads()[name].rows.astype(np.float32)
    rates = {batch: _rate(predict, np.repeat(row, int(batch), axis=0), float(seconds)) for batch in batches}
    print(json.dumps(rates))


def _rate(predict: Pipeline, rows: np.ndarray, seconds: float) -> float:
    for _ in range(3):
        predict(rows)
    calls, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        predict(rows)
        calls += 1
    return round(calls * len(rows) / passed, 3)


if __name__ == "__main__":
    main()
