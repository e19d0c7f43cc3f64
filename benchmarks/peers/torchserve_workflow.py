"""Starts TorchServe and registers a workflow when it listens: `torchserve_workflow.py MANAGEMENT_PORT WAR COMMAND...`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request


def main() -> None:
    """Runs the server until it ends, or this process is asked to."""
    port, archive, *command = sys.argv[1:]
    server = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda number, frame: server.terminate())
    register = urllib.request.Request(f"http://127.0.0.1:{port}/workflows?url={archive}", method="POST")
    while server.poll() is None:
        try:
            with urllib.request.urlopen(register, timeout=120):
                break
        except urllib.error.HTTPError as error:
            print(error.read().decode(errors="replace"), flush=True)
            break
        except OSError:
            time.sleep(0.01)
    sys.exit(server.wait())


if __name__ == "__main__":
    main()
