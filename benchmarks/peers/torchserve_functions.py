"""The functions of the workload `dag` in TorchServe's own workflow: values go from node to node as bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def prepare(data: Any, context: Any) -> Any:
    """Pixels to what the models take."""
    if not data:
        return None
    pixels = [np.frombuffer(bytes(request.get("body") or request["data"]), np.uint8) for request in data]
    return [json.dumps((one.astype(np.float32) / np.float32(255)).tolist()) for one in pixels]


def merge(data: Any, context: Any) -> Any:
    """The mean of what both models gave."""
    if not data:
        return None
    both = [[json.loads(bytes(request[name])) for name in ("a", "b")] for request in data]
    return [json.dumps(((np.asarray(left) + np.asarray(right)) / 2).tolist()) for left, right in both]
