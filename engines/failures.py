"""What a failure inside an engine or in user code is called outside."""

from __future__ import annotations

import re
import sys
import traceback

from flowyard.schemas.errors import FlowyardError, NodeError, OutOfMemoryError, UserError

#: What PyTorch and ONNX Runtime say when an allocation fails; on the CPU it is a plain RuntimeError in both.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|can't allocate memory|bad_alloc|bad allocation"
    r"|available memory of \d+ is smaller",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the host or a device has no memory left."""
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def describe(error: BaseException) -> str:
    """An exception as `TypeName: message`."""
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def of_user_code(error: BaseException) -> FlowyardError:
    """Maps what user code raised, and writes its traceback to the log.

    Args:
        error: The exception, `SystemExit` included.

    Returns:
        A `UserError` as it is, `OutOfMemoryError`, or `NodeError` with `TypeName: message`.
    """
    if isinstance(error, UserError):
        return error
    log(error)
    if is_out_of_memory(error):
        return OutOfMemoryError(describe(error))
    return NodeError(describe(error))


def log(error: BaseException) -> None:
    """Writes the traceback to stderr, which is a worker's log."""
    traceback.print_exception(error, file=sys.stderr)
