"""Models and functions written in Python: a class with `predict(batch)`, or a function of one call's arguments."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from flowyard.engines.base import Call, ModelSource, Outcome, Stream, find_by_suffix
from flowyard.engines.failures import log, of_user_code
from flowyard.engines.imports import load_callable, load_module, while_loading
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError, InvalidModelError, NodeError
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Value


class PythonEngine:
    """Loads classes and functions from `.py` files and modules of the archive."""

    name: ClassVar[str] = "Python"
    suffixes: ClassVar[tuple[str, ...]] = (".py",)

    def recognise(self, path: Path) -> Path | None:
        """Finds the `.py` file at or in a path; among several, `model.py`."""
        return find_by_suffix(path, self.suffixes)

    def load(self, source: ModelSource, device: Device) -> PythonModel:
        """Imports what the source names, and sets it up.

        Args:
            source: `path` is `module:callable`, `file.py:callable`, a `.py` file, or a folder with one; for a worker of functions
                `functions` names them and `path` may be empty.
            device: Handed to the `load` method of a class as `cpu`, `gpu0`.

        Returns:
            The model.

        Raises:
            InvalidModelError: There is no such module or callable, or it raised; the message says in which line.
            OutOfMemoryError: It took more memory than there is.
        """
        loop = _Loop()
        root = Path(source.root)
        found = {name: load_callable(reference, root) for name, reference in source.functions.items()}
        if source.path and not source.functions:
            found[""] = self._callable(source, root)
        try:
            return PythonModel({name: _target(one, device, loop) for name, one in found.items()}, loop)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            loop.close()
            raise while_loading(error, root) from None

    def _callable(self, source: ModelSource, root: Path) -> Any:
        if ":" in source.path:
            return load_callable(source.path, root)
        file = self.recognise(source.file)
        if file is None:
            raise InvalidModelError(f"no single .py file at {source.path!r}; say which as file.py:callable")
        return _main_of(load_module(str(file), root))


def _main_of(module: ModuleType) -> Any:
    """What a file without a `:callable` stands for."""
    own = {name: one for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
    models = [one for name, one in own.items() if _is_model(one) and not name.startswith("_")]
    if _is_model(vars(module).get("Model")):
        return vars(module)["Model"]
    if callable(vars(module).get("predict")):
        return vars(module)["predict"]
    if len(models) == 1:
        return models[0]
    found = ", ".join(sorted(name for name, one in own.items() if callable(one))) or "nothing of the kind"
    looked_for = "a class Model, a function predict, or a single class with a predict method"
    raise InvalidModelError(f"{Path(module.__file__ or '').name}: looked for {looked_for}, found {found}")


def _is_model(one: object) -> bool:
    return inspect.isclass(one) and callable(getattr(one, "predict", None))


class _Loop:
    """The event loop of a worker, made when the first awaitable turns up."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def settle(self, results: Sequence[Any]) -> list[Any]:
        """Awaits those results that are awaitable, all at the same time; what they raise takes their place as an error."""
        if not any(inspect.isawaitable(result) for result in results):
            return list(results)
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_gather(results))

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Awaits one awaitable."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_coroutine(awaitable))

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


async def _coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _gather(results: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*(_settled(result) for result in results)))


async def _settled(result: Any) -> Any:
    return await _awaited(result) if inspect.isawaitable(result) else result


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - SystemExit and cancellation of user code end a call, not the worker
        return of_user_code(error)


class Pieces(Stream):
    """What a generator of user code yields, synchronous or not."""

    def __init__(self, generator: Generator[Value, Any, Any] | AsyncGenerator[Value, Any], loop: _Loop) -> None:
        self._generator = generator
        self._loop = loop

    def __next__(self) -> Value:
        """The next piece; what user code raises is a `FlowyardError`."""
        try:
            if isinstance(self._generator, Generator):
                return next(self._generator)
            return self._loop.run(anext(self._generator))
        except StopIteration:
            raise
        except StopAsyncIteration:
            raise StopIteration from None
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            raise of_user_code(error) from None

    def close(self) -> None:
        """Lets the generator clean up."""
        try:
            if isinstance(self._generator, Generator):
                self._generator.close()
            else:
                self._loop.run(self._generator.aclose())
        except BaseException as error:  # noqa: BLE001 - nobody is there to be told, but the log
            log(error)


class _Target(Protocol):
    """Something that computes calls."""

    def predict(self, calls: Sequence[Call]) -> list[Outcome]: ...


def _target(one: Any, device: Device, loop: _Loop) -> _Target:
    if not inspect.isclass(one):
        return _Function(one, loop)
    if not _is_model(one):
        raise InvalidModelError(f"class {one.__name__} has no predict method")
    instance: Any = one()
    if callable(getattr(instance, "load", None)):
        (loaded,) = loop.settle([instance.load(str(device))])
        if isinstance(loaded, FlowyardError):
            raise InvalidModelError(loaded.message)
    return _Instance(instance, loop)


class _Function:
    """A function of one call's arguments."""

    def __init__(self, function: Callable[..., Any], loop: _Loop) -> None:
        self._function = function
        self._loop = loop
        self._wants_context = _has_context(function)

    def predict(self, calls: Sequence[Call]) -> list[Outcome]:
        return self._loop.settle([self._begin(call) for call in calls])

    def _begin(self, call: Call) -> Any:
        try:
            if self._wants_context:
                return self._function(*call.args, context=call.context)
            return self._function(*call.args)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            return of_user_code(error)


def _has_context(function: Callable[..., Any]) -> bool:
    try:
        parameter = inspect.signature(function).parameters.get("context")
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return parameter is not None and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)


class _Instance:
    """An object with `predict(batch)`."""

    def __init__(self, instance: Any, loop: _Loop) -> None:
        self._instance = instance
        self._loop = loop

    def predict(self, calls: Sequence[Call]) -> list[Outcome]:
        outcomes = self._compute([_item(call) for call in calls])
        if isinstance(outcomes, list):
            return outcomes
        if len(calls) == 1:
            return [outcomes]
        return [outcome for call in calls for outcome in self.predict([call])]

    def _compute(self, items: list[Value]) -> list[Outcome] | FlowyardError:
        """Results of all items, or the error that stands for all."""
        try:
            (results,) = self._loop.settle([self._instance.predict(items)])
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            return of_user_code(error)
        if isinstance(results, FlowyardError):
            return results
        if inspect.isgenerator(results) or inspect.isasyncgen(results):
            # Its pieces are one item's; of a larger batch each item is given to it alone.
            return [results] if len(items) == 1 else NodeError("predict yields")
        return _checked(results, len(items))


def _item(call: Call) -> Value:
    """One item of a batch: the argument, or the list of several arguments."""
    return call.args[0] if len(call.args) == 1 else list(call.args)


def _checked(results: Any, count: int) -> list[Outcome] | FlowyardError:
    """The results as a list. Arrays and tensors with one row per item are taken as well."""
    is_rows = bool(getattr(results, "shape", ()))
    if not isinstance(results, (list, tuple)) and not is_rows:
        return NodeError(f"predict returned a {type(results).__name__}, expected a list with one result per item")
    if len(results) != count:
        return NodeError(f"predict returned {len(results)} results for {count} items")
    return list(results)


class PythonModel:
    """Callables by the name under which they are called; a model's own is the empty name."""

    def __init__(self, targets: dict[str, _Target], loop: _Loop) -> None:
        self._targets = targets
        self._loop = loop
        self.signature: Signature | None = None

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch: a class gets the items of the batch at once, a function each call by itself."""
        outcomes: list[Outcome] = [None] * len(batch)
        for callee in dict.fromkeys(call.callee for call in batch):
            places = [place for place, call in enumerate(batch) if call.callee == callee]
            for place, outcome in zip(places, self._predict(callee, [batch[n] for n in places]), strict=True):
                outcomes[place] = self._in_pieces(outcome)
        return outcomes

    def _in_pieces(self, outcome: Outcome) -> Outcome:
        return Pieces(outcome, self._loop) if inspect.isgenerator(outcome) or inspect.isasyncgen(outcome) else outcome

    def _predict(self, callee: str, calls: list[Call]) -> list[Outcome]:
        target = self._targets.get(callee, self._targets.get(""))
        if target is None:
            return [NodeError(f"no function {callee!r} in this worker") for _ in calls]
        return target.predict(calls)

    def unload(self) -> None:
        """Drops the callables and ends the event loop."""
        self._targets = {}
        self._loop.close()
