"""A step of the workload `dag` in Triton's Python backend, for Triton's own ensemble; the model's name says which."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# The backend's interpreter ignores PYTHONPATH.
sys.path[:0] = os.environ["PYTHONPATH"].split(":")

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from pipelines import dag_step  # noqa: E402


class TritonPythonModel:
    """Runs one step."""

    def initialize(self, args: Any) -> None:
        """Loads its model, if it has one."""
        self._step = dag_step(args["model_name"], Path(os.environ["BENCH_MODELS"]))
        self._inputs = [given["name"] for given in json.loads(args["model_config"])["input"]]

    def execute(self, requests: Any) -> Any:
        """Answers a batch."""
        columns = [[triton.get_input_tensor_by_name(one, name).as_numpy() for one in requests] for name in self._inputs]
        answers = self._step(*(np.concatenate(column) if len(column) > 1 else column[0] for column in columns))
        responses, start = [], 0
        for rows in columns[0]:
            responses.append(triton.InferenceResponse([triton.Tensor("y", answers[start : start + len(rows)])]))
            start += len(rows)
        return responses
