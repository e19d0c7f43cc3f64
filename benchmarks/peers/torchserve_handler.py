"""TorchServe's handler: a list of requests in, a list of answers out."""

from __future__ import annotations

from typing import Any

import numpy as np
from pipelines import environment_pipeline, rows_of

_state: dict[str, Any] = {}


def handle(data: Any, context: Any) -> Any:
    """Answers a batch; called with no data once, to load."""
    if "predict" not in _state:
        _state["predict"] = environment_pipeline()
    if not data:
        return None
    inputs = [rows_of(request.get("body") if "body" in request else request["data"]) for request in data]
    return _state["predict"](np.concatenate(inputs)).tolist()
