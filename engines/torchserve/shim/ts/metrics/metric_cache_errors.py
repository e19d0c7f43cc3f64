"""What goes wrong with metrics."""


class MetricsCacheKeyError(KeyError):
    """There is no such metric."""


class MetricsCacheTypeError(TypeError):
    """A value of the wrong type."""


class MetricsCachePyYamlError(Exception):
    """A file that cannot be read."""


class MetricsCacheEmptyYamlError(Exception):
    """A file with nothing in it."""
