"""Predictions: their headers, their results, and those whose results are fetched later."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from flowyard.platform.client import answers
from flowyard.platform.client.calls import Call, Pairs, Reply, endpoint, read_as, refusal
from flowyard.platform.client.errors import InvalidArgumentError, UnexpectedAnswerError
from flowyard.platform.client.inputs import body_of
from flowyard.platform.client.pieces import value_of
from flowyard.platform.client.timing import Span, spans_of
from flowyard.schemas.values import Value

#: Longer than the server may take to say that it was not done in time.
_GRACE_S = 5.0
#: A token that leads further is this and an index.
_NEXT = "x-next-token"


class PredictOptions(TypedDict, total=False):
    """What can be said about a prediction.

    Keys:
        version: Which version; without it the server chooses.
        content_type: What the data is; see `body_of`.
        accept: In which content type the result is wanted.
        priority: 0 to 9, lower goes first.
        timeout_s: Until when the result is wanted; then it is a `DeadlineError`.
        request_id: Under which the server logs it.
        headers: Further headers.
    """

    version: str | None
    content_type: str | None
    accept: str | None
    priority: int | None
    timeout_s: float | None
    request_id: str | None
    headers: Mapping[str, str] | None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A result.

    Attributes:
        value: What it is: JSON, arrays, text, bytes; a list of pieces where it came in lines or events.
        content_type: As what the server told it.
        body: The bytes as they came.
        status: HTTP status; a handler may choose others than 200.
        headers: All headers.
        request_id: Under which the server's log has it.
        timing: What the server says about where the time went.
    """

    value: Any
    content_type: str
    body: bytes
    status: int
    headers: Mapping[str, str]
    request_id: str = ""
    timing: tuple[Span, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """A prediction whose result is fetched later.

    Attributes:
        name: The model or workflow.
        token: What leads to the result.
    """

    name: str
    token: str


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a result so far.

    Attributes:
        reply: The answer as it came; its body is empty while there is nothing.
        next: Leads to what follows, `None` when the result is complete.
    """

    reply: Reply
    next: Job | None


def predict(name: str, data: Value | Path, options: PredictOptions) -> Call[Prediction]:
    """`POST /predictions/{name}[/{version}]`.

    Raises:
        InvalidArgumentError: A name, header or value that cannot be sent.
    """
    version, timeout_s = options.get("version"), options.get("timeout_s")
    content_type, body = body_of(data, options.get("content_type"))
    return Call(
        method="POST",
        path=endpoint("predictions", name, version),
        headers=_headers(content_type, options),
        body=body,
        timeout_s=timeout_s + _GRACE_S if timeout_s is not None else None,
        read=read_prediction,
    )


def _headers(content_type: str, options: PredictOptions) -> Pairs:
    timeout_s, priority = options.get("timeout_s"), options.get("priority")
    if timeout_s is not None and not 0.001 <= timeout_s <= 86_400:
        raise InvalidArgumentError(f"timeout {timeout_s} s: from 0.001 to 86400 seconds are allowed")
    if priority is not None and not 0 <= priority <= 9:
        raise InvalidArgumentError(f"priority {priority}: a number from 0 to 9 is allowed, lower goes first")
    named = {
        "content-type": content_type,
        "accept": options.get("accept"),
        "x-priority": str(priority) if priority is not None else None,
        "x-request-timeout": f"{timeout_s * 1000:.0f}ms" if timeout_s is not None else None,
        "x-request-id": options.get("request_id"),
    }
    given = {name.lower(): value for name, value in (options.get("headers") or {}).items()}
    return checked({name: value for name, value in named.items() if value is not None} | given)


def checked(headers: Mapping[str, str]) -> Pairs:
    """Headers that can be sent.

    Raises:
        InvalidArgumentError: A name or value that HTTP does not allow.
    """
    for name, value in headers.items():
        if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise InvalidArgumentError(f"header {name!r}: letters, digits, - and _ are allowed in its name")
        if not value.isascii() or not value.replace("\t", " ").isprintable():
            raise InvalidArgumentError(f"header {name}: a line break or a character outside ASCII in {value[:50]!r}")
    return tuple(headers.items())


def read_prediction(reply: Reply) -> Prediction:
    """The result of a prediction.

    Raises:
        RefusedError: The server said no.
        UnexpectedAnswerError: It is no result, or not what it says.
    """
    if not 200 <= reply.status < 300:
        raise refusal(reply)
    content_type = reply.headers.get("content-type", "")
    return Prediction(
        value=value_of(content_type, reply.body),
        content_type=content_type,
        body=reply.body,
        status=reply.status,
        headers=reply.headers,
        request_id=reply.headers.get("x-request-id", ""),
        timing=spans_of(reply.headers.get("server-timing", "")),
    )


def submit(name: str, data: Value | Path, options: PredictOptions) -> Call[Job]:
    """A prediction whose result is fetched later (DJL §2.9)."""
    call = predict(name, data, options)

    def read(reply: Reply) -> Job:
        if not 200 <= reply.status < 300:
            raise refusal(reply)
        token = reply.headers.get(_NEXT)
        if not token:
            raise UnexpectedAnswerError("the server answered at once: it does not keep results for later", reply.status)
        return Job(name, token)

    headers = (*call.headers, ("x-synchronous", "false"))
    return Call(method=call.method, path=call.path, headers=headers, body=call.body, timeout_s=call.timeout_s, read=read)


def fetch(job: Job, max_items: int | None = None) -> Call[JobResult]:
    """What there is of a job's result (DJL §2.9).

    Raises:
        InvalidArgumentError: The token cannot be in a header.
    """

    def read(reply: Reply) -> JobResult:
        if not 200 <= reply.status < 300:
            raise refusal(reply)
        token = reply.headers.get(_NEXT)
        if reply.status == 202 and not token:
            token = job.token
        return JobResult(reply=reply, next=Job(job.name, token) if token else None)

    headers = {"x-starting-token": job.token} | ({"x-max-items": str(max_items)} if max_items is not None else {})
    return Call(method="POST", path=endpoint("predictions", job.name), headers=checked(headers), read=read)


def cancel(job: Job) -> Call[answers.Status]:
    """`DELETE` with the job's token: takes it back, or forgets its result.

    Raises:
        InvalidArgumentError: The token cannot be in a header.
    """
    headers = checked({"x-starting-token": job.token})
    read = functools.partial(read_as, answers.Status)
    return Call(method="DELETE", path=endpoint("predictions", job.name), headers=headers, read=read)


def joined(results: list[JobResult]) -> Prediction:
    """The parts of a job's result as one."""
    last = results[-1].reply
    return read_prediction(Reply(last.status, last.headers, b"".join(result.reply.body for result in results), last.server))
