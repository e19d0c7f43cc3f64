"""`flowyard tokens`: makes, lists, replaces and removes the tokens of a server, running or not."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flowyard.platform.access.keyring import POLL_S, TokenFile
from flowyard.platform.access.tokens import Token, Tokens, now_utc, parse_lifetime

app = App(name="tokens", help="Make, list, rotate and revoke the tokens of a server; it need not be restarted.")

StateDir = Annotated[Path | None, Parameter(name="--state-dir")]
Config = Annotated[Path | None, Parameter(name=["--config", "--config-file", "-f"])]
_HEADINGS = ("ID", "NAME", "SCOPES", "CREATED", "EXPIRES", "")


@app.command
def create(
    *,
    scope: Annotated[list[str], Parameter(consume_multiple=False, negative="")],
    name: str = "",
    expires: str | None = None,
    state_dir: StateDir = None,
    config: Config = None,
) -> int:
    """Make a token and print it; it cannot be shown again.

    Parameters
    ----------
    scope
        inference, management or metrics; several separated by commas, or given several times.
    name
        What to call it; by default its first scope and its id.
    expires
        How long it is valid: 15m, 12h, 30d. For ever by default.
    state_dir
        State directory of the server; ~/.local/state/flowyard by default.
    config
        File with the settings of the server, for its state directory.
    """
    lifetime = None if expires is None else parse_lifetime(expires, "--expires")
    scopes = [one for given in scope for one in given.split(",")]
    folder = _state_dir(state_dir, config)

    def make(tokens: Tokens) -> tuple[Tokens, tuple[Token, str]]:
        after, made, text = tokens.create(scopes, now_utc(), name=name, lifetime=lifetime)
        return after, (made, text)

    _show(*TokenFile(folder).change(make), folder)
    return 0


@app.command(name="list")
def list_tokens(*, state_dir: StateDir = None, config: Config = None) -> int:
    """List the tokens: what they are called and good for, not what they are.

    Parameters
    ----------
    state_dir
        State directory of the server; ~/.local/state/flowyard by default.
    config
        File with the settings of the server, for its state directory.
    """
    tokens = TokenFile(_state_dir(state_dir, config)).read()
    if tokens is None or not tokens.tokens:
        print("there are no tokens" + ("" if tokens is None else "; requests are refused until there is one"))
        return 0
    rows = [_HEADINGS, *(_row(token) for token in tokens.tokens)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


@app.command
def revoke(which: str, *, state_dir: StateDir = None, config: Config = None) -> int:
    """Remove a token; requests with it are refused from now on.

    Parameters
    ----------
    which
        Its id, or the name of one or several.
    state_dir
        State directory of the server; ~/.local/state/flowyard by default.
    config
        File with the settings of the server, for its state directory.
    """
    folder = _state_dir(state_dir, config)
    gone = TokenFile(folder).change(lambda tokens: tokens.revoke(which))
    _wait_for_server(folder)
    for token in gone:
        print(f"revoked {token.id} ({token.name})")
    return 0


@app.command
def rotate(
    which: str, *, grace: str = "1d", expires: str | None = None, state_dir: StateDir = None, config: Config = None
) -> int:
    """Make a token in place of another one, which stays valid for a while.

    Parameters
    ----------
    which
        Id or name of the old one.
    grace
        How long the old one stays valid: 15m, 12h, 30d.
    expires
        How long the new one is valid; as long as the old one was by default.
    state_dir
        State directory of the server; ~/.local/state/flowyard by default.
    config
        File with the settings of the server, for its state directory.
    """
    stays = parse_lifetime(grace, "--grace")
    lifetime = None if expires is None else parse_lifetime(expires, "--expires")
    folder = _state_dir(state_dir, config)

    def replace(tokens: Tokens) -> tuple[Tokens, tuple[Token, str]]:
        after, made, text = tokens.rotate(which, now_utc(), grace=stays, lifetime=lifetime)
        return after, (made, text)

    _show(*TokenFile(folder).change(replace), folder)
    return 0


def _state_dir(state_dir: Path | None, config: Path | None) -> Path:
    from flowyard.platform.settings import load_settings

    settings, _ = load_settings(config, os.environ, {"state_dir": state_dir})
    return Path(settings.state_dir).absolute()


def _show(token: Token, text: str, folder: Path) -> None:
    """Prints the token alone on the standard output, so that a script can take it from there."""
    _wait_for_server(folder)
    print(text)
    until = f" until {token.expires:%Y-%m-%d %H:%M} UTC" if token.expires else ""
    print(f"token {token.id} ({token.name}) is good for {', '.join(token.scopes)}{until}; it is not shown again", file=sys.stderr)


def _wait_for_server(folder: Path) -> None:
    """Waits until a server that runs has looked at the tokens, so that what is said is true when it is said."""
    # The lock names the process; to try it would keep a server that starts just now from having it.
    try:
        os.kill(int((folder / "lock").read_text()), 0)
    except PermissionError:
        pass
    except (OSError, ValueError):
        return
    time.sleep(2 * POLL_S)


def _row(token: Token) -> tuple[str, ...]:
    note = f"replaced by {token.replaced_by}" if token.replaced_by else ""
    if token.is_expired(now_utc()):
        note = "expired"
    expires = f"{token.expires:%Y-%m-%d %H:%M}" if token.expires else "never"
    return token.id, token.name, ",".join(token.scopes), f"{token.created:%Y-%m-%d %H:%M}", expires, note
