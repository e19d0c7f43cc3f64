"""How a command fails: what it says, and with which exit status."""

from __future__ import annotations

from flowyard.schemas.errors import FlowyardError

#: The server said no, or what was given is wrong in itself.
REFUSED = 1
#: The command was called wrongly; nothing has been sent.
USAGE = 2
#: No complete answer came: nobody there, a broken connection, silence, something that is no flowyard.
NO_ANSWER = 3
#: `apply --dry-run` has something to do.
DIFFERENT = 4
INTERRUPTED = 130
#: Whoever read the output has left, as a shell tells a death by SIGPIPE.
NO_READER = 141


class CommandError(FlowyardError):
    """A command failed.

    Attributes:
        status: Its exit status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def usage_error(message: str) -> CommandError:
    """The command was called wrongly."""
    return CommandError(message, USAGE)
