"""The ready-made handler of scikit-learn models: skops, and with trust joblib, pickle and cloudpickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.tabular import TabularHandler


class SklearnHandler(TabularHandler):
    """Loads an estimator and predicts with it."""

    formats: ClassVar = {
        "skops": ("skops",),
        "joblib": ("joblib", "jl"),
        "pickle": ("pkl", "pickle"),
        "cloudpickle": ("pkl", "pickle", "cloudpkl"),
    }
    default_format = "skops"
    insecure = frozenset({"joblib", "pickle", "cloudpickle"})

    def load(self, file: Path, model_format: str) -> Any:
        """Loads an estimator; of a skops file only types that are known to be safe, or are listed as trusted."""
        if model_format == "skops":
            import skops.io as sio  # noqa: PLC0415 - an extra

            listed = str(self.properties.get("skops_trusted_types", "")).split(",")
            return sio.load(file, trusted=[name.strip() for name in listed if name.strip()])
        if model_format == "joblib":
            import joblib  # noqa: PLC0415 - an extra

            return joblib.load(file)
        import pickle  # noqa: PLC0415 - permitted twice: in the model's file and at its registration

        return pickle.loads(file.read_bytes())  # noqa: S301

    def predict(self, rows: Any) -> Any:
        """What the estimator predicts."""
        return self.model.predict(rows)


_service = SklearnHandler()


def handle(inputs: Input) -> Output | None:
    """Answers one request, or initialises the model."""
    return _service.handle(inputs)
