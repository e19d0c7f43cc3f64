"""What handlers of tables have in common: rows of numbers in CSV or JSON, predictions out."""

from __future__ import annotations

import abc
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from djl_python.custom_formatter_handling import CustomFormatterHandler
from djl_python.encode_decode import decode
from djl_python.inputs import Input
from djl_python.outputs import Output

JSON = "application/json"
CSV = "text/csv"


class TabularHandler(CustomFormatterHandler, abc.ABC):
    """A handler of one model file; functions of the model's own `model.py` may replace each step.

    Attributes:
        formats: File endings by `option.model_format`.
        default_format: The format where the option is not given.
        insecure: Formats whose files can run code when they are read.
    """

    formats: Mapping[str, tuple[str, ...]]
    default_format: str
    insecure: frozenset[str]

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = None
        self.initialized = False
        self.properties: dict[str, Any] = {}

    @abc.abstractmethod
    def load(self, file: Path, model_format: str) -> Any:
        """Loads the model file."""

    @abc.abstractmethod
    def predict(self, rows: Any) -> Any:
        """Predicts rows of numbers: an array, one row each."""

    def handle(self, inputs: Input) -> Output | None:
        """Answers one request, or initialises the model."""
        if not self.initialized:
            self._initialize(inputs.get_properties())
        return None if inputs.is_empty() else self._answer(inputs)

    def _initialize(self, properties: Mapping[str, Any]) -> None:
        self.properties = dict(properties)
        folder = str(properties["model_dir"])
        self.load_formatters(folder)
        self.model = self.apply_init_handler(folder)
        if self.model is None:
            self.model = self._load(Path(folder))
        self.initialized = True

    def _load(self, folder: Path) -> Any:
        model_format = str(self.properties.get("model_format") or self.default_format)
        if model_format not in self.formats:
            raise ValueError(f"option.model_format: {model_format!r} is not one of {', '.join(self.formats)}")
        if model_format in self.insecure:
            self._check_trust(model_format)
        files = sorted(file for ending in self.formats[model_format] for file in folder.glob(f"*.{ending}"))
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"one file of format {model_format} (option.model_format) is expected, found {found}")
        return self.load(files[0], model_format)

    def _check_trust(self, model_format: str) -> None:
        if str(self.properties.get("trust_insecure_model_files", "")).lower() != "true":
            raise ValueError(f"{model_format} files can run code: option.trust_insecure_model_files=true permits them")
        if self.properties.get("trusted") != "true":
            raise ValueError(f"{model_format} files can run code: the model must be registered with trusted=true")

    def _answer(self, inputs: Input) -> Output:
        content_type = inputs.get_property("content-type") or JSON
        accept = inputs.get_property("accept") or "*/*"
        if accept == "*/*":
            accept = str(self.properties.get("default_accept") or JSON)
        if self.output_formatter is None and JSON not in accept and CSV not in accept:
            raise ValueError(f"Accept: {accept!r} is not supported; {JSON} and {CSV} are")
        rows = self.apply_input_formatter(inputs, content_type=content_type)
        if rows is inputs:
            rows = _rows(inputs, content_type)
        predictions = self.apply_prediction_handler(rows, self.model)
        return self._told(self.predict(rows) if predictions is None else predictions, accept)

    def _told(self, predictions: Any, accept: str) -> Output:
        output = Output()
        formatted = self.apply_output_formatter(predictions, accept=accept)
        if formatted is not predictions:
            if self.is_sagemaker_script:
                output.add_property("Content-Type", accept)
            return output.add(formatted)
        if CSV in accept:
            table = io.StringIO()
            np.savetxt(table, np.asarray(predictions), fmt="%s", delimiter=",")
            return output.add_property("Content-Type", CSV).add(table.getvalue().rstrip())
        return output.add_property("Content-Type", JSON).add_as_json({"predictions": np.asarray(predictions).tolist()})


def _rows(inputs: Input, content_type: str) -> Any:
    """The rows of a request, as an array of two axes."""
    data = decode(inputs, content_type, require_csv_headers=False)
    if isinstance(data, dict):
        data = data.get("inputs", data.get("instances"))
    rows = np.array(data)
    if rows.dtype.kind not in "biuf" or not 1 <= rows.ndim <= 2:
        raise ValueError(f"rows of numbers are expected in {content_type}: a list of lists, {{'inputs': [[...]]}}, or CSV")
    return rows.reshape(1, -1) if rows.ndim == 1 else rows
