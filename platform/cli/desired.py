"""`flowyard apply`, `flowyard export` and `flowyard history`: the registry as files, and what was changed in it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowyard.platform.cli.failures import DIFFERENT, REFUSED, CommandError
from flowyard.platform.cli.management import Flag
from flowyard.platform.cli.output import printable, show_table, write_body
from flowyard.platform.cli.session import HERE, JsonOutput, Server, connected, told
from flowyard.platform.client import Client, RefusedError, answers, calls
from flowyard.platform.desired.changes import Change, Difference, compare
from flowyard.platform.desired.documents import exported, file_name, read, to_yaml


def apply(
    path: Path,
    /,
    *,
    dry_run: Flag = False,
    prune: Flag = False,
    server: Server = HERE,
) -> int:
    """Make what is registered equal to YAML documents. Shows the difference first.

    Exit status 0 when all is as it is wanted, 1 when something could not be done, with --dry-run 4 when something is to be done.

    Parameters
    ----------
    path
        File of documents, or folder with such files.
    dry_run
        Show the difference, and change nothing.
    prune
        Unregister the names that are in no document, too.
    """
    wanted = read(path)
    with connected(server) as client:
        difference = compare(wanted, client.call(calls.state()).names, prune=prune)
        _show(difference)
        if difference.impossible:
            raise CommandError("\n".join(map(printable, difference.impossible)), REFUSED)
        if dry_run:
            return DIFFERENT if difference.changes else 0
        return REFUSED if _carry_out(client, difference.changes) else 0


def _show(difference: Difference) -> None:
    for change in difference.changes:
        print(printable(str(change)))
    if not difference.changes and not difference.impossible:
        print("nothing to change")
    if difference.unlisted:
        print(
            printable(f"in no document, left alone (--prune unregisters them): {', '.join(difference.unlisted)}"), file=sys.stderr
        )


def _carry_out(client: Client, changes: Sequence[Change]) -> list[str]:
    """Makes the changes.

    Returns:
        The names of which something failed; the rest of their changes was left out.
    """
    failed: list[str] = []
    for change in changes:
        name = change.name.partition(":")[0]
        if name in failed:
            print(printable(f"left out: {change}"), file=sys.stderr)
            continue
        try:
            client.call(change.call)
        except RefusedError as error:
            failed.append(name)
            print(f"flowyard: {printable(str(change))}: {told(error)}", file=sys.stderr)
        else:
            print(f"done: {printable(str(change))}")
    return failed


def export(
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    server: Server = HERE,
) -> int:
    """Write what is registered as documents for apply.

    Parameters
    ----------
    output
        Folder that gets a file for each name; by default the standard output.
    """
    with connected(server) as client:
        names = client.call(calls.state()).names
    documents = [exported(name) for name in names]
    if output is None:
        sys.stdout.write("---\n".join(map(to_yaml, documents)))
        return 0
    output.mkdir(parents=True, exist_ok=True)
    for document in documents:
        (output / file_name(document.name)).write_text(to_yaml(document), encoding="utf-8")
    print(f"{len(documents)} written to {output}")
    return 0


def history(
    name: str | None = None,
    /,
    *,
    limit: int = 100,
    server: Server = HERE,
    json_output: JsonOutput = False,
) -> int:
    """Show who changed what and when, the last change first.

    Parameters
    ----------
    name
        Of one model or workflow; by default of all.
    limit
        Most changes that are shown.
    json_output
        Print the server's JSON, one document a page.
    """
    shown: list[answers.Change] = []
    token: str | None = None
    with connected(server, json_output=json_output) as client:
        while len(shown) < limit:
            call = calls.history(name, min(100, limit - len(shown)), token)
            reply = client.exchange(call)
            page = call.read(reply)
            if json_output:
                write_body(reply.body)
            shown += page.changes
            token = page.next_page_token
            if not token:
                break
    if not json_output:
        show_table(("time", "who", "action", "name", "version", ""), [_row(change) for change in shown])
    return 0


def _row(change: answers.Change) -> tuple[str, ...]:
    detail = " ".join(f"{key}={value}" for key, value in change.detail.items())
    return change.time, change.who, change.action, change.name, change.version, detail
