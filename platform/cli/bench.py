"""`flowyard bench`: puts a server under load and shows what came back."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from cyclopts import Parameter
from rich.console import Console

from flowyard.platform.bench.bodies import Body, fitting_bodies, given_body
from flowyard.platform.bench.load import Load, run
from flowyard.platform.bench.report import print_results
from flowyard.platform.bench.result import Result
from flowyard.platform.bench.schedule import Arrivals
from flowyard.platform.bench.target import Target
from flowyard.schemas.errors import InvalidRequestError, UserError

MAX_CONNECTIONS = 10_000
MAX_DURATION_S = 86_400.0
#: Connections of an open loop when nothing is said: more than a server that keeps up ever needs.
OPEN_CONNECTIONS = 256
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


def bench(
    name: str,
    *,
    url: str = "http://127.0.0.1:8080",
    path: str | None = None,
    body: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    content_type: str | None = None,
    connections: str | None = None,
    duration: str = "10s",
    warmup: str = "2s",
    requests: int | None = None,
    rate: float | None = None,
    arrivals: Arrivals = "poisson",
    timeout: str = "30s",
    json_output: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Put a server under load with predictions of one model or workflow. Exit status 1 when not all answers are 200.

    Parameters
    ----------
    name
        Model or workflow.
    url
        Base URL of the server.
    path
        Path to send to; /predictions/NAME by default.
    body
        File with the body, - for the standard input. Without it the server is asked what the model takes, and a random body
        that fits is sent.
    content_type
        Content-Type of the body; by default what its suffix says.
    connections
        Number of connections, or several separated by commas, run one after the other; 1,8,32,64 by default. With --rate the
        most that wait at the same time, 256 by default.
    duration
        Time to measure for each number of connections: 10s, 500ms, 1m.
    warmup
        Time before that which is not counted.
    requests
        End after so many answers, if that comes first.
    rate
        Requests per second, sent whether or not earlier ones are answered; latency counts from when a request was due.
    arrivals
        How --rate spaces them.
    timeout
        Time after which a request counts as unanswered.
    json_output
        Print the results as JSON.
    """
    target = Target.of(url)
    path = path if path is not None else f"/predictions/{quote(name, safe='')}"
    counts = _counts(connections, OPEN_CONNECTIONS if rate is not None else None)
    _check_numbers(requests, rate)
    load = Load(
        target=target,
        request=b"",
        duration_s=_seconds("--duration", duration),
        warmup_s=_seconds("--warmup", warmup, zero=True),
        max_requests=requests,
        rate_per_s=rate,
        arrivals=arrivals,
        timeout_s=_seconds("--timeout", timeout),
    )
    request = _accepted_request(target, path, _bodies(target, name, body, content_type), load.timeout_s)
    results = [run(msgspec.structs.replace(load, request=request, connections=count)) for count in counts]
    _show(f"{name} at {target}{path}", results, json_output=json_output)
    return 1 if any(result.failures or not result.requests for result in results) else 0


def _show(title: str, results: Sequence[Result], *, json_output: bool) -> None:
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(results), indent=2).decode())
        return
    terminal = sys.stdout.isatty()
    print_results(title, results, Console(width=None if terminal else 120))


def _bodies(target: Target, name: str, body: str | None, content_type: str | None) -> list[Body]:
    if body is None:
        if content_type is not None:
            raise InvalidRequestError("--content-type says what a --body is; there is none")
        return fitting_bodies(target, name)
    try:
        content = sys.stdin.buffer.read() if body == "-" else Path(body).read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"--body {body}: {error.strerror or error}") from None
    return [given_body(Path(body), content, content_type)]


def _accepted_request(target: Target, path: str, bodies: Sequence[Body], timeout_s: float) -> bytes:
    """The first request that is answered with status 200: a load of refusals would measure nothing."""
    refusals: list[str] = []
    for body in bodies:
        request = target.request("POST", path, body.content, body.content_type)
        response = target.exchange(request, timeout_s)
        if response.status == 200:
            return request
        words = " ".join(response.body[:500].decode("utf-8", "replace").split())
        refusals.append(f"{target}{path} answers {response.status} to {body.content_type}: {words}")
    raise UserError("\n".join(refusals))


def _counts(text: str | None, open_default: int | None) -> list[int]:
    if text is None:
        return [1, 8, 32, 64] if open_default is None else [open_default]
    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= MAX_CONNECTIONS for word in words):
        raise InvalidRequestError(f"--connections {text}: numbers from 1 to {MAX_CONNECTIONS} separated by commas are expected")
    return [int(word) for word in words]


def _check_numbers(requests: int | None, rate: float | None) -> None:
    if requests is not None and requests < 1:
        raise InvalidRequestError(f"--requests {requests}: a number above 0 is expected")
    if rate is not None and not 0 < rate < math.inf:
        raise InvalidRequestError(f"--rate {rate}: a number of requests per second above 0 is expected")


def _seconds(flag: str, text: str, *, zero: bool = False) -> float:
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else math.nan
    if not (0 if zero else 1e-9) <= seconds <= MAX_DURATION_S:
        raise InvalidRequestError(f"{flag} {text}: a duration like 10s, 500ms or 1m is expected, up to 24 hours")
    return seconds
