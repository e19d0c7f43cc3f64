"""`python -m flowyard.platform.bench`: the load generator without the rest of the command line."""

from __future__ import annotations

import sys

from cyclopts import App

from flowyard.platform.cli.bench import bench
from flowyard.schemas.errors import FlowyardError


def main() -> int:
    """Runs the load generator; a mistake of the user is a message and exit status 1."""
    app = App(name="flowyard bench", default_command=bench)
    try:
        status = app(result_action="return_value")
    except FlowyardError as error:
        print(f"flowyard: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 1
    except KeyboardInterrupt:
        return 130
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
