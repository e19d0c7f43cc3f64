"""A command's way to the server: where it is, and what its refusals are on a command line."""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowyard.platform.cli.failures import NO_ANSWER, REFUSED, USAGE, CommandError, usage_error
from flowyard.platform.cli.output import printable, write_body
from flowyard.platform.client import (
    Client,
    ClientError,
    InvalidArgumentError,
    NoAnswerError,
    RefusedError,
    UnavailableError,
)

JsonOutput = Annotated[bool, Parameter(name="--json", negative=())]


@Parameter(name="*")
@dataclass(frozen=True)
class Server:
    """Which server."""

    url: str | None = None
    """Base URL of the server: http://host:port, https://host or unix:/path; FLOWYARD_URL by default, else
    http://127.0.0.1:8080. A token is taken from FLOWYARD_TOKEN."""

    ca_file: Path | None = None
    """File with the certificates that an https server is checked against; the system's by default."""


HERE = Server()


@contextlib.contextmanager
def connected(server: Server, *, json_output: bool = False) -> Iterator[Client]:
    """A client for the time of a command.

    Args:
        server: Which server.
        json_output: Whether a refusal goes to the standard output too, as the server told it.

    Yields:
        The client.

    Raises:
        CommandError: For every `ClientError`: what to print, and the exit status.
    """
    try:
        with Client(server.url, verify=_certificates(server.ca_file)) as client:
            yield client
    except ClientError as error:
        if json_output and isinstance(error, RefusedError):
            write_body(error.body)
        raise CommandError(told(error), _status(error)) from None


def _certificates(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise usage_error(f"--ca-file {ca_file}: there is no certificate in PEM format in it") from None
    except OSError as error:
        raise usage_error(f"--ca-file {ca_file}: {error.strerror or error}") from None


def _status(error: ClientError) -> int:
    match error:
        case InvalidArgumentError():
            return USAGE
        case NoAnswerError():
            return NO_ANSWER
        case _:
            return REFUSED


def told(error: ClientError) -> str:
    """An error in words: the problems of a workflow file as a compiler tells them, one a line."""
    if isinstance(error, RefusedError) and error.problems:
        count = len(error.problems)
        head = f"the server refuses it, with {count} problem{'s' if count > 1 else ''}"
        return printable("\n".join([head, *map(str, error.problems)]))
    wait = ""
    if isinstance(error, UnavailableError) and error.retry_after_s is not None:
        wait = f" (try again in {error.retry_after_s:g} s)"
    return printable(f"{error.message}{wait}")


def interrupted(what: str) -> None:
    """Says what Ctrl-C does not end."""
    print(f"flowyard: interrupted; {what}", file=sys.stderr)
