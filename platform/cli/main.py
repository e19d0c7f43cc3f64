"""The command line."""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from flowyard.platform.cli.failures import INTERRUPTED, NO_READER, REFUSED, CommandError
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, InvalidWorkflowError

#: Of the output: a full disk, a full quota, a device that fails.
_OUTPUT_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

app = App(
    name="flowyard",
    help="Serve workflows of PyTorch, ONNX and Python models over HTTP.",
    version=lambda: metadata.version("flowyard"),
)


@app.command
def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    inference_address: str | None = None,
    management_address: str | None = None,
    model_store: Annotated[Path | None, Parameter(name=["--model-store", "-s"])] = None,
    load: Annotated[list[str] | None, Parameter(consume_multiple=False, negative="")] = None,
    models: Annotated[list[str] | None, Parameter(name=["--models", "-m"], consume_multiple=True, negative="")] = None,
    state_dir: Path | None = None,
    dialect: Annotated[list[str] | None, Parameter(consume_multiple=False, negative="")] = None,
    config: Annotated[Path | None, Parameter(name=["--config", "--config-file", "-f"])] = None,
    allowed_paths: str | None = None,
    allowed_urls: str | None = None,
    insecure: Annotated[bool, Parameter(negative="")] = False,
    disable_model_api: Annotated[bool, Parameter(negative="")] = False,
    watch: Annotated[bool, Parameter(negative="")] = False,
    log_level: str | None = None,
    log_format: str | None = None,
    ready_file: Path | None = None,
) -> int:
    """Serve models and workflows until SIGTERM or SIGINT.

    Every setting can also be given as FLOWYARD_KEY in the environment, or in the file of --config. The config.properties
    and the SERVING_KEY of a DJL Serving installation are understood.

    Parameters
    ----------
    host
        Address to listen on; 127.0.0.1 by default.
    port
        Port to listen on; 8080 by default, 0 takes a free one.
    inference_address
        http(s)://host[:port] or unix:/path, instead of host and port.
    management_address
        The same for the management API; the inference address by default.
    model_store
        Folder that relative model URLs are relative to.
    load
        [NAME[:VERSION[:ENGINE[:DEVICES]]]=]URL of a model or workflow to load at the start. Can be given several times.
    models
        The same, several at once; ALL is everything in the model store, NONE nothing.
    state_dir
        Folder that remembers what is registered; ~/.local/state/flowyard by default.
    dialect
        torchserve or mms: serve that server's API, too, on addresses of its own. Can be given several times. The native API is
        then served only where an address is said for it.
    config
        File with settings: YAML, or a config.properties of DJL Serving.
    allowed_paths
        Further folders that URLs may lead into, separated by colons.
    allowed_urls
        Remote URLs that may be fetched, as https://models.example.org/team, separated by commas.
    insecure
        Serve other machines although there is no token: anybody who reaches the server may do anything.
    disable_model_api
        Refuse to register and to remove models and workflows; what is loaded at the start stays.
    watch
        Register, replace and unregister what comes into, changes in and goes out of the model store.
    log_level
        debug, info, warning or error.
    log_format
        console, json, or auto.
    ready_file
        Gets the base URL once requests are accepted; in a second line that of the management API, where that is another one.
    """
    from flowyard.platform.settings import load_settings
    from flowyard.platform.telemetry.logs import configure_logs

    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "inference_address": inference_address,
        "management_address": management_address,
        "model_store": model_store,
        "load": load,
        "load_models": ",".join(models) if models else None,
        "state_dir": state_dir,
        "dialects": ",".join(dialect) if dialect else None,
        "allowed_paths": allowed_paths,
        "allowed_urls": allowed_urls,
        "insecure": insecure or None,
        "enable_model_api": False if disable_model_api else None,
        "watch_model_store": watch or None,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings, warnings = load_settings(config, os.environ, flags)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    from flowyard.platform.server import run

    logs = configure_logs(settings.log_level, settings.log_format)
    try:
        run(settings, logs, ready_file)
    finally:
        logs.close()
    return 0


@app.command
def check(
    path: Path,
    *,
    json_output: Annotated[bool, Parameter(name="--json", negative=())] = False,
    model_store: Path | None = None,
    handler: str | None = None,
) -> int:
    """Check a workflow: a file, a folder or an archive. Exit status 1 when it would be refused; warnings alone are no failure.

    Parameters
    ----------
    path
        Workflow file, folder with a workflow file, or archive.
    json_output
        Print what was found as one JSON object.
    model_store
        Folder in which a .mar may be that is not in the archive.
    handler
        Python file with the functions of a TorchServe spec that is not in a .war; by default the only one next to it.
    """
    import msgspec

    from flowyard.platform.cli.offline import check_path, report

    checked = check_path(path, model_store, handler)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(report(path, checked)), indent=2).decode())
    else:
        for problem in checked.problems:
            print(problem)
        if checked.plan is not None:
            print(f"{path}: workflow {checked.plan.name} is valid")
    return 1 if checked.plan is None else 0


@app.command
def graph(
    path: Path, *, output_format: Annotated[Literal["mermaid", "dot", "svg"], Parameter(name="--format")] = "mermaid"
) -> int:
    """Print the graph of a workflow.

    Parameters
    ----------
    path
        Workflow file, folder with a workflow file, or archive.
    output_format
        Mermaid text, Graphviz text, or an SVG image, for which Graphviz must be installed.
    """
    from flowyard.platform.cli.offline import check_path, draw

    checked = check_path(path)
    if checked.plan is None:
        raise InvalidWorkflowError(checked.problems)
    sys.stdout.write(draw(checked.plan, output_format))
    return 0


@app.command
def pack(
    folder: Path, *, output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None, model_store: Path | None = None
) -> int:
    """Check a workflow and pack its folder into an archive. The same files give the same bytes.

    Hidden files and __pycache__ are left out. Exit status 1 when the workflow has errors: then nothing is written.

    Parameters
    ----------
    folder
        Folder with a workflow file.
    output
        The archive; NAME.zip by default, after the name of the workflow, or NAME.war where the folder has a WAR-INF.
    model_store
        Folder in which a .mar may be that is not in the folder.
    """
    from flowyard.platform.archives.pack import pack as pack_archive
    from flowyard.platform.cli.offline import archive_name, check_path

    if not folder.is_dir():
        raise InvalidRequestError(f"{folder}: no such folder")
    checked = check_path(folder, model_store)
    for problem in checked.problems:
        print(problem)
    if checked.plan is None:
        return 1
    packed = pack_archive(folder, output or Path(archive_name(folder, checked.plan)))
    print(f"{packed.path}: {packed.files} files, {packed.size_bytes} bytes, sha256 {packed.sha256}")
    return 0


@app.command
def schema(name: Literal["workflow", "torchserve-workflow", "apply", "settings", "api"]) -> int:
    """Print a JSON Schema, for editors and other tools.

    Parameters
    ----------
    name
        Of workflow files, of the spec of a TorchServe .war, of the settings file, or of the bodies of the API.
    """
    from flowyard.platform.cli.schemas import schema_text

    sys.stdout.write(schema_text(name))
    return 0


app.command("flowyard.platform.cli.management:models", name="models", help="Register, list, scale and remove models.")
app.command("flowyard.platform.cli.management:workflows", name="workflows", help="Register, list, scale and remove workflows.")
app.command("flowyard.platform.cli.adapters:app", name="adapters", help="Register, list and remove the adapters of a model.")
app.command("flowyard.platform.cli.results:app", name="results", help="Fetch or cancel what predict --detach has started.")
app.command("flowyard.platform.cli.desired:apply", name="apply", help="Make what is registered equal to YAML documents.")
app.command("flowyard.platform.cli.desired:export", name="export", help="Write what is registered as YAML documents.")
app.command("flowyard.platform.cli.desired:history", name="history", help="Show who changed what and when.")
app.command(
    "flowyard.platform.cli.migrate:migrate", name="migrate", help="Move in from TorchServe, Multi Model Server or DJL Serving."
)
app.command("flowyard.platform.cli.inspect:inspect", name="inspect", help="Tell what an archive is and needs.")
app.command("flowyard.platform.cli.drop_in:torchserve", name="torchserve", help="Serve as TorchServe: its flags, files and API.")
app.command("flowyard.platform.cli.drop_in:mms", name="mms", help="Serve as Multi Model Server: its flags, files and API.")
app.command("flowyard.platform.cli.predict:predict", name="predict", help="Run a model or workflow.")
app.command("flowyard.platform.cli.tokens:app", name="tokens")
app.command("flowyard.platform.cli.bench:bench", name="bench", help="Put a server under load and show how it does.")


def main() -> None:
    """Runs the command line; a mistake of the user is a message and an exit status, never a traceback."""
    _prepare_output()
    try:
        status = app(result_action="return_value")
        sys.stdout.flush()
    except CommandError as error:
        print(f"flowyard: {error}", file=sys.stderr)
        status = error.status
    except FlowyardError as error:
        print(f"flowyard: {error}", file=sys.stderr)
        status = REFUSED
    except BrokenPipeError:
        status = _without_output(NO_READER)
    except OSError as error:
        if error.errno not in _OUTPUT_FAILURES:
            raise
        print(f"flowyard: {error.filename or 'the output'} cannot be written: {error.strerror}", file=sys.stderr)
        status = _without_output(REFUSED)
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status if isinstance(status, int) else 0)


def _prepare_output() -> None:
    """Has an output in any case, and one that takes all characters, whatever the terminal's encoding."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _without_output(status: int) -> int:
    """Whoever read the output has left, or it is full: nothing more is written, not even by the interpreter as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


if __name__ == "__main__":
    main()
