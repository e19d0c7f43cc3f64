"""The ready-made handler of XGBoost models: JSON and UBJSON, and with trust pickle and the old binary format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.tabular import TabularHandler


class XGBoostHandler(TabularHandler):
    """Loads a booster and predicts with it."""

    formats: ClassVar = {"json": ("json",), "ubj": ("ubj",), "pickle": ("pkl", "pickle"), "xgb": ("xgb", "model", "bst")}
    default_format = "json"
    insecure = frozenset({"pickle", "xgb"})

    def load(self, file: Path, model_format: str) -> Any:
        """Loads a booster."""
        if model_format == "pickle":
            import pickle  # noqa: PLC0415 - permitted twice: in the model's file and at its registration

            return pickle.loads(file.read_bytes())  # noqa: S301
        import xgboost  # noqa: PLC0415 - an extra

        booster = xgboost.Booster()
        booster.load_model(file)
        return booster

    def predict(self, rows: Any) -> Any:
        """What the booster predicts."""
        import xgboost  # noqa: PLC0415 - an extra

        return self.model.predict(xgboost.DMatrix(rows))


_service = XGBoostHandler()


def handle(inputs: Input) -> Output | None:
    """Answers one request, or initialises the model."""
    return _service.handle(inputs)
