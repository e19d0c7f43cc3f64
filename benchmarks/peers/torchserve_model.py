"""A model of the workload `dag` as a handler of TorchServe, for a node of its workflow; the model's name says which."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from pipelines import dag_step

_state: dict[str, Any] = {}


def handle(data: Any, context: Any) -> Any:
    """Answers a batch; called with no data once, to load."""
    if "predict" not in _state:
        # TorchServe names the model of a node `workflow__node`.
        _state["predict"] = dag_step(context.model_name.rpartition("__")[2], Path(os.environ["BENCH_MODELS"]))
    if not data:
        return None
    rows = [json.loads(bytes(request.get("body") or request["data"])) for request in data]
    answers = _state["predict"](np.asarray(rows, np.float32))
    return [json.dumps(answer) for answer in answers.tolist()]
