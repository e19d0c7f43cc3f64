"""`flowyard adapters`: the adapters of a model."""

from __future__ import annotations

from cyclopts import App

from flowyard.platform.cli.management import ALL_PAGES, Paging, Parameters, change, show_list
from flowyard.platform.cli.output import show_table, write_body
from flowyard.platform.cli.session import HERE, JsonOutput, Server, connected
from flowyard.platform.cli.sources import parameters_of
from flowyard.platform.client import answers, calls

app = App(name="adapters", help="Register, list, change and remove the adapters of a model.", version_flags=())
_HEADS = ("adapter", "preload", "pin", "source")


def _row(adapter: answers.Adapter) -> tuple[str, ...]:
    return adapter.name, *("yes" if value else "no" for value in (adapter.preload, adapter.pin)), adapter.src


@app.command(name="list")
def list_adapters(model: str, /, *, paging: Paging = ALL_PAGES, server: Server = HERE, json_output: JsonOutput = False) -> int:
    """List the adapters of a model.

    Parameters
    ----------
    model
        Name of the model.
    json_output
        Print the server's JSON, one document a page.
    """

    def page_of(limit: int | None, token: str | None) -> calls.Call[answers.AdapterPage]:
        return calls.list_adapters(model, limit, token)

    def rows(page: answers.AdapterPage) -> list[tuple[str, ...]]:
        return [_row(adapter) for adapter in page.adapters]

    return show_list(page_of, rows, _HEADS, paging, server, json_output=json_output)


@app.command
def describe(model: str, adapter: str, /, *, server: Server = HERE, json_output: JsonOutput = False) -> int:
    """Show what is known of an adapter.

    Parameters
    ----------
    model
        Name of the model.
    adapter
        Name of the adapter.
    json_output
        Print the server's JSON.
    """
    call = calls.describe_adapter(model, adapter)
    with connected(server, json_output=json_output) as client:
        reply = client.exchange(call)
        described = call.read(reply)
    if json_output:
        write_body(reply.body)
    else:
        show_table(_HEADS, [_row(described)])
    return 0


@app.command
def register(
    model: str,
    adapter: str,
    source: str,
    /,
    *,
    alias: str | None = None,
    parameters: Parameters = None,
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Have a model's handler load an adapter.

    Parameters
    ----------
    model
        Name of the model.
    adapter
        Name of the adapter, which requests say.
    source
        Where it is, for the handler.
    alias
        What else it is called.
    parameters
        KEY=VALUE of whatever else the handler is to know of it, such as preload=false or pin=true. Can be given several times.
    json_output
        Print the server's JSON.
    """
    call = calls.register_adapter(model, adapter, source, alias=alias, options=parameters_of(parameters))
    return change(server, call, json_output=json_output)


@app.command
def update(
    model: str,
    adapter: str,
    source: str | None = None,
    /,
    *,
    alias: str | None = None,
    parameters: Parameters = None,
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Have a model's handler change an adapter; what is not said stays as it was.

    Parameters
    ----------
    model
        Name of the model.
    adapter
        Name of the adapter.
    source
        Where it is now.
    alias
        What else it is called.
    parameters
        KEY=VALUE of whatever else the handler is to know of it. Can be given several times.
    json_output
        Print the server's JSON.
    """
    call = calls.update_adapter(model, adapter, source, alias=alias, options=parameters_of(parameters))
    return change(server, call, json_output=json_output)


@app.command
def delete(model: str, adapter: str, /, *, server: Server = HERE, json_output: JsonOutput = False) -> int:
    """Have a model's handler drop an adapter.

    Parameters
    ----------
    model
        Name of the model.
    adapter
        Name of the adapter.
    json_output
        Print the server's JSON.
    """
    return change(server, calls.unregister_adapter(model, adapter), json_output=json_output)
