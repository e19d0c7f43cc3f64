"""Progress bars of an upload and of a model that is being loaded: on the standard error, when that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flowyard.platform.client import Progress as Loading
from flowyard.platform.client import Sent


class Bars:
    """The bars of one registration."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
        hidden = not sys.stderr.isatty()
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def on_sent(self, sent: Sent) -> None:
        """More of an upload has been sent; after the last byte the server unpacks and loads."""
        self._show("uploading", sent.sent, sent.total, _megabytes(sent.sent, sent.total))
        if sent.sent == sent.total:
            self.waiting()

    def waiting(self) -> None:
        """The server is at work and says nothing of how far it is."""
        self._show("loading", 0, None, "")

    def on_loading(self, loading: Loading) -> None:
        """The server says how far it is."""
        if loading.fetched_bytes is not None:
            amount = _megabytes(loading.fetched_bytes, loading.total_bytes)
            self._show("fetching", loading.fetched_bytes, loading.total_bytes, amount)
        if loading.workers_wanted:
            amount = f"{loading.workers_ready} of {loading.workers_wanted} workers"
            self._show("loading", loading.workers_ready, loading.workers_wanted, amount)
        else:
            self.waiting()

    def _show(self, name: str, done: int, total: int | None, amount: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, amount=amount)
        self._bars.update(self._tasks[name], completed=done, total=total, amount=amount)


def _megabytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
