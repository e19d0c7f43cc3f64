"""Runs handlers of TorchServe and Multi Model Server: `handle(data, context)`. Only ever imported in a worker."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import mms.context
import ts.context
from flowyard.engines.base import Call, ModelSource, Outcome
from flowyard.engines.failures import is_out_of_memory, log
from flowyard.engines.imports import load_callable, while_loading
from flowyard.engines.torchserve import folder
from flowyard.engines.torchserve.config import load_yaml
from flowyard.engines.torchserve.requests import answer_of, failure, request_of, row_of
from flowyard.engines.torchserve.resolve import Entry, classes_of, import_handler, resolve
from flowyard.engines.torchserve.streams import Intermediate
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import EngineOutOfMemoryError, FlowyardError, HandlerError, InvalidInputError, InvalidModelError
from flowyard.schemas.frames import Sample
from flowyard.schemas.messages import Message
from mms.model_service.model_service import ModelService
from ts import streaming
from ts.context import RequestProcessor
from ts.metrics import collected
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_type_enum import MetricTypes
from ts.utils.util import PredictionException

#: Versions that handlers are told.
TORCHSERVE_VERSION, MMS_VERSION = "0.12.0", "1.1.11"
DESCRIBE = "describe"

# What the servers say of a batch that has failed (reference of their worker protocol).
FAILED = ("Prediction failed", 503)
NO_LIST = ("Invalid model predict output", 503)
MISMATCH = ("number of batch response mismatched", 503)
NO_TYPE = ("Unsupported model output data type.", 503)
NO_ROOM = ("Out of resources", 507)


def load(source: ModelSource, device: Device, kind: Callable[..., HandlerModel]) -> HandlerModel:
    """Imports a handler, and initialises it.

    Args:
        source: `root` is the model's folder, `properties` what its archive says.
        device: Where it is to run.
        kind: Makes the model of its entry point: a `HandlerModel`, or what calls it in another way.

    Returns:
        The model.

    Raises:
        InvalidModelError: There is no such handler, or its initialisation raised; the message says where.
        EngineOutOfMemoryError: There was no memory for it.
    """
    given = source.properties
    if given.get(folder.RUNTIME) == "lsp":
        raise InvalidModelError("the runtime LSP (handlers in C++) is not supported")
    root = Path(source.root)
    is_mms = source.handlers == "mms"
    metrics = _metrics(given, is_mms=is_mms)
    context = _context(source, root, device, metrics, is_mms=is_mms)
    decode = given.get(folder.DECODE, "true").lower() == "true"
    try:
        if given.get("manifest") == folder.LEGACY_MANIFEST:
            entry = _legacy_entry(given[folder.HANDLER], root, context)
        else:
            module, found = resolve(given.get(folder.HANDLER, ""), root)
            entry = _initialised(module, found, context, forgiving=is_mms)
        entry = _in_envelope(entry, given.get(folder.ENVELOPE, ""))
    except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
        raise _load_failure(error, root) from None
    return kind({"": entry}, context, metrics, decode=decode, is_mms=is_mms)


def load_functions(source: ModelSource) -> HandlerModel:
    """Imports the functions of a workflow's handler file, and calls each with `None`, as TorchServe does when it loads them.

    Args:
        source: `functions` names them.

    Returns:
        A model whose calls name the function.

    Raises:
        InvalidModelError: There is no such function, or its first call raised; the message says where.
        EngineOutOfMemoryError: There was no memory for it.
    """
    root = Path(source.root)
    metrics = _metrics(source.properties, is_mms=False)
    context = _context(source, root, Device("cpu"), metrics, is_mms=False)
    try:
        entries = {name: load_callable(reference, root) for name, reference in source.functions.items()}
        for entry in entries.values():
            entry(None, context)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
        raise _load_failure(error, root) from None
    return HandlerModel(entries, context, metrics, decode=True, is_mms=False)


def _load_failure(error: BaseException, root: Path) -> FlowyardError:
    if not isinstance(error, FlowyardError) and (is_out_of_memory(error) or "CUDA" in str(error)):
        log(error)
        return EngineOutOfMemoryError(f"Out of resources: {type(error).__name__}: {error}")
    return while_loading(error, root)


def _metrics(given: Mapping[str, str], *, is_mms: bool) -> MetricsCacheYamlImpl:
    """What handlers measure with. Those of TorchServe find there what the server's `metrics.yaml` declares."""
    metrics = MetricsCacheYamlImpl(model_name=given.get("model_name", ""))
    for name, unit, dimensions, kind in json.loads(given.get(folder.MODEL_METRICS, "[]")) if not is_mms else ():
        metrics.add_metric_to_cache(name, unit, dimensions, MetricTypes(kind))
    # What is measured before the first request belongs to none of them, and is the model's all the same.
    metrics.set_request_ids(str(uuid.uuid4()))
    return metrics


def _context(source: ModelSource, root: Path, device: Device, metrics: MetricsCacheYamlImpl, *, is_mms: bool) -> Any:
    given = source.properties
    file = given.get("manifest", "")
    manifest = json.loads((root / file).read_bytes()) if file else {}
    name = given.get("model_name", "")
    gpu = device.id if device.type == "gpu" else None
    size = source.spec.batch_size or 1
    if is_mms:
        found = mms.context.Context(name, source.root, manifest, size, gpu, MMS_VERSION)
        found.metrics = metrics
        return found
    config = load_yaml(root / given["config_file"]) if given.get("config_file") else {}
    context = ts.context.Context(name, source.root, manifest, size, gpu, TORCHSERVE_VERSION, True, metrics, config)
    context.trusted = source.spec.trusted
    for key in folder.SEQUENCE_HEADERS:
        setattr(context, key, given.get(key) or getattr(context, key))
    return context


def _initialised(module: ModuleType, found: Any, context: Any, *, forgiving: bool) -> Entry:
    """Makes the entry point ready: a function by a first call without data, an object by its `initialize`."""
    if not inspect.isclass(found):
        begun = found(None, context)
        if inspect.iscoroutine(begun):
            # TorchServe does not await it either.
            begun.close()
        entry: Entry = found
        return entry
    service = found()
    handle = getattr(service, "handle", None)
    if not callable(handle):
        raise InvalidModelError(f"{module.__name__}: Expect handle method in class {found.__name__}")
    initialize = getattr(service, "initialize", None)
    if initialize is not None:
        try:
            initialize(context)
        except Exception as error:
            # MMS goes on with whatever the object has become.
            if not forgiving:
                raise
            log(error)
    ready: Entry = handle
    return ready


def _legacy_entry(handler: str, root: Path, context: Any) -> Entry:
    """The service of an archive of MMS 0.x: an instance of its class that is derived from `ModelService`."""
    module = import_handler(handler, root)
    services = [one for one in classes_of(module) if issubclass(one, ModelService)]
    if not services:
        raise InvalidModelError(f"{handler}: no class derived from SingleNodeService in it")
    properties = context.system_properties
    service: Any = services[0](context.model_name, properties["model_dir"], context.manifest, properties["gpu_id"])
    service.initialize(context)
    entry: Entry = service.handle
    return entry


def _in_envelope(entry: Entry, name: str) -> Entry:
    if not name:
        return entry
    if name not in folder.ENVELOPES:
        raise InvalidModelError(f"{folder.ENVELOPE}: there is no envelope {name[:50]!r}; known are {', '.join(folder.ENVELOPES)}")
    from ts.torch_handler.request_envelope import envelope  # noqa: PLC0415

    wrapped: Entry = envelope(name)(entry).handle
    return wrapped


class HandlerModel:
    """Entry points, ready to predict.

    Attributes:
        context: What handlers are told besides the data.
        metrics: What they measure.
        decode: Whether JSON and text of requests are decoded for them.
        is_mms: Whether failures are told as MMS tells them.
    """

    signature = None

    def __init__(
        self, entries: dict[str, Entry], context: Any, metrics: MetricsCacheYamlImpl, *, decode: bool, is_mms: bool
    ) -> None:
        """Takes entry points.

        Args:
            entries: By the name that calls them; a model's only one has none.
            context: What they are told besides the data.
            metrics: What they measure; the context's own, which a handler may have put something else in the place of.
            decode: Whether JSON and text of requests are decoded for them.
            is_mms: Whether failures are told as MMS tells them.
        """
        self.context = context
        self.metrics = metrics
        self.decode = decode
        self.is_mms = is_mms
        self._entries = entries
        self._thread: ThreadPoolExecutor | None = None

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch in one call of the handler; functions, and requests for a description, are called one by one."""
        if len(batch) == 1:
            return self._together(batch)
        alone = [bool(call.callee) or message_of(call).get(DESCRIBE) == "True" for call in batch]
        if not any(alone):
            return self._together(batch)
        together = iter(self._together([call for call, is_alone in zip(batch, alone, strict=True) if not is_alone]))
        return [self._together([call])[0] if is_alone else next(together) for call, is_alone in zip(batch, alone, strict=True)]

    def take_metrics(self) -> list[Sample]:
        """What handlers, and this adapter, have measured since the last call."""
        return [Sample(*taken) for taken in collected.take()]

    def unload(self) -> None:
        """Ends the thread of streaming handlers, if there is one."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _together(self, batch: Sequence[Call]) -> list[Outcome]:
        if not batch:
            return []
        messages = [message_of(call) for call in batch]
        run = Run(self, self._entries[batch[0].callee], messages)
        if not streaming.wanted():
            run.run()
        else:
            # Pieces are taken here while the handler computes there.
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "handler")
            self._thread.submit(run.run)
            run.intermediate.changed.wait()
        return run.outcomes()


def message_of(call: Call) -> Message:
    """The message that a call of a handler has.

    Raises:
        InvalidInputError: It has something else.
    """
    if len(call.args) != 1 or not isinstance(call.args[0], Message):
        raise InvalidInputError(f"a handler takes one message, not {len(call.args)} values")
    return call.args[0]


class HandlerCall:
    """One call of a handler, with the rows of a batch.

    Attributes:
        context: What the handler is told besides the data.
        processors: What holds the headers of each request, and takes those of its answer.
    """

    def __init__(
        self,
        model: HandlerModel,
        entry: Entry,
        rows: Sequence[dict[str, Any]],
        requests: Sequence[tuple[str, RequestProcessor]],
        receiver: Any,
    ) -> None:
        """Takes requests.

        Args:
            model: Whose handler it is.
            entry: The handler.
            rows: The data of each request.
            requests: The id of each, and what holds its headers.
            receiver: Takes what the handler sends before it returns.
        """
        self.context = model.context
        self.processors = [processor for _, processor in requests]
        self._entry = entry
        self._metrics = model.metrics
        self._is_mms = model.is_mms
        self._rows = list(rows)
        self._request_ids = [request_id for request_id, _ in requests]
        self._receiver = receiver

    def compute(self) -> Sequence[Message | HandlerError]:
        """Calls the handler. Whatever it does, there is one result per row afterwards."""
        started = time.monotonic()
        try:
            self.tell()
            streaming.begin(self._receiver)
            return self.settled(self._entry(self._rows, self.context), started)
        except SystemExit as leaving:
            leave(leaving)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            return self.failed(error)

    def tell(self) -> None:
        """Tells the context of the requests; no other call may be under way with it."""
        context = self.context
        context.request_ids = dict(enumerate(self._request_ids))
        context.request_processor = self.processors
        context.cl_socket = self._receiver
        context.metrics = self._metrics
        self._metrics.set_request_ids(context.request_ids)

    def settled(self, results: Any, started: float) -> Sequence[Message | HandlerError]:
        """What the handler's results are for each row.

        Args:
            results: What it returned.
            started: When it was called, monotonic seconds.
        """
        answers = self._answers(results)
        if not isinstance(answers[0], HandlerError):
            self._metrics.record("PredictionTime", (time.monotonic() - started) * 1000)
        return answers

    def failed(self, error: BaseException) -> Sequence[Message | HandlerError]:
        """What each row is told of what the handler raised."""
        return self._all(self._failure(error))

    def mark(self, results: Sequence[Any]) -> None:
        """Sees the results of all rows before they are made answers."""

    def _answers(self, results: Any) -> Sequence[Message | HandlerError]:
        if not isinstance(results, list):
            return self._all(failure(*NO_LIST, detail=f"handle returned {type(results).__name__}, not a list"))
        if len(results) != len(self._rows):
            return self._all(failure(*MISMATCH, detail=f"{len(results)} results for {len(self._rows)} requests"))
        self.mark(results)
        try:
            return [answer_of(result, processor) for result, processor in zip(results, self.processors, strict=True)]
        except TypeError as error:
            return self._all(failure(*NO_TYPE, error=error))

    def _failure(self, error: BaseException) -> Message | HandlerError:
        log(error)
        if isinstance(error, PredictionException):
            return _of_prediction(error)
        if isinstance(error, MemoryError) or (not self._is_mms and (is_out_of_memory(error) or "CUDA" in str(error))):
            return failure(*NO_ROOM, error=error)
        return failure(*FAILED, error=error)

    def _all(self, result: Message | HandlerError) -> Sequence[Message | HandlerError]:
        return [result] * len(self._rows)


class Run(HandlerCall):
    """A batch that is computed in one call.

    Attributes:
        intermediate: Takes what the handler sends before it returns.
    """

    def __init__(self, model: HandlerModel, entry: Entry, messages: Sequence[Message]) -> None:
        """Takes the requests of a batch."""
        requests = [request_of(message) for message in messages]
        self.intermediate = Intermediate([processor for _, processor in requests])
        super().__init__(
            model, entry, [row_of(message, decode=model.decode) for message in messages], requests, self.intermediate
        )
        self._results: Sequence[Message | HandlerError] = ()

    def run(self) -> None:
        """Calls the handler; its results are the last pieces."""
        self._results = self.compute()
        self.intermediate.finish(self._results)

    def outcomes(self) -> list[Outcome]:
        """What became of each row; streams where the handler has sent pieces."""
        if self.intermediate.streams:
            return list(self.intermediate.streams)
        if self.intermediate.failed is not None:
            return list(self._all(self.intermediate.failed))
        return list(self._results)


def _of_prediction(error: PredictionException) -> Message | HandlerError:
    """A handler's own error, with its status; one with 200 is answered with the word `error`, as the servers do."""
    code = error.error_code
    if code == 200:
        return Message(contents=((None, b"error"),), types=("text/plain; charset=utf-8",))
    status = code if isinstance(code, int) and 200 < code <= 599 else 500
    return HandlerError(str(error.message), status=status)


def leave(leaving: SystemExit) -> NoReturn:
    """A handler that exits takes its worker along, as in these servers: its state would be of no further use."""
    log(leaving)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(leaving.code if isinstance(leaving.code, int) else 1)
