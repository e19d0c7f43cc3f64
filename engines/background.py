"""An event loop in a thread of its own, for models that compute many calls at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """An event loop in a thread of its own.

    Attributes:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Lets a loop run.

        Args:
            loop: One that does not run yet; `None` for a new one.
        """
        self.loop = loop or asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="handlers", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for a coroutine that runs on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """Ends the loop, if it has not ended yet."""
        if self.loop.is_closed():
            return
        self.run(_cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _cancel_others() -> None:
    """Cancels whatever else runs on the loop; what does not let go of it within a second is left as it is."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=1)


def is_cancelled() -> bool:
    """Whether nobody waits for the running task any more; a handler may also raise `CancelledError` of its own accord."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
