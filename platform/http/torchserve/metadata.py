"""What a model says of itself: `GET /models/{name}?customized=true` (TorchServe reference §1.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from flowyard.platform.http.native.predictions import request_id_of
from flowyard.platform.http.torchserve.entries import Model
from flowyard.platform.http.torchserve.inputs import BODY, HandlerRequest
from flowyard.platform.workers.process import Outcome
from flowyard.platform.workers.tasks import Task
from flowyard.schemas.errors import FlowyardError, NotReadyError, QueueFullError, ShutDownError, UnavailableError

TOLD = {"describe": "True"}


async def ask_model(model: Model) -> tuple[int, Any]:
    """Asks a model what it says of itself. The question travels alone, never in a batch with predictions.

    Args:
        model: The model.

    Returns:
        The status that the handler wants, and its answer where that is an object; else an empty one.

    Raises:
        UnavailableError: No worker can be asked now.
        FlowyardError: The handler failed.
    """
    pool = model.pool
    if pool is None or model.entry.deployment is None:
        raise _no_worker(model)
    if pool.spec.handlers not in ("torchserve", "mms"):
        return 200, {}
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def on_done(outcome: Outcome) -> None:
        if not answered.done():
            answered.set_result(outcome)

    request_id = request_id_of({})
    question = HandlerRequest({}, (), b"", request_id, [(BODY, b"", "")], TOLD)
    task = Task((question,), on_done, callee=model.function, request_id=request_id)
    task.alone = True
    job = pool.submit(task)
    try:
        outcome = await answered
    except asyncio.CancelledError:
        pool.cancel(job)
        raise
    if isinstance(outcome, (ShutDownError, NotReadyError, QueueFullError)):
        raise _no_worker(model)
    if isinstance(outcome, FlowyardError):
        raise outcome
    message = outcome.message()
    return (message.code, _object_of(message.data)) if message is not None else (200, {})


def _no_worker(model: Model) -> UnavailableError:
    return UnavailableError(
        f'Model "{model.name}" has no worker to serve describe request. Please use scale workers API to add workers.'
    )


def _object_of(body: bytes) -> Any:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
