"""The adapters of one model: which there are, and how its workers come to know them (DJL §1.11).

A change is made by one worker first, as a request like any other. When its handler refuses, nothing has changed anywhere; when it
agrees, all other workers have to make the same call before their next request, and workers that start later are told of every
adapter before their first one. A worker that refuses what another has agreed to is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from flowyard.platform.workers.jobs import Job
from flowyard.platform.workers.process import Outcome
from flowyard.platform.workers.tasks import Task
from flowyard.schemas.adapters import Adapter, AdapterSpec
from flowyard.schemas.errors import (
    AdapterConflictError,
    AdapterNotFoundError,
    AnsweredError,
    FlowyardError,
    InvalidModelError,
    InvalidRequestError,
    NodeError,
    OutOfMemoryError,
)
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload

Verb = Literal["register", "update", "unregister"]

#: The content of a request that says which adapter it is for.
ADAPTER = "adapter"
#: Most adapters of one model.
MAX_ADAPTERS = 10_000


class Workers(Protocol):
    """The workers of the model."""

    def submit(self, task: Task) -> Job:
        """Has one of them compute something."""

    def spread(self, key: str, order: Task, standing: Task | None, done_by: int) -> None:
        """Has all but one of them make a call, and those that start later another one."""


class Adapters:
    """The adapters of one model. Every method belongs to the event loop's thread.

    Args:
        model: Name of the model, for messages.
        workers: Its workers.
        dynamic: Whether requests may name adapters that are not registered: the handler knows what to do.
    """

    def __init__(self, model: str, workers: Workers, *, dynamic: bool = False) -> None:
        self._model = model
        self._workers = workers
        self._dynamic = dynamic
        self._folder = Path()
        self._known: dict[str, Adapter] = {}
        self._changing = asyncio.Lock()

    def __iter__(self) -> Iterator[Adapter]:
        """All adapters, in the order they were registered."""
        return iter(self._known.values())

    def __len__(self) -> int:
        """Number of adapters."""
        return len(self._known)

    def find(self, name: str, alias: str = "") -> Adapter:
        """An adapter by name.

        Args:
            name: Its name.
            alias: What the caller calls it, for the message.

        Raises:
            AdapterNotFoundError: There is none of that name.
        """
        found = self._known.get(name)
        if found is None:
            raise AdapterNotFoundError(f"The adapter {alias or name} was not found")
        return found

    def check(self, payload: Payload) -> None:
        """Sees to it that a request names no adapter that is not there.

        Raises:
            NodeError: It does.
        """
        message = payload.message()
        content = message.content(ADAPTER) if message is not None else None
        if content is None or self._dynamic:
            return
        name = content.decode("utf-8", "replace")
        if name not in self._known:
            raise NodeError(f"The adapter {name[:200]} has not been registered", node=self._model)

    def begin_with(self, adapters: Iterable[Adapter], folder: Path) -> None:
        """Registers adapters before there are workers: each is told of them before its first request.

        Args:
            adapters: The adapters.
            folder: The unpacked archive of the model.
        """
        self._folder = folder
        for adapter in adapters:
            self._settle("register", adapter, 0)

    async def register(self, adapter: Adapter) -> str:
        """Registers an adapter.

        Returns:
            What the handler says about it.

        Raises:
            AdapterConflictError: There is one of that name.
            InvalidRequestError: There are too many.
            FlowyardError: The handler refuses, or cannot be asked; nothing has changed.
        """
        async with self._changing:
            if adapter.name in self._known:
                raise AdapterConflictError(
                    f"The adapter {adapter.label} already exists. If you want to replace it, please unregistering"
                    " before registering a new adapter with the same name."
                )
            if len(self._known) >= MAX_ADAPTERS:
                raise InvalidRequestError(f"The model has {MAX_ADAPTERS} adapters; unregister some first.")
            return await self._change("register", adapter)

    async def update(self, name: str, change: Callable[[Adapter], Adapter], alias: str = "") -> str:
        """Changes an adapter; result and errors as for `register`.

        Args:
            name: Its name.
            change: Makes of what it is what it is to be.
            alias: What the caller calls it.

        Raises:
            AdapterNotFoundError: There is none of that name.
        """
        async with self._changing:
            return await self._change("update", change(self.find(name, alias)))

    async def unregister(self, name: str, alias: str = "") -> str:
        """Removes an adapter; arguments, result and errors as for `update`."""
        async with self._changing:
            found = self.find(name, alias)
            return await self._change("unregister", msgspec.structs.replace(found, alias=alias or found.alias))

    async def replace(self, wanted: Sequence[AdapterSpec]) -> str:
        """Makes the adapters these and no others: removes, changes and registers what differs, in this order.

        Args:
            wanted: All that there are to be, each name once.

        Returns:
            What there is now, in words.

        Raises:
            InvalidRequestError: They are too many.
            FlowyardError: The handler refuses one, or cannot be asked; everything is as it was.
        """
        if len(wanted) > MAX_ADAPTERS:
            raise InvalidRequestError(f"{len(wanted)} adapters are too many; a model has {MAX_ADAPTERS} at most.")
        async with self._changing:
            before = self.known()
            try:
                for verb, adapter in _steps(before, wanted):
                    await self._named_change(verb, adapter)
            except BaseException:
                self.restore(before)
                raise
        return f"The model {self._model} has {len(wanted)} adapters"

    async def _named_change(self, verb: Verb, adapter: Adapter) -> None:
        """Makes one of several changes, of which the handler's words alone would not tell which has failed."""
        try:
            await self._change(verb, adapter)
        except AnsweredError as error:
            raise AnsweredError(f'adapter "{adapter.name}": {error.message}', ADAPTER, error.answer) from None

    def restore(self, before: Mapping[str, Adapter]) -> None:
        """Takes back a change that could not be recorded: what is told to the workers is not waited for."""
        for adapter in [known for name, known in self._known.items() if name not in before]:
            self._settle("unregister", adapter, 0)
        for name, adapter in before.items():
            if self._known.get(name) != adapter:
                self._settle("update" if name in self._known else "register", adapter, 0)

    def known(self) -> dict[str, Adapter]:
        """All adapters by name, as they are now."""
        return dict(self._known)

    async def _change(self, verb: Verb, adapter: Adapter) -> str:
        """Has one worker make a change, then all."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        job: Job | None = None

        def tried(outcome: Outcome) -> None:
            # At once: no worker may start, or take another request, between the two.
            try:
                reason = said(outcome)
            except FlowyardError as error:
                answer.set_exception(error)
                return
            self._settle(verb, adapter, job.worker if job is not None else 0)
            answer.set_result(reason)

        task = self._task(verb, adapter)
        task.on_done = tried
        job = self._workers.submit(task)
        # A change that has begun is carried through, whoever waits for it.
        return await asyncio.shield(answer)

    def _settle(self, verb: Verb, adapter: Adapter, done_by: int) -> None:
        """Makes a change that one worker has agreed to everybody's."""
        if verb == "unregister":
            self._known.pop(adapter.name, None)
            standing = None
        else:
            self._known[adapter.name] = adapter
            standing = self._task("register", adapter)
        self._workers.spread(adapter.name, self._task(verb, adapter), standing, done_by)

    def _task(self, verb: Verb, adapter: Adapter) -> Task:
        """The call of a handler's function: who it is about as properties, everything else as contents."""
        properties = {"name": adapter.name}
        if adapter.alias:
            properties["alias"] = adapter.alias
        contents: tuple[tuple[str, bytes], ...] = ()
        if verb != "unregister":
            properties["src"] = str(self._folder / adapter.within) if adapter.within else adapter.src
            contents = tuple((name, value.encode()) for name, value in adapter.options.items())
        message = Message(properties=tuple(properties.items()), contents=contents)
        return Task((Payload.of(message),), _nobody, callee=f"{verb}_adapter")


def _steps(before: Mapping[str, Adapter], wanted: Sequence[AdapterSpec]) -> Iterator[tuple[Verb, Adapter]]:
    """What has to be done so that the adapters are as they are wanted."""
    names = {spec.name for spec in wanted}
    yield from (("unregister", adapter) for name, adapter in before.items() if name not in names)
    for spec in wanted:
        found, adapter = before.get(spec.name), spec.adapter()
        if found is None:
            yield "register", adapter
        elif not spec.says(found):
            yield "update", msgspec.structs.replace(adapter, within=found.within if found.src == adapter.src else "")


def said(outcome: Outcome) -> str:
    """What a handler answered to a change.

    Returns:
        Its words.

    Raises:
        AnsweredError: It refused.
        FlowyardError: It could not be asked, or failed.
    """
    if isinstance(outcome, FlowyardError):
        raise outcome
    message = outcome.message()
    if message is None:
        return ""
    if message.code >= 300:
        raise AnsweredError(message.reason or str(message.code), ADAPTER, message)
    return message.reason


def refusal(order: Task, outcomes: Sequence[Outcome]) -> FlowyardError | None:
    """Why a worker cannot be brought to where the others are, `None` where it is.

    Args:
        order: The call that it had to make.
        outcomes: What it says about it.
    """
    message = order.args[0].message()
    name = message.get("name") if message is not None else ""
    if len(outcomes) != 1:
        return InvalidModelError(f'adapter "{name}": the worker gave {len(outcomes)} answers')
    try:
        said(outcomes[0])
    except OutOfMemoryError as error:
        return error
    except FlowyardError as error:
        return InvalidModelError(f'adapter "{name}": {order.callee}: {error}')
    return None


def _nobody(outcome: Outcome) -> None:
    """Takes an answer that nobody waits for."""
