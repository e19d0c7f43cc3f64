"""`flowyard results`: the results of predictions that nobody waited for."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App

from flowyard.platform.cli.failures import usage_error
from flowyard.platform.cli.management import change
from flowyard.platform.cli.output import printable, write_body
from flowyard.platform.cli.predict import kept, show
from flowyard.platform.cli.session import HERE, JsonOutput, Server, connected
from flowyard.platform.client import Job, predictions

app = App(name="results", help="Fetch or cancel predictions of `flowyard predict --detach`.", version_flags=())


@app.command
def wait(
    name: str,
    token: str,
    /,
    *,
    timeout: float = 60.0,
    output: Path | None = None,
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Wait until a result is complete, and print it.

    Parameters
    ----------
    name
        The model or workflow.
    token
        What `predict --detach` printed.
    timeout
        Seconds after which to give up; the result goes on being made.
    output
        File that the result goes to, complete or not at all.
    json_output
        Print a refusal as the server's JSON.
    """
    with connected(server, json_output=json_output) as client:
        prediction = client.result(Job(name, token), timeout_s=timeout)
        if output is None:
            show(prediction)
        else:
            with kept(output) as target:
                target.write(prediction.body)
    return 0


@app.command
def fetch(
    name: str,
    token: str,
    /,
    *,
    max_items: int | None = None,
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Print what there is of a result so far; the token that leads to the rest goes to the standard error.

    Parameters
    ----------
    name
        The model or workflow.
    token
        What `predict --detach` printed, or what the last `fetch` told.
    max_items
        Most items that are fetched.
    json_output
        Print a refusal as the server's JSON.
    """
    if max_items is not None and max_items < 1:
        raise usage_error(f"--max-items {max_items}: a number from 1 up is expected")
    with connected(server, json_output=json_output) as client:
        part = client.fetch(Job(name, token), max_items)
    write_body(part.reply.body)
    if part.next is not None:
        print(f"there may be more: flowyard results fetch {printable(name)} {printable(part.next.token)}", file=sys.stderr)
    return 0


@app.command
def cancel(name: str, token: str, /, *, server: Server = HERE, json_output: JsonOutput = False) -> int:
    """Take a prediction back, or have its result forgotten.

    Parameters
    ----------
    name
        The model or workflow.
    token
        What `predict --detach` printed.
    json_output
        Print the server's JSON.
    """
    return change(server, predictions.cancel(Job(name, token)), json_output=json_output)
