"""What a model's own `model.py` adds to a ready-made handler: marked functions, or those that SageMaker's scripts have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from djl_python.service_loader import find_decorated_function, load_model_module

_MARKS = {
    "init_handler": "is_init_handler",
    "input_formatter": "is_input_formatter",
    "prediction_handler": "is_prediction_handler",
    "output_formatter": "is_output_formatter",
}
_SAGEMAKER = {
    "init_handler": "model_fn",
    "input_formatter": "input_fn",
    "prediction_handler": "predict_fn",
    "output_formatter": "output_fn",
}


class CustomFormatterError(Exception):
    """A function of the model's own has raised.

    Attributes:
        original_exception: What it raised.
    """

    def __init__(self, message: str, original_exception: BaseException) -> None:
        super().__init__(f"{message}: {original_exception}")
        self.original_exception = original_exception
        self.__cause__ = original_exception


class CustomFormatterHandler:
    """A ready-made handler, with the functions of the model's own that take the place of its steps."""

    def __init__(self) -> None:
        self.init_handler: Callable[..., Any] | None = None
        self.input_formatter: Callable[..., Any] | None = None
        self.prediction_handler: Callable[..., Any] | None = None
        self.output_formatter: Callable[..., Any] | None = None
        self.is_sagemaker_script = False

    def load_formatters(self, model_dir: str) -> None:
        """Finds them in `model.py`: the marked ones, else those of a SageMaker script.

        Raises:
            CustomFormatterError: `model.py` cannot be imported.
        """
        try:
            module = load_model_module(model_dir)
        except BaseException as error:
            raise CustomFormatterError("model.py cannot be imported", error) from error
        if module is None:
            return
        found = {step: find_decorated_function(module, mark) for step, mark in _MARKS.items()}
        if not any(found.values()):
            found = {step: getattr(module, name, None) for step, name in _SAGEMAKER.items()}
            self.is_sagemaker_script = any(found.values())
        for step, function in found.items():
            setattr(self, step, function if callable(function) else None)

    def apply_init_handler(self, model_dir: str, **kwargs: Any) -> Any:
        """Loads the model; `None` where no function of the model's own does."""
        return _call("init_handler", self.init_handler, model_dir, **kwargs)

    def apply_input_formatter(self, inputs: Any, **kwargs: Any) -> Any:
        """Makes the model's input of a request; the request itself where no function of the model's own does."""
        if self.input_formatter is None:
            return inputs
        if self.is_sagemaker_script:
            return _call("input_fn", self.input_formatter, inputs.get_as_bytes(), kwargs.get("content_type"))
        return _call("input_formatter", self.input_formatter, inputs, **kwargs)

    def apply_prediction_handler(self, data: Any, model: Any, **kwargs: Any) -> Any:
        """Predicts; `None` where no function of the model's own does."""
        return _call("prediction_handler", self.prediction_handler, data, model, **kwargs)

    def apply_output_formatter(self, prediction: Any, **kwargs: Any) -> Any:
        """Makes the answer of a prediction; the prediction itself where no function of the model's own does."""
        if self.output_formatter is None:
            return prediction
        if self.is_sagemaker_script:
            return _call("output_fn", self.output_formatter, prediction, kwargs.get("accept"))
        return _call("output_formatter", self.output_formatter, prediction)


def _call(name: str, function: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
    if function is None:
        return None
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise CustomFormatterError(f"{name} failed", error) from error
