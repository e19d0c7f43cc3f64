"""The metrics of a handler, as `context.metrics` has them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric_cache_errors import MetricsCacheTypeError
from ts.metrics.metric_type_enum import MetricTypes


class MetricCacheAbstract(abc.ABC):
    """Takes values of metrics, which are made when they are first named."""

    def __init__(self, config_file_path: str = "", model_name: str = "") -> None:
        self.config_file_path = config_file_path
        self.model_name = model_name
        self.cache: dict[MetricTypes, dict[str, Any]] = {kind: {} for kind in MetricTypes}
        self.store: list[Any] = []
        self.request_ids: dict[int, str] | str | None = None

    def set_request_ids(self, request_ids: dict[int, str] | str) -> None:
        """Another batch begins, or something that is no request: then it is an id alone."""
        self.request_ids = request_ids

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Takes a value of any metric.

        Args:
            name: Its name.
            value: A number.
            unit: Its unit: `ms`, `s`, `percent`, `count`, `MB`, … or any other word.
            idx: The request of the batch that it belongs to; without, all of them.
            dimensions: What else there is to say of it.
            metric_type: Its kind.
        """
        request_id = self._get_req(idx)
        told = self._add_default_dims(request_id, dimensions)
        metric = self._get_or_add_metric(name, unit, told, metric_type)
        metric.add_or_update(value, [dimension.value for dimension in told], request_id)

    def add_counter(self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None) -> None:
        """Adds to a counter; arguments as for `add_metric`."""
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Takes a time in `ms` or `s`; arguments as for `add_metric`."""
        self._check_unit(unit, ("ms", "s"))
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Takes a size in `MB`, `kB`, `GB` or `B`; arguments as for `add_metric`."""
        self._check_unit(unit, ("MB", "kB", "GB", "B"))
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Takes a percentage; arguments as for `add_metric`."""
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Counts an error that belongs to no request; arguments as for `add_metric`."""
        told = self._add_default_dims(None, dimensions)
        metric = self._get_or_add_metric(name, "", told, MetricTypes.COUNTER)
        metric.add_or_update(value, [dimension.value for dimension in told], "")

    def _get_or_add_metric(self, name: str, unit: str, dimensions: list[Dimension], metric_type: MetricTypes) -> Any:
        metric = self.cache[metric_type].get(name)
        if metric is None:
            metric = self.add_metric_to_cache(name, unit, [dimension.name for dimension in dimensions], metric_type)
        return metric

    def _add_default_dims(self, request_id: str | None, dimensions: Sequence[Dimension] | None) -> list[Dimension]:
        if dimensions is not None and not isinstance(dimensions, list | tuple):
            raise ValueError("Please provide a list of dimensions")
        told = list(dimensions or ())
        names = {dimension.name for dimension in told}
        if request_id is None:
            return told if "Level" in names else [*told, Dimension("Level", "Error")]
        defaults = (Dimension("ModelName", self.model_name), Dimension("Level", "Model"))
        return [*told, *(dimension for dimension in defaults if dimension.name not in names)]

    def _get_req(self, idx: int | None) -> str | None:
        if self.request_ids is None:
            return None
        if isinstance(self.request_ids, str):
            return self.request_ids
        if idx is not None and idx in self.request_ids:
            return self.request_ids[idx]
        return ",".join(self.request_ids.values())

    @staticmethod
    def _check_unit(unit: str, known: tuple[str, ...]) -> None:
        if unit not in known:
            raise ValueError(f"the unit for a timed or sized metric should be one of {list(known)}, not {unit!r}")

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> Any:
        """A metric that has been made before.

        Raises:
            MetricsCacheKeyError: There is none.
        """
        from ts.metrics.metric_cache_errors import MetricsCacheKeyError

        if metric_name not in self.cache[metric_type]:
            raise MetricsCacheKeyError(f"Metric with name '{metric_name}' not found")
        return self.cache[metric_type][metric_name]

    @abc.abstractmethod
    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> Any:
        """Makes a metric."""

    @staticmethod
    def _check_type(variable: object, expected_type: type, helper_text: str) -> None:
        if not isinstance(variable, expected_type):
            raise MetricsCacheTypeError(helper_text)
