"""`flowyard torchserve` and `flowyard mms`: called like `torchserve` and `multi-model-server` (TorchServe reference §5.2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from flowyard.platform.sources import Given
from flowyard.schemas.errors import InvalidRequestError

Flag = Annotated[bool, Parameter(negative=())]
Models = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]

PID_FILE = ".model_server.pid"
#: Time that a server gets to stop.
STOP_LIMIT_S = 60.0
_LOOK_S = 0.05


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """What both are told."""

    start: Flag = False
    """Start the server; what is done unless --stop or --version is given."""

    stop: Flag = False
    """Stop the server."""

    foreground: Flag = False
    """Stay in the foreground; else the server goes on in the background."""

    version: Annotated[bool, Parameter(name=["--version", "-v"], negative=())] = False
    """Show the version."""

    model_store: Path | None = None
    """Folder of the archives."""

    models: Models = None
    """[NAME=]ARCHIVE of models to load at the start, or `all`."""

    log_config: Path | None = None
    """Configuration of log4j; has no effect."""

    state_dir: Path | None = None
    """Folder that remembers what is registered; one of its own in ~/.local/state/flowyard by default. The file with the process
    id is there, too, where it is given."""

    ready_file: Path | None = None
    """Gets the base URLs once requests are accepted."""

    def run(
        self,
        server: DropIn,
        file: Path | None,
        own: Mapping[str, object],
        idle: Mapping[str, object | None] | None = None,
        *,
        snapshots: bool,
    ) -> int:
        """Does what the flags say.

        Args:
            server: Which of the two.
            file: Its configuration.
            own: Settings from flags that it alone has.
            idle: Its flags that do nothing, by name.
            snapshots: Whether the newest snapshot counts where no file is named.

        Raises:
            InvalidRequestError: The configuration cannot be read, or says what cannot be.
        """
        if self.version:
            print(server.version)
            return 0
        if self.stop:
            return server.stop()
        _check_there(log_config=self.log_config)
        flags = {
            "model_store": _absolute(self.model_store),
            "load_models": ",".join(self.models) if self.models else None,
            **own,
        }
        given = {"--log-config": self.log_config, **(idle or {})}
        said = [flag for flag, value in given.items() if value is not None]
        run = server.settings(file, flags, said, snapshots=snapshots)
        return server.start(run, foreground=self.foreground, ready_file=self.ready_file)


def torchserve(
    *,
    common: Common = Common(),
    workflow_store: Path | None = None,
    ts_config: Path | None = None,
    cpp_log_config: Path | None = None,
    ncs: Annotated[bool, Parameter(name=["--no-config-snapshots", "--ncs"], negative=())] = False,
    plugins_path: Annotated[str | None, Parameter(name=["--plugins-path", "--ppath"])] = None,
    disable_token_auth: Annotated[bool, Parameter(name=["--disable-token-auth", "--dt"], negative=())] = False,
    enable_model_api: Flag = False,
) -> int:
    """Serve as TorchServe does: its flags, its config.properties, its environment, its API.

    Parameters
    ----------
    workflow_store
        Folder of the workflow archives; the model store by default.
    ts_config
        The config.properties.
    cpp_log_config
        Has no effect.
    ncs
        Begin with what configuration and flags say, not with what was registered before, and write no snapshots.
    plugins_path
        Has no effect.
    disable_token_auth
        Ask for no tokens.
    enable_model_api
        Let the API register and unregister models.
    """
    if not (common.version or common.stop):
        store = common.model_store
        if store is not None and not store.is_dir():
            raise InvalidRequestError(f"--model-store directory not found: {store}")
        _check_there(cpp_log_config=cpp_log_config)
    own = {
        "workflow_store": _absolute(workflow_store),
        "disable_token_authorization": True if disable_token_auth else None,
        "torchserve_model_api": True if enable_model_api else None,
        "restore": False if ncs else None,
        "config_snapshots": False if ncs else None,
    }
    idle = {"--cpp-log-config": cpp_log_config, "--plugins-path": plugins_path}
    server = DropIn("TorchServe", "torchserve", common.state_dir, "TorchServe Version is 0.12.0")
    return common.run(server, ts_config, own, idle, snapshots=not ncs)


def mms(
    *,
    common: Common = Common(),
    mms_config: Annotated[Path | None, Parameter(name=["--mms-config", "--ts-config"])] = None,
) -> int:
    """Serve as Multi Model Server does: its flags, its config.properties, its environment, its API.

    Parameters
    ----------
    mms_config
        The config.properties.
    """
    server = DropIn("MMS", "mms", common.state_dir, "Model server version is 1.1.11")
    # The original forgets everything when it stops.
    return common.run(server, mms_config, {"restore": False}, snapshots=False)


def _check_there(**files: Path | None) -> None:
    """Refuses flags whose file is not there, even where they have no effect, as the originals do."""
    for name, file in files.items():
        if file is not None and not file.is_file():
            raise InvalidRequestError(f"--{name.replace('_', '-')} file not found: {file}")


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _at_home(item: Given) -> Given:
    """The stores of a configuration are below the working directory, as in the originals."""
    is_store = item.key in ("model_store", "workflow_store")
    return msgspec.structs.replace(item, value=_absolute(Path(str(item.value)))) if is_store else item


class DropIn:
    """One of the servers whose place is taken.

    Args:
        title: What its messages call it.
        dialect: Whose API is served.
        state_dir: Where the state is, `None` for the usual place.
        version: What it says when asked for its version.
    """

    def __init__(self, title: str, dialect: Literal["torchserve", "mms"], state_dir: Path | None, version: str) -> None:
        from flowyard.platform.settings import default_state_dir

        self.version = version
        self._title = title
        self._dialect: Literal["torchserve", "mms"] = dialect
        self._state_dir = state_dir or Path(default_state_dir()) / dialect
        self._pid_file = (state_dir or Path(tempfile.gettempdir())) / PID_FILE

    def settings(
        self, file: Path | None, flags: Mapping[str, object], idle: list[str], *, snapshots: bool
    ) -> Callable[[Path | None], None]:
        """Reads the configuration.

        Args:
            file: The file that was named.
            flags: Settings from flags.
            idle: Flags that do nothing.
            snapshots: Whether the newest snapshot counts where no file is named.

        Returns:
            What serves, until it is told to stop.

        Raises:
            InvalidRequestError: It cannot be read.
        """
        from flowyard.platform import torchserve_config as config
        from flowyard.platform.doors import open_to_others
        from flowyard.platform.settings import settings_of
        from flowyard.platform.sources import from_env, from_flags
        from flowyard.platform.state_dir import DATABASE

        state_dir = self._state_dir.absolute()
        found = config.find_config(self._dialect, file, os.environ, Path.cwd(), snapshots=snapshots, state_dir=state_dir)
        is_named = file is not None or bool(os.environ.get(config.CONFIG_VARIABLES[self._dialect]))
        remembers = not is_named and (state_dir / DATABASE).exists()
        said = config.read_config(self._dialect, found, os.environ, state_dir if remembers else None)
        kept = said.kept | ({"tsConfigFile": str(found.absolute())} if found is not None else {})
        # The originals open what they are told to; whoever moves in is warned, not turned away.
        own = {"dialects": self._dialect, "state_dir": self._state_dir, "insecure": True}
        logs = config.log_defaults(self._dialect, os.environ)
        if said.loaded_by_snapshot and flags.get("load_models"):
            flags = {**flags, "load_models": ",".join([*said.loaded_by_snapshot, str(flags["load_models"])])}
        given = [
            *logs,
            *map(_at_home, said.given),
            *from_env(os.environ),
            *from_flags({**flags, **own}),
            *said.from_env,
        ]
        older = [] if is_named or found is None else config.newer_than(found, Path.cwd())
        warnings = [*older, *said.warnings, *(f"{flag} has no effect" for flag in idle)]
        settings, told = settings_of(given, os.environ, warnings=warnings)
        if settings.log_location is None and not logs:
            told += (f"no log files are written: none can be in {Path(config.LOGS).absolute()} (variable LOG_LOCATION)",)
        for warning in told:
            print(f"warning: {warning}", file=sys.stderr)
        for address in open_to_others(settings):
            print(
                f"warning: {address} can be reached from other machines, and nobody there is asked for a token", file=sys.stderr
            )
        if settings.model_store is None:
            raise InvalidRequestError("Missing mandatory parameter --model-store")

        def serve(ready_file: Path | None) -> None:
            from flowyard.platform.server import run
            from flowyard.platform.telemetry.logs import configure_logs

            logs = configure_logs(settings.log_level, settings.log_format)
            try:
                run(settings, logs, ready_file, lambda: print("Model server started.", flush=True), kept)
            finally:
                logs.close()

        return serve

    def start(self, serve: Callable[[Path | None], None], *, foreground: bool, ready_file: Path | None) -> int:
        """Starts the server, unless it runs."""
        if self._running() is not None:
            print(f"{self._title} is already running, please use {self._dialect} --stop to stop {self._title}.")
            return 1
        if not foreground:
            command = [sys.executable, "-m", "flowyard.platform.cli.main", *sys.argv[1:], "--foreground"]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            self._write_pid(child.pid)
            return 0
        self._write_pid(os.getpid())
        try:
            serve(ready_file)
        finally:
            self._pid_file.unlink(missing_ok=True)
        return 0

    def stop(self) -> int:
        """Stops the server, and waits until it has ended."""
        if not self._pid_file.exists():
            print(f"{self._title} is not currently running.")
            return 0
        pid = self._running()
        if pid is None:
            self._pid_file.unlink(missing_ok=True)
            print(f"{self._title} already stopped.")
            return 0
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + STOP_LIMIT_S
        while _is_alive(pid):
            if time.monotonic() > until:
                raise InvalidRequestError(f"process {pid} has not stopped within {STOP_LIMIT_S:g} s")
            time.sleep(_LOOK_S)
        self._pid_file.unlink(missing_ok=True)
        print(f"{self._title} has stopped.")
        return 0

    def _running(self) -> int | None:
        """The process that the file names, where it is one of ours that is alive and not this one."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if pid != os.getpid() and _is_alive(pid) and _is_ours(pid) else None

    def _write_pid(self, pid: int) -> None:
        try:
            self._pid_file.parent.mkdir(parents=True, exist_ok=True)
            self._pid_file.write_text(str(pid))
        except OSError as error:
            raise InvalidRequestError(f"{self._pid_file} cannot be written: {error.strerror}") from None


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _is_ours(pid: int) -> bool:
    """Whether a process is such a server: numbers are given again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"flowyard" in command
