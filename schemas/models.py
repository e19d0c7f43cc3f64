"""How a model is to be loaded and served: every key of `POST /models` and of a workflow's `models:` section."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flowyard.schemas.tensors import TensorSpec

Workers = Annotated[int, Meta(ge=0, le=1_000, description="Number of worker processes per device.")]
BatchSize = Annotated[int, Meta(ge=1, le=65_536, description="Most requests that are computed together.")]
QueueSize = Annotated[int, Meta(ge=1, le=1_000_000, description="Most requests that wait; one more is answered 503.")]
DelayMs = Annotated[int, Meta(ge=0, le=3_600_000, description="Longest wait for company, in milliseconds.")]
IdleS = Annotated[int, Meta(ge=0, le=3_600, description="Seconds after which a surplus idle worker is stopped.")]
TimeoutS = Annotated[float, Meta(gt=0, le=86_400, description="Seconds until a request is given up.")]
Envelope = Annotated[
    Literal["body", "json", "kserve", "kservev2"], Meta(description="How the requests of a TorchServe handler are unwrapped.")
]

#: Parameters of a registration that are `options` of the handlers of TorchServe and MMS.
HANDLER_OPTIONS = ("handler", "service_envelope", "decode_input_request", "startup_timeout")


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model and how to serve it. `None` means: not said, use the default.

    Attributes:
        url: Path inside the archive, URL, or `module:callable` for Python.
        model: `name[:version]` of a model registered on the server, instead of `url`.
        engine: `OnnxRuntime`, `PyTorch`, `Python`; inferred from the files when absent.
        device: `cpu`, `gpu0`, `*`, or several joined by `;` (DJL §1.9).
        batching: `eager` takes what is queued as soon as a worker is free; `fill` waits up to `max_batch_delay` for a full batch.
        inputs: Declared input tensors, for models that do not state them.
        outputs: Declared output tensors.
        arguments: What the query of the URL, or DJL's `arguments`, says to the model (DJL §3.3).
        options: What the engine makes of it; `module:Class` of a state dict is `options["class"]`.
        dynamic_adapters: Whether requests may name adapters that are not registered, which the handler then finds (DJL §1.11).
        trusted: Whether formats that can run code when they are read (pickle) may be loaded.
    """

    url: str = ""
    model: str = ""
    engine: str | None = None
    device: str | None = None
    batch_size: BatchSize | None = None
    max_batch_delay: DelayMs | None = None
    batching: Literal["eager", "fill"] | None = None
    min_worker: Workers | None = None
    max_worker: Workers | None = None
    job_queue_size: QueueSize | None = None
    max_idle_time: IdleS | None = None
    timeout: TimeoutS | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    arguments: dict[str, str] = {}
    options: dict[str, str] = {}
    dynamic_adapters: bool | None = None
    trusted: bool = False


def handler_options(given: object) -> dict[str, str]:
    """What is said of `HANDLER_OPTIONS`, as the `options` of a `ModelSpec` have it.

    Args:
        given: Something with these attributes, `None` where they are not said.
    """
    said = {name: getattr(given, name) for name in HANDLER_OPTIONS}
    return {name: _option(value) for name, value in said.items() if value is not None}


def _option(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
