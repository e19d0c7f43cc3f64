"""What an engine is: the protocol that every adapter implements, in flowyard or elsewhere."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import msgspec

from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError
from flowyard.schemas.frames import Context, Sample
from flowyard.schemas.messages import Handlers
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Value


class Stream(Iterator[Value], abc.ABC):
    """A result that comes in pieces. `next` raises a `FlowyardError` when it fails."""

    @abc.abstractmethod
    def close(self) -> None:
        """Nobody wants the rest."""

    def collect(self) -> Value:
        """All pieces as one value, for those who take no stream. Raises a `FlowyardError` when it fails."""
        return list(self)


#: What became of one call: its value, a `Stream` of pieces, or the error that fails it and only it.
Outcome: TypeAlias = Value | FlowyardError


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    """What to load.

    Attributes:
        root: Folder of the unpacked archive.
        path: The model: a file or folder, absolute or relative to `root`, or `module:callable` for Python.
        spec: What the user said about the model.
        functions: For a worker of functions: name -> `module:callable`.
        threads: Intra-op threads the engine may use.
        properties: Of a model with handlers of DJL, TorchServe or MMS: what its own files say about how it is to be loaded.
        handlers: Whose handlers they are.
    """

    root: str
    path: str
    spec: ModelSpec = msgspec.field(default_factory=ModelSpec)
    functions: dict[str, str] = {}
    threads: int = 1
    properties: dict[str, str] = {}
    handlers: Handlers = ""

    @property
    def file(self) -> Path:
        """`path` as a path of the file system."""
        return Path(self.root, self.path)


class Call(msgspec.Struct, frozen=True, gc=False):
    """One job of a batch.

    Attributes:
        callee: The function to call; empty for a model.
        args: The arguments, in order.
        context: What the call may know of its request.
    """

    callee: str
    args: list[Value]
    context: Context = Context()


class LoadedModel(Protocol):
    """A model that is ready to predict. It is used by one thread."""

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs, `None` where the engine does not know them."""

    def predict(self, batch: Sequence[Call]) -> Sequence[Outcome]:
        """Computes a batch.

        Args:
            batch: The calls, at least one. Their arrays are read-only.

        Returns:
            One outcome per call, in order. An error is returned, not raised: it fails its own call only.
        """

    def unload(self) -> None:
        """Frees what the model holds. It is not used afterwards."""


@runtime_checkable
class AsynchronousModel(Protocol):
    """A model that computes many calls at the same time, on an event loop of its own.

    Attributes:
        loop: Runs in another thread. `answer` is called on it.
    """

    loop: asyncio.AbstractEventLoop

    async def answer(self, call: Call) -> Outcome | AsyncGenerator[Value]:
        """Computes one call.

        Returns:
            What became of it, or its pieces: first a message, then bytes of its body. The generator raises a `FlowyardError`
            where it fails, and is closed when nobody wants the rest.
        """


@runtime_checkable
class TellsSteps(Protocol):
    """An asynchronous model that computes its calls in steps, and tells of them.

    Attributes:
        on_step: Is called, in any thread, when a step is over, before what it has made is given away; with the sequences that
            have ended with it. Not called where nothing goes on.
    """

    on_step: Callable[[Sequence[str]], None]


@runtime_checkable
class SteppedModel(AsynchronousModel, TellsSteps, Protocol):
    """A model that computes its calls in steps, which several processes may take together.

    Attributes:
        together: Surrounds each step that the model begins; gets what `follow` takes.
    """

    together: Callable[[Sequence[Call]], AbstractContextManager[None]]

    def follow(self, batch: Sequence[Call]) -> None:
        """Takes a step that the model has begun in another process; nobody is told what comes of it."""

    def predict(self, batch: Sequence[Call]) -> Sequence[Outcome]:
        """As `LoadedModel`."""

    def unload(self) -> None:
        """As `LoadedModel`."""


@runtime_checkable
class MeasuredModel(Protocol):
    """A model that has metrics of its own."""

    def take_metrics(self) -> Sequence[Sample]:
        """What has been measured since the last call."""


class Engine(Protocol):
    """Loads models of one kind.

    Attributes:
        name: The name users write, as DJL spells it.
        suffixes: File endings of its models in lower case, for messages.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def recognise(self, path: Path) -> Path | None:
        """Finds the model of this engine at or in a path, by names and magic bytes only.

        It runs in the server process: it must not import the engine's libraries nor execute anything of the model.

        Args:
            path: A file or folder.

        Returns:
            The one file or folder to load, `None` when there is none or more than one.
        """

    def load(self, source: ModelSource, device: Device) -> LoadedModel:
        """Loads a model. Runs in a worker process.

        Args:
            source: What to load.
            device: Where it is to run.

        Returns:
            The model, ready to predict.

        Raises:
            InvalidModelError: It cannot be loaded; the message says why.
            OutOfMemoryError: It does not fit into the memory of the device.
        """


def find_by_suffix(path: Path, suffixes: Sequence[str], preferred: str = "model") -> Path | None:
    """Finds the one file with one of the suffixes at or directly in a path.

    Args:
        path: A file or folder.
        suffixes: File endings in lower case, with the dot.
        preferred: Among several, the one whose stem is this, or is the name of the folder, is meant.

    Returns:
        The file, `None` when there is none or when several could be meant.
    """
    if path.is_file():
        return path if path.suffix.lower() in suffixes else None
    if not path.is_dir():
        return None
    found = [file for file in sorted(path.iterdir()) if _is_candidate(file, suffixes)]
    named = [file for file in found if file.stem in (preferred, path.name)]
    for choice in (found, named):
        if len(choice) == 1:
            return choice[0]
    return None


def _is_candidate(file: Path, suffixes: Sequence[str]) -> bool:
    return file.suffix.lower() in suffixes and not file.name.startswith((".", "__")) and file.is_file()
