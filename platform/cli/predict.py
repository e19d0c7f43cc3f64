"""`flowyard predict`: runs a model or workflow once."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated

import msgspec
from cyclopts import Parameter

from flowyard.platform.cli.failures import usage_error
from flowyard.platform.cli.output import printable, write_body
from flowyard.platform.cli.server_timing import draw_server_timing
from flowyard.platform.cli.session import HERE, JsonOutput, Server, connected
from flowyard.platform.cli.sources import name_and_version
from flowyard.platform.cli.timeline import draw_timeline, read_trace
from flowyard.platform.client import Client, Event, Pieces, Prediction, PredictOptions
from flowyard.platform.client.calls import Call
from flowyard.platform.client.inputs import BYTES, JSON, file_type
from flowyard.platform.client.pieces import EVENTS
from flowyard.platform.client.timing import spans_of
from flowyard.platform.telemetry.traces import Trace
from flowyard.schemas.codecs.arrays import is_tensors
from flowyard.schemas.codecs.content import is_json, media_type
from flowyard.schemas.errors import FlowyardError

TRACE_HEADER = "X-Flowyard-Trace"
_TRACES = "/traces/"
_STANDARD_INPUT = "-"
#: Columns of a timeline that nobody looks at on a terminal.
_WIDTH = 100


def predict(
    name: str,
    file: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    data: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    content_type: str | None = None,
    accept: str | None = None,
    header: Annotated[list[str] | None, Parameter(consume_multiple=False, negative=())] = None,
    priority: int | None = None,
    timeout: float | None = None,
    output: Path | None = None,
    stream: Annotated[bool, Parameter(negative=())] = False,
    detach: Annotated[bool, Parameter(negative=())] = False,
    trace: Annotated[bool, Parameter(negative=())] = False,
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Run a model or workflow and print its result.

    Parameters
    ----------
    name
        NAME or NAME:VERSION.
    file
        File that is sent, - for the standard input.
    data
        JSON that is sent, or @FILE. With another --content-type, text.
    content_type
        What is sent; by default what the file's suffix says, or JSON.
    accept
        In which content type the result is wanted.
    header
        Further header, KEY:VALUE. Can be given several times.
    priority
        0 to 9, lower goes first; 3 is usual.
    timeout
        Seconds until which the result is wanted.
    output
        File that the result goes to, complete or not at all.
    stream
        Print the pieces of the result as they come.
    detach
        Do not wait for the result: print the token with which flowyard results fetches it.
    trace
        Draw on the standard error where the time went.
    json_output
        Print a refusal as the server's JSON.
    """
    if detach and (stream or trace or output is not None):
        raise usage_error("--detach: there is no result yet for --stream, --trace or --output")
    model, version = name_and_version(name)
    sent, kind = _given(file, data, content_type)
    headers = _headers(header) | ({TRACE_HEADER: "1"} if trace else {})
    options: PredictOptions = {
        "version": version,
        "content_type": kind,
        "accept": accept,
        "priority": priority,
        "timeout_s": timeout,
        "headers": headers,
    }
    with connected(server, json_output=json_output) as client:
        if detach:
            print(printable(client.submit(model, sent, **options).token))
            return 0
        run = _stream if stream else _whole
        began = time.perf_counter()
        answered = run(client, model, sent, options, output)
        total_ms = (time.perf_counter() - began) * 1000
        if trace:
            _show_trace(client, answered, total_ms)
    return 0


def _given(file: str | None, data: str | None, content_type: str | None) -> tuple[bytes | Path, str]:
    """What is sent, and its type."""
    if (file is None) == (data is None):
        raise usage_error("one of FILE, - or --data is expected" if file is None else "FILE and --data: only one can be sent")
    if data is not None and not data.startswith("@"):
        return _inline(data, content_type)
    place = file if file is not None else (data or "")[1:]
    if place != _STANDARD_INPUT:
        path = Path(place)
        return path, content_type or file_type(path)
    content = sys.stdin.buffer.read()
    return content, content_type or (JSON if _is_json(content) else BYTES)


def _inline(data: str, content_type: str | None) -> tuple[bytes, str]:
    kind = content_type or JSON
    content = data.encode("utf-8", "surrogateescape")
    if is_json(media_type(kind)) and not _is_json(content):
        raise usage_error(f"--data {data[:80]}: that is not JSON; text is '\"…\"', a file is @FILE")
    return content, kind


def _is_json(content: bytes) -> bool:
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _headers(words: list[str] | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    for word in words or []:
        key, colon, value = word.partition(":")
        if not colon or not key.strip():
            raise usage_error(f"--header {word}: KEY:VALUE is expected")
        headers[key.strip()] = value.strip()
    return headers


def _whole(client: Client, name: str, sent: bytes | Path, options: PredictOptions, output: Path | None) -> Mapping[str, str]:
    prediction = client.predict(name, sent, **options)
    if output is not None:
        with kept(output) as target:
            target.write(prediction.body)
    else:
        show(prediction)
    return prediction.headers


def show(prediction: Prediction) -> None:
    """Prints a result."""
    if sys.stdout.isatty():
        print(printable(_shown(prediction)))
    elif _is_text(prediction.content_type):
        write_body(prediction.body)
    else:
        sys.stdout.buffer.write(prediction.body)


def _is_text(content_type: str) -> bool:
    kind = media_type(content_type)
    return is_json(kind) or kind.startswith("text/") or kind == "application/x-ndjson"


def _shown(prediction: Prediction) -> str:
    """A result on a terminal: text as it is, arrays as numpy shows them, other bytes by their number."""
    if _is_text(prediction.content_type):
        return prediction.body.decode("utf-8", "replace").rstrip("\n")
    if is_tensors(prediction.value):
        return f"{prediction.value}"
    return _bytes_shown(prediction.body, prediction.content_type)


def _bytes_shown(content: bytes, content_type: str) -> str:
    return f"{len(content)} bytes of {content_type or 'no type'}; --output FILE keeps them"


def _stream(client: Client, name: str, sent: bytes | Path, options: PredictOptions, output: Path | None) -> Mapping[str, str]:
    with client.stream(name, sent, **options) as pieces:
        if output is not None:
            with kept(output) as target:
                for data in _written(pieces):
                    target.write(data)
        else:
            written = _readable(pieces) if sys.stdout.isatty() else _written(pieces)
            for data in written:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        return pieces.headers


def _written(pieces: Pieces) -> Iterator[bytes]:
    """Pieces as they came; of events what they say, a line each."""
    if media_type(pieces.content_type) != EVENTS:
        yield from pieces.raw()
        return
    for event in pieces:
        yield f"{event.data}\n".encode()


def _readable(pieces: Pieces) -> Iterator[bytes]:
    """Pieces for a terminal."""
    for piece in pieces:
        match piece:
            case str():
                yield printable(piece).encode()
            case Event():
                yield f"{printable(piece.data)}\n".encode()
            case bytes():
                yield f"{_bytes_shown(piece, pieces.content_type)}\n".encode()
            case _:
                yield printable(_line(piece)).encode() + b"\n"


def _line(piece: object) -> str:
    return f"{piece}" if is_tensors(piece) else msgspec.json.encode(piece).decode()


@contextlib.contextmanager
def kept(path: Path) -> Iterator[IO[bytes]]:
    """The file that a result goes to: it appears when it is complete. What is no regular file is written to as it is."""
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as special:
                yield special
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
            partial = Path(part.name)
            try:
                yield part.file
                part.flush()
                _keep_mode(path, partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise usage_error(f"--output {path}: {error.strerror or error}") from None


def _keep_mode(path: Path, partial: Path) -> None:
    """Gives a new file the mode that a file of this name has, or that the user's umask gives one."""
    if path.exists():
        shutil.copymode(path, partial)
        return
    mask = os.umask(0)
    os.umask(mask)
    partial.chmod(0o666 & ~mask)


def _show_trace(client: Client, headers: Mapping[str, str], total_ms: float) -> None:
    """Draws what the server says of a run: its whole timeline, or `Server-Timing` where it has no more to say."""
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stderr.isatty() else _WIDTH
    trace = _trace(client, headers.get(TRACE_HEADER.lower(), "").encode("latin-1", "replace"))
    if trace is not None:
        lines = draw_timeline(trace, width).splitlines()
    else:
        lines = draw_server_timing(spans_of(headers.get("server-timing", "")), total_ms, width)
    for line in lines:
        print(printable(line), file=sys.stderr)


def _trace(client: Client, text: bytes) -> Trace | None:
    """The timeline itself, which may be elsewhere when it is long; `None` where there is none."""
    with contextlib.suppress(FlowyardError, msgspec.DecodeError):
        place = msgspec.json.decode(text)
        if isinstance(place, dict) and str(place.get("url", "")).startswith(_TRACES):
            text = client.exchange(Call(method="GET", path=place["url"], read=lambda reply: reply.body)).body
        return read_trace(text)
    return None
