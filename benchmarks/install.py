"""Installs the peers, each into an environment of its own: `python -m benchmarks.install [NAME ...]`.

One that cannot be installed is reported, and the comparison does without it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from benchmarks.peer_servers import peers
from benchmarks.servers import Server

LIMIT_S = 1200


def main() -> None:
    """Installs those that are not there."""
    wanted = sys.argv[1:]
    for peer in peers():
        if (not wanted or peer.name in wanted) and peer.missing():
            print(f"{peer.name}: {_install(peer)}", flush=True)


def _install(peer: Server) -> str:
    venv, python = peer.venv, str(peer.venv / "bin" / "python")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requirements]
        subprocess.run(pip, check=True, timeout=LIMIT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        # Half an environment would be taken for a whole one.
        shutil.rmtree(venv, ignore_errors=True)
        return f"not installed: {type(error).__name__}"
    return peer.missing() or "installed"


if __name__ == "__main__":
    main()
