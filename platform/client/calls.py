"""Calls as values: what is sent, and how its answer is read. The clients carry them out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import msgspec

from flowyard.platform.client import answers
from flowyard.platform.client.errors import ClientError, InvalidArgumentError, error_of, unexpected_answer
from flowyard.platform.client.uploads import OnSent, Upload, form_of
from flowyard.schemas.adapters import AdapterSpec

T = TypeVar("T")
Kind = Literal["models", "workflows"]
Pairs = tuple[tuple[str, str], ...]
#: Header in which a request says what it calls an adapter, beside its name.
_ALIAS = "x-amzn-sagemaker-adapter-alias"


class Reply(msgspec.Struct, frozen=True):
    """A complete answer.

    Attributes:
        status: HTTP status.
        headers: Its headers, whatever their case.
        body: Its body.
        server: Who gave it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    server: str = ""


class Call(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One request.

    Attributes:
        method: HTTP method.
        path: Escaped path.
        read: What makes the result of an answer; raises what `error_of` says.
        query: Parameters.
        headers: Further headers.
        body: The body.
        timeout_s: Longest silence, `None` for what the client has.
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    query: Pairs = ()
    headers: Pairs = ()
    body: bytes | Upload = b""
    timeout_s: float | None = None


class WorkflowOptions(TypedDict, total=False):
    """What can be said about a workflow that is registered; it applies to each of its models that does not say otherwise."""

    engine: str | None
    device: str | None
    min_worker: int | None
    max_worker: int | None


class ModelOptions(WorkflowOptions, total=False):
    """What can be said about a model that is registered: delays in milliseconds, times in seconds."""

    model_name: str | None
    model_version: str | None
    job_queue_size: int | None
    batch_size: int | None
    max_batch_delay: int | None
    max_idle_time: int | None
    timeout: float | None
    batching: Literal["eager", "fill"] | None
    trusted: bool | None
    replace: bool | None
    sha256: str | None
    handler: str | None
    service_envelope: Literal["body", "json", "kserve", "kservev2"] | None
    decode_input_request: bool | None
    startup_timeout: float | None


def endpoint(root: str, name: str, version: str | None = None, *further: str) -> str:
    """The path of a model or workflow, escaped.

    Raises:
        InvalidArgumentError: A name that no path can have.
    """
    segments = [name, *([version] if version is not None else []), *further]
    if any(segment in ("", ".", "..") for segment in segments):
        raise InvalidArgumentError(f"{'/'.join(segments)!r} is no name of a model or workflow")
    return "/".join(["", root, *(quote(segment, safe="") for segment in segments)])


def pairs(parameters: Mapping[str, object]) -> Pairs:
    """Parameters as text; those that are `None` are left out."""
    return tuple((name, _text(value)) for name, value in parameters.items() if value is not None)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def refusal(reply: Reply) -> ClientError:
    """The error that an answer tells."""
    return error_of(reply.status, reply.headers, reply.body, reply.server)


def read_as(kind: type[T], reply: Reply) -> T:
    """Reads a management answer.

    Raises:
        RefusedError: The server said no.
        UnexpectedAnswerError: It is no answer of flowyard's.
    """
    if not 200 <= reply.status < 300:
        raise refusal(reply)
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise unexpected_answer(reply.status, reply.headers, reply.body, reply.server) from None


def _reader(kind: Any) -> Callable[[Reply], Any]:
    return functools.partial(read_as, kind)


def _read_health(reply: Reply) -> answers.Health:
    try:
        told = msgspec.json.decode(reply.body, type=dict[str, answers.Status])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise refusal(reply) from None
    return answers.Health(reply.status == 200, {name: item.status for name, item in told.items()})


def _read_text(reply: Reply) -> str:
    if reply.status != 200:
        raise refusal(reply)
    return reply.body.decode("utf-8", "replace")


def ping() -> Call[answers.Health]:
    """`GET /ping`: 500 with the health of every model is an answer too."""
    return Call(method="GET", path="/ping", read=_read_health)


def metrics() -> Call[str]:
    """`GET /metrics`: Prometheus text."""
    return Call(method="GET", path="/metrics", read=_read_text)


def register(
    kind: Kind,
    source: str | Path,
    options: Mapping[str, object],
    *,
    synchronous: bool = True,
    on_sent: OnSent | None = None,
) -> Call[answers.Status]:
    """`POST /models` or `POST /workflows`.

    Args:
        kind: Which.
        source: A URL or path that the server reads (text), or a file or folder here that is uploaded (`Path`).
        options: Parameters; those that are `None` are left out.
        synchronous: Whether the answer waits for the workers.
        on_sent: Hears how much of an upload has been sent.

    Raises:
        InvalidArgumentError: There is no such file, or it cannot be read.
    """
    mode = {} if synchronous else {"synchronous": False}
    if isinstance(source, Path):
        body = form_of(source, on_sent)
        return Call(method="POST", path=f"/{kind}", query=pairs({**options, **mode}), body=body, read=_reader(answers.Status))
    if not source:
        raise InvalidArgumentError("a URL, file or folder to register is expected, got empty text")
    query = pairs({"url": source, **options, **mode})
    return Call(method="POST", path=f"/{kind}", query=query, read=_reader(answers.Status))


def list_models(limit: int | None = None, token: str | None = None) -> Call[answers.ModelPage]:
    """`GET /models`: one page."""
    query = pairs({"limit": limit, "next_page_token": token})
    return Call(method="GET", path="/models", query=query, read=_reader(answers.ModelPage))


def list_workflows(limit: int | None = None, token: str | None = None) -> Call[answers.WorkflowPage]:
    """`GET /workflows`: one page."""
    query = pairs({"limit": limit, "next_page_token": token})
    return Call(method="GET", path="/workflows", query=query, read=_reader(answers.WorkflowPage))


def describe(kind: Kind, name: str, version: str | None = None) -> Call[tuple[answers.Workflow, ...]]:
    """`GET /models/{name}[/{version}]`: all about each version."""
    return Call(method="GET", path=endpoint(kind, name, version), read=_reader(tuple[answers.Workflow, ...]))


def _change(kind: Kind, method: str, path: str, parameters: Mapping[str, object]) -> Call[answers.Status]:
    return Call(method=method, path=path, query=pairs(parameters), read=_reader(answers.Status))


def scale(
    kind: Kind,
    name: str,
    version: str | None = None,
    *,
    min_worker: int | None = None,
    max_worker: int | None = None,
    device: str | None = None,
    model: str | None = None,
    synchronous: bool = True,
) -> Call[answers.Status]:
    """`PUT /models/{name}[/{version}]`: changes the number of workers; `model` is the one of a workflow that is meant."""
    numbers = {"min_worker": min_worker, "max_worker": max_worker, "device": device, "model": model}
    mode = {} if synchronous else {"synchronous": False}
    return _change(kind, "PUT", endpoint(kind, name, version), {**numbers, **mode})


def unregister(kind: Kind, name: str, version: str | None = None) -> Call[answers.Status]:
    """`DELETE /models/{name}[/{version}]`: finishes accepted requests, then forgets it."""
    return _change(kind, "DELETE", endpoint(kind, name, version), {})


def set_weights(kind: Kind, name: str, weights: Mapping[str, int]) -> Call[answers.Status]:
    """`PUT /models/{name}?weights=v1:90,v2:10`: shares of the requests that name no version.

    Raises:
        InvalidArgumentError: There are none, or a share is negative.
    """
    if not weights or any(weight < 0 for weight in weights.values()):
        raise InvalidArgumentError("weights: a share from 0 up for each version is expected, such as v1:90,v2:10")
    text = ",".join(f"{version}:{weight}" for version, weight in weights.items())
    return _change(kind, "PUT", endpoint(kind, name), {"weights": text})


def clear_weights(kind: Kind, name: str) -> Call[answers.Status]:
    """`PUT /models/{name}?weights=none`: takes the weights back."""
    return _change(kind, "PUT", endpoint(kind, name), {"weights": "none"})


def clear_default(kind: Kind, name: str, version: str) -> Call[answers.Status]:
    """`DELETE /models/{name}/{version}/set-default`: takes that choice back."""
    return _change(kind, "DELETE", endpoint(kind, name, version, "set-default"), {})


def rollback(kind: Kind, name: str, version: str | None = None) -> Call[answers.Status]:
    """`POST /models/{name}/rollback`: back to the version before, or to the one that is named."""
    return _change(kind, "POST", endpoint(kind, name, "rollback"), {"version": version})


def set_adapters(name: str, version: str, adapters: Sequence[AdapterSpec], *, model: str = "") -> Call[answers.Status]:
    """Makes the adapters of one version these and no others, or leaves them all as they are.

    Args:
        name: The model or workflow.
        version: Its version.
        adapters: The adapters that it is to have.
        model: The one that is meant where several models of a workflow may have adapters.
    """
    body = msgspec.json.encode({"model": model, "adapters": adapters})
    path = endpoint("models", name, version, "adapters")
    headers = (("content-type", "application/json"),)
    return Call(method="PUT", path=path, headers=headers, body=body, read=_reader(answers.Status))


def state() -> Call[answers.RegistryState]:
    """`GET /state`: all that is registered, as it was said."""
    return Call(method="GET", path="/state", read=_reader(answers.RegistryState))


def history(name: str | None = None, limit: int | None = None, token: str | None = None) -> Call[answers.History]:
    """`GET /audit`: who changed what, the last change first; one page."""
    query = pairs({"name": name, "limit": limit, "next_page_token": token})
    return Call(method="GET", path="/audit", query=query, read=_reader(answers.History))


def set_default(kind: Kind, name: str, version: str) -> Call[answers.Status]:
    """`PUT /models/{name}/{version}/set-default`: where requests go that name no version."""
    return _change(kind, "PUT", endpoint(kind, name, version, "set-default"), {})


def set_shadow(kind: Kind, name: str, version: str, *, shadow: bool = True) -> Call[answers.Status]:
    """`PUT /models/{name}/{version}?shadow=true`: a version that gets copies of requests; its answers are dropped."""
    return _change(kind, "PUT", endpoint(kind, name, version), {"shadow": shadow})


def _adapters(model: str, *further: str) -> str:
    return endpoint("models", model, None, "adapters", *further)


def _adapter(method: str, path: str, parameters: Mapping[str, object], alias: str | None) -> Call[Any]:
    headers = ((_ALIAS, alias),) if alias is not None else ()
    return Call(method=method, path=path, query=pairs(parameters), headers=headers, read=_reader(answers.Status))


def list_adapters(model: str, limit: int | None = None, token: str | None = None) -> Call[answers.AdapterPage]:
    """`GET /models/{model}/adapters`: one page."""
    query = pairs({"limit": limit, "next_page_token": token})
    return Call(method="GET", path=_adapters(model), query=query, read=_reader(answers.AdapterPage))


def describe_adapter(model: str, adapter: str) -> Call[answers.Adapter]:
    """Tells what is known of an adapter of a model."""
    return Call(method="GET", path=_adapters(model, adapter), read=_reader(answers.Adapter))


def register_adapter(
    model: str, adapter: str, src: str, *, alias: str | None = None, options: Mapping[str, object] | None = None
) -> Call[answers.Status]:
    """Has a model's handler load an adapter.

    Args:
        model: The model.
        adapter: Its name, which requests say.
        src: Where it is, for the handler.
        alias: What else it is called.
        options: Whatever else the handler is to know of it, `preload` and `pin` included.
    """
    return _adapter("POST", _adapters(model), {**(options or {}), "name": adapter, "src": src}, alias)


def update_adapter(
    model: str,
    adapter: str,
    src: str | None = None,
    *,
    alias: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Call[answers.Status]:
    """Has a model's handler change an adapter; what is not said stays as it was."""
    return _adapter("POST", _adapters(model, adapter, "update"), {**(options or {}), "src": src}, alias)


def unregister_adapter(model: str, adapter: str) -> Call[answers.Status]:
    """Has a model's handler drop an adapter."""
    return _adapter("DELETE", _adapters(model, adapter), {}, None)
