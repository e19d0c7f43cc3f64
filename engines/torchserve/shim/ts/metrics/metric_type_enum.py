"""Kinds of metrics."""

import enum


class MetricTypes(enum.Enum):
    """What becomes of a value that is not the first."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
