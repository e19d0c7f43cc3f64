"""What both clients can do, but for streams: `Client` has the methods as they are, `AsyncClient` as coroutines and iterators."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

from flowyard.platform.client import answers, calls, predictions
from flowyard.platform.client.calls import Call, Kind, ModelOptions, WorkflowOptions
from flowyard.platform.client.connection import TIMEOUT_S
from flowyard.platform.client.errors import TimedOutError
from flowyard.platform.client.methods import Item, Items, Iteration, Method, Pause, Procedure, Steps
from flowyard.platform.client.pieces import Decoder, decoder_of
from flowyard.platform.client.predictions import Job, Prediction, PredictOptions
from flowyard.platform.client.uploads import OnSent
from flowyard.platform.client.waiting import is_ready, loading_of, pauses_s, still_pending
from flowyard.schemas.values import Value


def _register_model(
    source: str | Path, *, synchronous: bool = True, on_sent: OnSent | None = None, **options: Unpack[ModelOptions]
) -> Call[answers.Status]:
    """Registers a model.

    Args:
        source: A URL or path that the server reads (text), or a file or folder here that is uploaded (`Path`).
        synchronous: Whether to return when it can be asked; else once it is recorded, see `wait_until_ready`.
        on_sent: Hears how much of an upload has been sent; with `AsyncClient` in a thread of its own, where files are read.
        **options: See `ModelOptions`.

    Returns:
        What the server did, in words.
    """
    return calls.register("models", source, options, synchronous=synchronous, on_sent=on_sent)


def _register_workflow(
    source: str | Path, *, synchronous: bool = True, on_sent: OnSent | None = None, **options: Unpack[WorkflowOptions]
) -> Call[answers.Status]:
    """Registers a workflow; see `register_model`. What is said in `options` goes for each of its models."""
    return calls.register("workflows", source, options, synchronous=synchronous, on_sent=on_sent)


def _list_models(page_size: int | None = None) -> Items[answers.ModelItem]:
    """Iterates over the models of all pages."""
    token: str | None = None
    while True:
        page: answers.ModelPage = yield calls.list_models(page_size, token)
        yield from map(Item, page.models)
        token = page.next_page_token
        if not token:
            return


def _list_workflows(page_size: int | None = None) -> Items[answers.WorkflowItem]:
    """Iterates over the workflows of all pages."""
    token: str | None = None
    while True:
        page: answers.WorkflowPage = yield calls.list_workflows(page_size, token)
        yield from map(Item, page.workflows)
        token = page.next_page_token
        if not token:
            return


def _history(name: str | None = None, page_size: int | None = None) -> Items[answers.Change]:
    """Iterates over who changed what, the last change first; of one name or all."""
    token: str | None = None
    while True:
        page: answers.History = yield calls.history(name, page_size, token)
        yield from map(Item, page.changes)
        token = page.next_page_token
        if not token:
            return


def _describe(name: str, version: str | None = None, *, kind: Kind = "models") -> Call[tuple[answers.Workflow, ...]]:
    """Tells all about each version of a model or workflow."""
    return calls.describe(kind, name, version)


def _scale(
    name: str,
    version: str | None = None,
    *,
    min_worker: int | None = None,
    max_worker: int | None = None,
    device: str | None = None,
    synchronous: bool = True,
    kind: Kind = "models",
) -> Call[answers.Status]:
    """Changes the number of workers of one version, or of all."""
    return calls.scale(kind, name, version, min_worker=min_worker, max_worker=max_worker, device=device, synchronous=synchronous)


def _unregister(name: str, version: str | None = None, *, kind: Kind = "models") -> Call[answers.Status]:
    """Removes one version, or all; requests that were accepted are finished first."""
    return calls.unregister(kind, name, version)


def _set_weights(name: str, weights: Mapping[str, int], *, kind: Kind = "models") -> Call[answers.Status]:
    """Shares the requests that name no version out between versions: `{"v1": 90, "v2": 10}`."""
    return calls.set_weights(kind, name, weights)


def _clear_weights(name: str, *, kind: Kind = "models") -> Call[answers.Status]:
    """Takes the weights back."""
    return calls.clear_weights(kind, name)


def _set_default(name: str, version: str, *, kind: Kind = "models") -> Call[answers.Status]:
    """Makes a version the one for requests that name none."""
    return calls.set_default(kind, name, version)


def _clear_default(name: str, version: str, *, kind: Kind = "models") -> Call[answers.Status]:
    """Takes the choice of `set_default` back."""
    return calls.clear_default(kind, name, version)


def _set_shadow(name: str, version: str, *, shadow: bool = True, kind: Kind = "models") -> Call[answers.Status]:
    """Sends copies of requests to a version, whose answers are dropped; or no longer."""
    return calls.set_shadow(kind, name, version, shadow=shadow)


def _rollback(name: str, version: str | None = None, *, kind: Kind = "models") -> Call[answers.Status]:
    """Lets the version answer that was registered before the present one, or the one that is named."""
    return calls.rollback(kind, name, version)


def _wait_until_ready(
    name: str,
    version: str | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    on_progress: Callable[[answers.Progress], None] | None = None,
    kind: Kind = "models",
) -> Steps[tuple[answers.Workflow, ...]]:
    """Waits for what has been registered asynchronously.

    Args:
        name: The model or workflow.
        version: One version, `None` for all.
        timeout_s: Longest wait.
        on_progress: Hears how far it is.
        kind: What it was registered as.

    Returns:
        What it is now.

    Raises:
        RegistrationFailedError: It could not be started; the message has the reason.
        TimedOutError: It is still pending.
        ModelNotFoundError: It is not, or no longer, registered.
    """
    end = time.monotonic() + timeout_s
    for pause_s in pauses_s():
        versions: tuple[answers.Workflow, ...] = yield calls.describe(kind, name, version)
        if on_progress is not None:
            on_progress(loading_of(versions))
        if is_ready(name, versions):
            return versions
        if time.monotonic() + pause_s > end:
            break
        yield Pause(pause_s)
    raise still_pending(name, timeout_s)


def _list_adapters(model: str, page_size: int | None = None) -> Items[answers.Adapter]:
    """Iterates over the adapters of a model, in the order they were registered."""
    token: str | None = None
    while True:
        page: answers.AdapterPage = yield calls.list_adapters(model, page_size, token)
        yield from map(Item, page.adapters)
        token = page.next_page_token
        if not token:
            return


def _predict(name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> Call[Prediction]:
    """Runs a model or workflow.

    Args:
        name: Which.
        data: What for: any JSON value, bytes, an array, a list or mapping of arrays, or a file (`Path`).
        **options: See `PredictOptions`.

    Returns:
        The result, decoded by its content type.
    """
    return predictions.predict(name, data, options)


def _submit(name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> Call[Job]:
    """Starts a prediction whose result is fetched later with `result` or `pieces`."""
    return predictions.submit(name, data, options)


def _fetch(job: Job, max_items: int | None = None) -> Call[predictions.JobResult]:
    """What there is of a job's result so far, at most so many items of it, and what leads to the rest."""
    return predictions.fetch(job, max_items)


def _cancel(job: Job) -> Call[answers.Status]:
    """Takes a job back, or forgets its result."""
    return predictions.cancel(job)


def _next_part(job: Job, max_items: int | None, end: float, timeout_s: float) -> Steps[predictions.JobResult]:
    """The next part of a job's result, until `end`: one with something in it, or the last."""
    following = job
    for pause_s in pauses_s():
        part: predictions.JobResult = yield predictions.fetch(following, max_items)
        if part.next is None or part.reply.body:
            return part
        if time.monotonic() + pause_s > end:
            break
        yield Pause(pause_s)
        following = part.next
    raise TimedOutError(f"the result of {job.name} is not complete after {timeout_s:g} s")


def _result(job: Job, *, timeout_s: float = TIMEOUT_S) -> Steps[Prediction]:
    """Waits for the result of a job.

    Raises:
        TimedOutError: It is not complete in time.
        RefusedError: It failed, or the token leads nowhere.
    """
    end = time.monotonic() + timeout_s
    parts: list[predictions.JobResult] = []
    following: Job | None = job
    while following is not None:
        part = yield from _next_part(following, None, end, timeout_s)
        parts.append(part)
        following = part.next
    return predictions.joined(parts)


def _pieces(job: Job, *, max_items: int | None = None, timeout_s: float = TIMEOUT_S) -> Items[Any]:
    """Iterates over the pieces of a job's result as they come: values of lines, `Event`s, text or bytes, as those of `stream`.

    Args:
        job: From `submit`.
        max_items: Most items that are fetched at a time.
        timeout_s: Longest wait for the next ones.

    Raises:
        TimedOutError: Nothing has come in time.
        RefusedError: It failed, or the token leads nowhere.
    """
    decoder: Decoder | None = None
    following: Job | None = job
    while following is not None:
        part = yield from _next_part(following, max_items, time.monotonic() + timeout_s, timeout_s)
        decoder = decoder or decoder_of(part.reply.headers.get("content-type", ""))
        yield from map(Item, decoder.feed(part.reply.body))
        following = part.next
    if decoder is not None:
        yield from map(Item, decoder.end())


class Operations:
    """The methods of both clients."""

    register_model = Method(_register_model)
    register_workflow = Method(_register_workflow)
    list_models = Iteration(_list_models)
    list_workflows = Iteration(_list_workflows)
    history = Iteration(_history)
    describe = Method(_describe)
    scale = Method(_scale)
    unregister = Method(_unregister)
    set_weights = Method(_set_weights)
    clear_weights = Method(_clear_weights)
    set_default = Method(_set_default)
    clear_default = Method(_clear_default)
    set_shadow = Method(_set_shadow)
    rollback = Method(_rollback)
    wait_until_ready = Procedure(_wait_until_ready)
    ping = Method(calls.ping)
    metrics = Method(calls.metrics)
    register_adapter = Method(calls.register_adapter)
    update_adapter = Method(calls.update_adapter)
    list_adapters = Iteration(_list_adapters)
    describe_adapter = Method(calls.describe_adapter)
    unregister_adapter = Method(calls.unregister_adapter)
    set_adapters = Method(calls.set_adapters)
    predict = Method(_predict)
    submit = Method(_submit)
    fetch = Method(_fetch)
    result = Procedure(_result)
    pieces = Iteration(_pieces)
    cancel = Method(_cancel)
