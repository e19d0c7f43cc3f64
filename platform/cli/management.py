"""`flowyard models` and `flowyard workflows`: what is registered on a server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from cyclopts import App, Parameter

from flowyard.platform.cli.descriptions import show_versions
from flowyard.platform.cli.failures import NO_ANSWER, CommandError, usage_error
from flowyard.platform.cli.output import printable, show_table, write_body
from flowyard.platform.cli.session import HERE, JsonOutput, Server, connected, interrupted
from flowyard.platform.cli.sources import (
    explained,
    name_and_version,
    parameters_of,
    registered_name,
    source_of,
    weights_of,
)
from flowyard.platform.client import Client, RefusedError, answers, calls
from flowyard.platform.client.calls import Call, Kind

if TYPE_CHECKING:
    from flowyard.platform.cli.progress import Bars

#: How long a model that loads is followed: longer than any server waits for one.
_FOLLOW_S = 86_400.0
Flag = Annotated[bool, Parameter(negative=())]
Parameters = Annotated[list[str] | None, Parameter(name="--parameter", consume_multiple=False, negative=())]


Page = TypeVar("Page", answers.ModelPage, answers.WorkflowPage, answers.AdapterPage)


@Parameter(name="*")
@dataclass(frozen=True)
class Paging:
    """Which page of a list."""

    limit: int | None = None
    """Show one page, of so many names; all pages by default."""

    next_page_token: str | None = None
    """Where the page starts: the token of the page before."""


ALL_PAGES = Paging()


@Parameter(name="*")
@dataclass(frozen=True)
class WorkflowOptions:
    """What is said about something that is registered."""

    engine: str | None = None
    """OnnxRuntime, PyTorch or Python; by default the server looks at the files."""

    device: str | None = None
    """Devices, such as cpu or gpu0."""

    min_worker: int | None = None
    """Workers that are always there."""

    max_worker: int | None = None
    """Workers that there may be."""

    parameters: Parameters = None
    """KEY=VALUE of any other parameter of the server's. Can be given several times."""

    def said(self) -> dict[str, object]:
        """As parameters of the server's; those that are `None` are not sent.

        Raises:
            CommandError: A `--parameter` that is not KEY=VALUE.
        """
        said = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "parameters"}
        # A flag that is not given is not said.
        return {name: None if value is False else value for name, value in said.items()} | parameters_of(self.parameters)


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions(WorkflowOptions):
    """What is said about a model that is registered."""

    model_name: str | None = None
    """Its name; by default the server makes one of the file's name."""

    model_version: str | None = None
    """Its version; none by default."""

    batch_size: int | None = None
    """Most requests that are computed together."""

    max_batch_delay: int | None = None
    """Longest wait for company, in milliseconds."""

    batching: Literal["eager", "fill"] | None = None
    """Whether an idle worker starts at once (eager) or waits for a full batch (fill)."""

    job_queue_size: int | None = None
    """Most requests that wait."""

    max_idle_time: int | None = None
    """Seconds after which a surplus worker goes."""

    timeout: float | None = None
    """Seconds that one batch may take."""

    trusted: Flag = False
    """Allow formats that can run code when they are read, where the server allows it."""

    sha256: str | None = None
    """What the archive must hash to."""


@Parameter(name="*")
@dataclass(frozen=True)
class Way:
    """How something is registered."""

    remote: Flag = False
    """SOURCE is a path of the server's, even when there is one here."""

    asynchronous: Flag = False
    """Let the server answer at once, and show how far it is until it is done. A failure stays registered as FAILED."""

    detach: Flag = False
    """Let the server answer at once, and leave it at that."""


def change(server: Server, call: Call[answers.Status], *, json_output: bool) -> int:
    """Makes a change and prints what the server says of it."""
    with connected(server, json_output=json_output) as client:
        _print_status(client, call, json_output=json_output)
    return 0


def _print_status(client: Client, call: Call[answers.Status], *, json_output: bool) -> str:
    reply = client.exchange(call)
    status = call.read(reply).status
    if json_output:
        write_body(reply.body)
    else:
        print(printable(status))
    return status


def _shared(app: App, kind: Kind) -> App:
    """The commands that models and workflows have in common."""

    @app.command
    def describe(name: str, /, *, server: Server = HERE, json_output: JsonOutput = False) -> int:
        """Show all about each version: models and their settings, workers, queues, signatures.

        Parameters
        ----------
        name
            NAME or NAME:VERSION.
        json_output
            Print the server's JSON.
        """
        call = calls.describe(kind, *name_and_version(name))
        with connected(server, json_output=json_output) as client:
            reply = client.exchange(call)
            versions = call.read(reply)
        if json_output:
            write_body(reply.body)
        else:
            show_versions(versions)
        return 0

    @app.command
    def scale(
        name: str,
        /,
        *,
        min_worker: int | None = None,
        max_worker: int | None = None,
        device: str | None = None,
        asynchronous: Flag = False,
        server: Server = HERE,
        json_output: JsonOutput = False,
    ) -> int:
        """Change the number of workers of one version, or of all.

        Parameters
        ----------
        name
            NAME or NAME:VERSION.
        min_worker
            Workers that are always there.
        max_worker
            Workers that there may be.
        device
            Device that is meant, such as cpu or gpu0; all of them by default.
        asynchronous
            Do not wait for the workers.
        json_output
            Print the server's JSON.
        """
        if min_worker is None and max_worker is None:
            raise usage_error("--min-worker or --max-worker is expected")
        model, version = name_and_version(name)
        call = calls.scale(
            kind,
            model,
            version,
            min_worker=min_worker,
            max_worker=max_worker,
            device=device,
            synchronous=not asynchronous,
        )
        return change(server, call, json_output=json_output)

    @app.command
    def delete(name: str, /, *, server: Server = HERE, json_output: JsonOutput = False) -> int:
        """Unregister one version, or all; requests that were accepted are finished first.

        Parameters
        ----------
        name
            NAME or NAME:VERSION.
        json_output
            Print the server's JSON.
        """
        return change(server, calls.unregister(kind, *name_and_version(name)), json_output=json_output)

    @app.command
    def set_default(name: str, /, *, off: Flag = False, server: Server = HERE, json_output: JsonOutput = False) -> int:
        """Make a version the one for requests that name none.

        Parameters
        ----------
        name
            NAME:VERSION.
        off
            No longer do so.
        json_output
            Print the server's JSON.
        """
        model, version = _one_version(name)
        call = calls.clear_default(kind, model, version) if off else calls.set_default(kind, model, version)
        return change(server, call, json_output=json_output)

    @app.command
    def rollback(name: str, /, *, to: str | None = None, server: Server = HERE, json_output: JsonOutput = False) -> int:
        """Let the version answer that was registered before the present one, even when it was unregistered or replaced of late.

        Parameters
        ----------
        name
            NAME.
        to
            The version to go back to.
        json_output
            Print the server's JSON.
        """
        return change(server, calls.rollback(kind, name, to), json_output=json_output)

    @app.command
    def weights(name: str, /, *shares: str, server: Server = HERE, json_output: JsonOutput = False) -> int:
        """Share the requests that name no version out between versions.

        Parameters
        ----------
        name
            NAME.
        shares
            VERSION:SHARE for each version: v1:90 v2:10; none takes them back.
        json_output
            Print the server's JSON.
        """
        call = calls.clear_weights(kind, name) if shares == ("none",) else calls.set_weights(kind, name, weights_of(shares))
        return change(server, call, json_output=json_output)

    @app.command
    def shadow(
        name: str,
        /,
        *,
        off: Flag = False,
        server: Server = HERE,
        json_output: JsonOutput = False,
    ) -> int:
        """Send copies of requests to a version, and drop its answers.

        Parameters
        ----------
        name
            NAME:VERSION.
        off
            No longer do so.
        json_output
            Print the server's JSON.
        """
        model, version = _one_version(name)
        return change(server, calls.set_shadow(kind, model, version, shadow=not off), json_output=json_output)

    return app


def _one_version(text: str) -> tuple[str, str]:
    name, version = name_and_version(text)
    if version is None:
        raise usage_error(f"{text!r}: NAME:VERSION is expected")
    return name, version


models = _shared(App(name="models", help="Register, list, scale and remove models.", version_flags=()), "models")
workflows = _shared(App(name="workflows", help="Register, list, scale and remove workflows.", version_flags=()), "workflows")


def _pages(
    client: Client,
    call_of: Callable[[int | None, str | None], Call[Page]],
    limit: int | None,
    token: str | None,
    *,
    json_output: bool,
) -> Iterator[Page]:
    """The page that is asked for, or all of them where none is."""
    one = limit is not None or token is not None
    while True:
        call = call_of(limit, token)
        reply = client.exchange(call)
        page = call.read(reply)
        if json_output:
            write_body(reply.body)
        yield page
        token = page.next_page_token
        if one or not token:
            break
    if token and not json_output:
        print(f"there are more: --next-page-token {printable(token)}", file=sys.stderr)


def show_list(
    call_of: Callable[[int | None, str | None], Call[Page]],
    rows_of: Callable[[Page], Iterable[Sequence[str]]],
    heads: Sequence[str],
    paging: Paging,
    server: Server,
    *,
    json_output: bool,
) -> int:
    """Shows a list of the server's: a page, or all of them.

    Args:
        call_of: Makes the call for a page.
        rows_of: What is shown of a page.
        heads: What stands above.
        paging: Which page.
        server: Which server.
        json_output: Whether to print the server's JSON.
    """
    with connected(server, json_output=json_output) as client:
        pages = _pages(client, call_of, paging.limit, paging.next_page_token, json_output=json_output)
        rows = [row for page in pages for row in rows_of(page)]
    if not json_output:
        show_table(heads, rows)
    return 0


@models.command(name="list")
def list_models(*, paging: Paging = ALL_PAGES, server: Server = HERE, json_output: JsonOutput = False) -> int:
    """List the models of all workflows.

    Parameters
    ----------
    json_output
        Print the server's JSON, one document a page.
    """

    def rows(page: answers.ModelPage) -> list[tuple[str, ...]]:
        return [(item.model_name, item.version or "", item.status, item.model_url) for item in page.models]

    return show_list(calls.list_models, rows, ("model", "version", "status", "url"), paging, server, json_output=json_output)


@workflows.command(name="list")
def list_workflows(*, paging: Paging = ALL_PAGES, server: Server = HERE, json_output: JsonOutput = False) -> int:
    """List workflows and single models with their versions.

    Parameters
    ----------
    json_output
        Print the server's JSON, one document a page.
    """

    def rows(page: answers.WorkflowPage) -> list[tuple[str, ...]]:
        return [(item.workflow_name, item.version or "", item.status) for item in page.workflows]

    return show_list(calls.list_workflows, rows, ("workflow", "version", "status"), paging, server, json_output=json_output)


@models.command(name="register")
def register_model(
    source: str,
    /,
    *,
    options: ModelOptions = ModelOptions(),
    way: Way = Way(),
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Register a model and wait until it can be asked.

    Parameters
    ----------
    source
        A file or folder here, which is uploaded, or a URL that the server reads.
    json_output
        Print the server's JSON.
    """
    return _Registration("models", source_of(source, remote=way.remote), options.said(), way).run(server, json_output=json_output)


@workflows.command(name="register")
def register_workflow(
    source: str,
    /,
    *,
    options: WorkflowOptions = WorkflowOptions(),
    way: Way = Way(),
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Register a workflow and wait until it can be asked. Options go for each of its models that does not say otherwise.

    Parameters
    ----------
    source
        An archive or folder here, which is uploaded, or a URL that the server reads.
    json_output
        Print the server's JSON.
    """
    return _Registration("workflows", source_of(source, remote=way.remote), options.said(), way).run(
        server, json_output=json_output
    )


class _Registration(msgspec.Struct, frozen=True):
    """A registration as a command carries it out."""

    kind: Kind
    source: str | Path
    options: dict[str, object]
    way: Way

    def run(self, server: Server, *, json_output: bool) -> int:
        from flowyard.platform.cli.progress import Bars

        wait = not (self.way.asynchronous or self.way.detach)
        follow = self.way.asynchronous and not self.way.detach
        with connected(server, json_output=json_output) as client, Bars() as bars:
            call = calls.register(self.kind, self.source, self.options, synchronous=wait, on_sent=bars.on_sent)
            if isinstance(self.source, str):
                bars.waiting()
            try:
                status = self._register(client, call, json_output=json_output)
                if follow:
                    self._follow(client, status, bars, json_output=json_output)
            except KeyboardInterrupt:
                interrupted("what the server has been sent completely, it goes on with")
                raise
        return 0

    def _register(self, client: Client, call: Call[answers.Status], *, json_output: bool) -> str:
        try:
            return _print_status(client, call, json_output=json_output)
        except RefusedError as error:
            raise explained(error, self.source) from None

    def _follow(self, client: Client, status: str, bars: Bars, *, json_output: bool) -> None:
        name = registered_name(status)
        if name is None:
            raise CommandError(f"the server does not say under which name it registers: {printable(status)}", NO_ANSWER)
        version = self.options.get("model_version")
        client.wait_until_ready(
            name,
            version if isinstance(version, str) else None,
            kind=self.kind,
            timeout_s=_FOLLOW_S,
            on_progress=bars.on_loading,
        )
        if not json_output:
            print(printable(f"{name} is ready"))
