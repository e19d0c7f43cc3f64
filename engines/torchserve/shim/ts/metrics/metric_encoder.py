"""Metrics as JSON."""

from __future__ import annotations

import json
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric


class MetricEncoder(json.JSONEncoder):
    """Encodes metrics and dimensions."""

    def default(self, o: Any) -> Any:
        """What JSON does not know itself."""
        return o.to_dict() if isinstance(o, Metric | Dimension) else super().default(o)
