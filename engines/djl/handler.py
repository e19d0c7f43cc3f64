"""Runs handlers written for DJL Serving: `handle(inputs: Input) -> Output` (DJL §7.1). Only ever imported in a worker."""

from __future__ import annotations

import ast
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from djl_python.outputs import Output
from flowyard.engines.background import Background, is_cancelled
from flowyard.engines.base import Call, ModelSource, Outcome, Stream
from flowyard.engines.djl.asynchronous import answer_of_call, called
from flowyard.engines.djl.folder import HANDLER, SKLEARN, SKLEARN_SUFFIXES
from flowyard.engines.djl.messages import answer_of, answers_of_batch, batch_of, input_of, is_whole
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.engines.imports import load_module, while_loading
from flowyard.engines.messages import whole_answers
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import EngineOutOfMemoryError, FlowyardError, InvalidInputError, InvalidModelError, OutOfMemoryError
from flowyard.schemas.messages import Message
from flowyard.schemas.redaction import without_host_paths
from flowyard.schemas.values import Value

#: The status of an output that tells of too little memory.
OUT_OF_MEMORY = 507
#: What a handler that knows batches uses to tell their members apart.
_BATCH_WORDS = frozenset({"get_batches", "get_batch_size", "is_batch", "batch_index"})
#: What the runtimes of large models say when they have no room; the rest is known to every engine.
_NO_ROOM = ("No available memory for the cache blocks", "CUDA error: out of memory")


def load(source: ModelSource, device: Device) -> HandlerModel:
    """Imports a handler's module and makes the initialising call.

    Args:
        source: `path` is the file, or a module of `djl_python`; `root` its folder; `properties` what its file says.
        device: Where it is to run.

    Returns:
        The model.

    Raises:
        InvalidModelError: There is no such module or function, or the initialising call failed; the message says how.
        EngineOutOfMemoryError: There was no memory for it.
    """
    root = Path(source.root)
    name = source.properties.get("handler", "").strip() or HANDLER
    module = load_module(source.path, root)
    if not callable(getattr(module, name, None)) and name == HANDLER:
        # A file without a handler adds its functions to a ready-made one.
        ready_made = recommended(root)
        module = load_module(ready_made, root) if ready_made else module
    if not callable(getattr(module, name, None)):
        raise InvalidModelError(f"{Path(source.path).name} has no function {name!r}; option.handler names another one")
    is_async = source.properties.get("async_mode", "").strip().lower() == "true"
    model = (AsyncHandlerModel if is_async else HandlerModel)(module, name, source, device)
    model.initialise(root)
    return model


def recommended(folder: Path) -> str:
    """The module of `djl_python` that handles a folder's models, empty where none does (DJL §4.1)."""
    return SKLEARN if any(file.suffix in SKLEARN_SUFFIXES for file in folder.iterdir()) else ""


class HandlerModel:
    """A module with a handler, ready to predict."""

    signature = None

    def __init__(self, module: ModuleType, handler: str, source: ModelSource, device: Device) -> None:
        """Takes a module.

        Args:
            module: What has been imported.
            handler: The function that takes requests which name no other.
            source: Where it came from, and its properties.
            device: Where it runs.
        """
        self._module = module
        self._handler = handler
        self._properties = source.properties
        self._trusted = source.spec.trusted
        self._shown = {"device_id": str(device.id), "cluster_size": 1, "model_dir": source.root}
        self._knows_batches = _mentions(module, _BATCH_WORDS)

    def initialise(self, root: Path) -> None:
        """Calls the handler without content, as it expects before the first request.

        Raises:
            InvalidModelError: It raised, or gave an `Output` with a status of 300 or more.
            EngineOutOfMemoryError: It took more memory than there is.
        """
        trusted = (("trusted", "true"),) if self._trusted else ()
        message = Message(properties=(*self._properties.items(), *trusted))
        inputs = input_of(message, self._handler, self._shown)
        try:
            output = self._invoke(self._handler, inputs)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            if _is_out_of_memory(error):
                log(error)
                raise EngineOutOfMemoryError("OOM") from None
            failure = while_loading(error, root)
            raise InvalidModelError(f"Failed to initialize model: invoke handler failure: {failure}") from None
        code = getattr(output, "code", 200)
        if code == OUT_OF_MEMORY:
            raise EngineOutOfMemoryError("OOM")
        if code >= 300:
            raise InvalidModelError(f"Failed to initialize model: {output.message}")

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch: in one call where the handler knows batches, else one by one."""
        if len(batch) > 1 and self._knows_batches and not any(call.callee for call in batch):
            answers = self._predict_batch([_message(call) for call in batch])
            if answers is not None:
                return answers
        return [self._predict_one(call) for call in batch]

    def unload(self) -> None:
        """Nothing is held but the module."""

    def _predict_one(self, call: Call) -> Outcome:
        name = call.callee or self._handler
        try:
            return answer_of(self._invoke(name, input_of(_message(call), name, self._shown)))
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            return failure_of(error)

    def _predict_batch(self, messages: Sequence[Message]) -> list[Outcome] | None:
        """The answers of a batch; `None` where it has failed, so that each request may be tried alone."""
        try:
            output = self._invoke(self._handler, batch_of(messages, self._handler, self._shown))
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            log(error)
            return None
        if not is_whole(output, len(messages)):
            return None
        return answers_of_batch(output, len(messages))

    def _function(self, name: str) -> Callable[[Any], Any]:
        function = getattr(self._module, name, None)
        if not callable(function):
            raise InvalidInputError(f"the model has no function {name!r}")
        return cast("Callable[[Any], Any]", function)

    def _invoke(self, name: str, inputs: Any) -> Any:
        return self._function(name)(inputs)


class AsyncHandlerModel(HandlerModel):
    """A module whose handler is awaited, for many requests at the same time (DJL §7.1, `async_mode`).

    Attributes:
        loop: The event loop that everything of the module is called on.
    """

    def __init__(self, module: ModuleType, handler: str, source: ModelSource, device: Device) -> None:
        """Takes a module, as its base does."""
        super().__init__(module, handler, source, device)
        self._background = Background()
        self.loop = self._background.loop

    async def answer(self, call: Call) -> Outcome | AsyncGenerator[Value]:
        """Awaits the handler, which gets a batch of one, or another function of the module, which takes no batch."""
        if call.callee:
            return await self._answer_of_other(call)
        try:
            inputs = batch_of([_message(call)], self._handler, self._shown)
        except FlowyardError as error:
            return error
        return await answer_of_call(self._function(self._handler), inputs)

    async def _answer_of_other(self, call: Call) -> Outcome:
        try:
            inputs = input_of(_message(call), call.callee, self._shown)
            answer = answer_of(await called(self._function(call.callee), inputs))
            return answer.collect() if isinstance(answer, Stream) else answer
        except BaseException as error:
            if is_cancelled():
                raise
            return failure_of(error)

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Awaits the handlers of all calls at the same time, and what they yield."""
        return self._background.run(whole_answers(self.answer, batch))

    def unload(self) -> None:
        """Ends the event loop."""
        self._background.close()

    def _invoke(self, name: str, inputs: Any) -> Any:
        return self._background.run(called(self._function(name), inputs))


def failure_of(error: BaseException) -> Outcome:
    """What a request gets whose handler raised: 424 with the error's text, 507 when it ran out of memory (DJL §2.8)."""
    if isinstance(error, FlowyardError):
        return error
    log(error)
    if _is_out_of_memory(error):
        return OutOfMemoryError(describe(error))
    return answer_of(Output().error(without_host_paths(str(error))))


def _is_out_of_memory(error: BaseException) -> bool:
    return is_out_of_memory(error) or any(text in str(error) for text in _NO_ROOM)


def _message(call: Call) -> Message:
    if len(call.args) != 1 or not isinstance(call.args[0], Message):
        raise InvalidInputError(f"a handler takes one message, not {len(call.args)} values")
    return call.args[0]


def _mentions(module: ModuleType, words: frozenset[str]) -> bool:
    """Whether a module's source uses one of some names."""
    file = getattr(module, "__file__", None)
    if not file:
        return False
    tree = ast.parse(Path(file).read_bytes())
    return any(
        (isinstance(node, ast.Attribute) and node.attr in words) or (isinstance(node, ast.keyword) and node.arg in words)
        for node in ast.walk(tree)
    )
