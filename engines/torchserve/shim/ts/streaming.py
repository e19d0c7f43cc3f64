"""Where `send_intermediate_predict_response` sends to, and whether anybody has asked for it."""

from __future__ import annotations

import os
from typing import Any


class _State:
    """Of this worker.

    Attributes:
        wanted: Whether some module has taken the function.
        receiver: Takes the pieces of the batch that is being computed.
    """

    wanted: bool = False
    receiver: Any = None


def wanted() -> bool:
    """Whether a handler may send pieces: batches are computed in a thread then, so that pieces can go out meanwhile."""
    return _State.wanted


def begin(receiver: Any) -> None:
    """Another batch begins."""
    _State.receiver = receiver


def offer() -> Any:
    """The function, for a module that takes it. Of several ranks only the first sends: nobody waits for what others have."""
    if os.getenv("LOCAL_RANK", "0") != "0":
        return _drop
    _State.wanted = True
    return _send


def _drop(ret: Any, req_id_map: Any, message: str, code: int, context: Any = None) -> None:
    """Takes a piece that is not sent; parameters as for `_send`."""


def _send(ret: Any, req_id_map: Any, message: str, code: int, context: Any = None) -> None:
    """Sends one piece of the answer to every request of the batch.

    Args:
        ret: A list of pieces, one per request.
        req_id_map: The context's `request_ids`; not needed here.
        message: What to say when `code` is not 200.
        code: 200, or the status that the requests fail with.
        context: The handler's context.
    """
    del req_id_map
    receiver = getattr(context, "cl_socket", None) or _State.receiver
    if receiver is None:
        raise RuntimeError("send_intermediate_predict_response: there is no request to answer")
    receiver.send(ret, message, code)


_send.__name__ = _drop.__name__ = "send_intermediate_predict_response"
