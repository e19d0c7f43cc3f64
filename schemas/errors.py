"""The one error tree.

    FlowyardError
    ├── UserError                    the caller's mistake: a 4xx, the message says where and what to do
    │   ├── InvalidRequestError      a parameter, header or body that cannot be read
    │   ├── InvalidInputError        an input that does not fit the model it was sent to
    │   ├── InvalidArchiveError      an archive that is broken or refused
    │   ├── InvalidWorkflowError     a workflow file with problems (all of them are listed)
    │   ├── InvalidModelError        a model that its engine cannot load
    │   ├── UnauthorizedError        no token, or one that is not valid
    │   ├── ForbiddenError           asked for something that the settings or the token do not allow
    │   ├── NotFoundError            no such route
    │   │   ├── ModelNotFoundError   no such model, workflow or version, or a URL that leads to none
    │   │   └── AdapterNotFoundError no such adapter, or no such model to have one
    │   ├── ConflictError            it cannot be now, because of what is there
    │   │   └── AlreadyRegisteredError   the name and version are taken
    │   │   └── AdapterConflictError the model has an adapter of that name, or cannot have one from there
    │   ├── MethodNotAllowedError
    │   ├── NotAcceptableError       the result cannot be told in a content type that the caller accepts
    │   └── TooLargeError            over a size limit
    ├── NodeError                    code of the user's (handler, function, model) raised
    │   ├── AnsweredError            a handler answered with an error of its own
    │   └── HandlerError             a handler of TorchServe or MMS failed, told with the status that these tell it with
    ├── UnavailableError             cannot be done now; another try may work
    │   ├── QueueFullError
    │   ├── MemoryFullError          requests take as much of the server's memory as they may
    │   ├── ResultsFullError         as many results wait to be fetched as may
    │   ├── WorkerDiedError
    │   ├── ShutDownError            the model has been scaled to zero or is going away
    │   └── NotReadyError            still starting, or failed to start
    ├── DeadlineError                not done in time
    ├── OutOfMemoryError
    │   └── EngineOutOfMemoryError   a model that does not fit while it is loaded
    ├── StorageError                 the disk is full, over a quota, or failing
    └── InternalError                a defect of ours

Each dialect maps this tree to status and body once. `code` is a stable slug: it travels between processes.
"""

from __future__ import annotations

import errno
from typing import ClassVar

import msgspec

from flowyard.schemas.messages import Message


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with a workflow file or an archive.

    Attributes:
        message: What is wrong, naming the node, model, key or file at fault.
        file: Path inside the archive, or as the caller gave it.
        line: 1-based line, 0 when the whole file is meant.
        column: 1-based column, 0 when the whole line is meant.
        name: The name at fault.
        nearest: The valid name that is nearest to it, empty when nothing is near.
        fix: What to do about it.
        severity: `error` refuses a registration, `warning` does not.
    """

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    name: str = ""
    nearest: str = ""
    fix: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        """Renders as a compiler does: `file:line:column: severity: message (fix)`."""
        place = ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)]) if self.file else ""
        prefix = f"{place}: " if place else ""
        suffix = f" ({self.fix})" if self.fix else ""
        return f"{prefix}{self.severity}: {self.message}{suffix}"


class FlowyardError(Exception):
    """Base of every error that flowyard raises on purpose.

    Attributes:
        starting: Name and version of what was being started when it came up, `None` for any other moment.
        fetching: Whether something remote was being fetched then.
        remote_status: What the remote server answered then, 0 for nothing.
        installing: The model whose requirements were being installed then, empty for none.
        fused_node: Which node of a call of fused nodes it failed, -1 where it is not known or nothing was fused.
    """

    code: ClassVar[str] = "error"
    #: Whether the same request may succeed when tried again.
    retryable: ClassVar[bool] = False

    starting: tuple[str, str] | None = None
    fetching: bool = False
    remote_status: int = 0
    installing: str = ""
    fused_node: int = -1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UserError(FlowyardError):
    """The caller's mistake."""

    code = "user_error"


class InvalidRequestError(UserError):
    """A parameter, header or body that cannot be read."""

    code = "invalid_request"


class InvalidInputError(UserError):
    """An input that does not fit the model it was sent to."""

    code = "invalid_input"


class InvalidArchiveError(UserError):
    """An archive that is broken or refused."""

    code = "invalid_archive"


class InvalidWorkflowError(UserError):
    """A workflow file with problems.

    Attributes:
        problems: Every problem found, errors and warnings.
    """

    code = "invalid_workflow"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        errors = [problem for problem in problems if problem.severity == "error"]
        super().__init__("\n".join(str(problem) for problem in errors or problems))
        self.problems = problems


class InvalidModelError(UserError):
    """A model that its engine cannot load."""

    code = "invalid_model"


class UnauthorizedError(UserError):
    """A request without a token, or with one that is not valid."""

    code = "unauthorized"


class ForbiddenError(UserError):
    """Something that the settings do not allow, or the token; the message names the setting or the scope."""

    code = "forbidden"


class NotFoundError(UserError):
    """No such model, workflow, version or route."""

    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No such model, workflow or version, or a URL that leads to none."""

    code = "model_not_found"


class AdapterNotFoundError(NotFoundError):
    """No such adapter, or no such model to have one."""

    code = "adapter_not_found"


class ConflictError(UserError):
    """It cannot be now, because of what is there."""

    code = "conflict"


class AlreadyRegisteredError(ConflictError):
    """The name and version are taken.

    Attributes:
        name: The name.
        version: The version, empty for none.
    """

    code = "already_registered"

    def __init__(self, message: str, name: str = "", version: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.version = version


class AdapterConflictError(ConflictError):
    """The model has an adapter of that name, or cannot have one from there."""

    code = "adapter_conflict"


class MethodNotAllowedError(UserError):
    """The route exists, the method does not."""

    code = "method_not_allowed"


class NotAcceptableError(UserError):
    """The result cannot be told in a content type that the caller accepts."""

    code = "not_acceptable"


class TooLargeError(UserError):
    """Over a size limit."""

    code = "too_large"


class NodeError(FlowyardError):
    """Code of the user's (a handler, function or model) raised.

    Attributes:
        node: Name of the workflow node that failed, empty until the run knows it.
    """

    code = "node_error"

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class AnsweredError(NodeError):
    """A handler of the user's has answered that it failed, in words of its own.

    Attributes:
        answer: What it said, which is the answer where nothing catches the error.
    """

    code = "answered"

    def __init__(self, message: str, node: str = "", answer: Message | None = None) -> None:
        super().__init__(message, node)
        self.answer = answer


class HandlerError(NodeError):
    """A handler of TorchServe or Multi Model Server has failed.

    Attributes:
        status: The HTTP status that these servers tell it with, or that the handler named.
        detail: What went wrong, where the message is only what these servers say of it.
    """

    code = "handler_error"

    def __init__(self, message: str, node: str = "", status: int = 500, detail: str = "") -> None:
        super().__init__(message, node)
        self.status = status
        self.detail = detail


class UnavailableError(FlowyardError):
    """Cannot be done now; another try may work."""

    code = "unavailable"
    retryable = True


class QueueFullError(UnavailableError):
    """The model's queue holds `job_queue_size` requests."""

    code = "queue_full"


class MemoryFullError(UnavailableError):
    """Requests that are not answered yet take `max_held_size_bytes` of the server's memory."""

    code = "memory_full"


class ResultsFullError(UnavailableError):
    """As many results of asynchronous requests wait to be fetched as may."""

    code = "results_full"


class WorkerDiedError(UnavailableError):
    """The worker that computed this request ended.

    Attributes:
        detail: How, where the message does not say so.
    """

    code = "worker_died"

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class ShutDownError(UnavailableError):
    """The model has no workers by request: scaled to zero or going away."""

    code = "shut_down"
    retryable = False


class NotReadyError(UnavailableError):
    """The model is still starting, or its workers cannot start."""

    code = "not_ready"


class DeadlineError(FlowyardError):
    """Not done in time.

    Attributes:
        node: Name of the workflow node whose own time was over, empty where it was that of the whole request.
    """

    code = "deadline"
    retryable = True

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class OutOfMemoryError(FlowyardError):
    """A device or the host ran out of memory for this request or model."""

    code = "out_of_memory"


class EngineOutOfMemoryError(OutOfMemoryError):
    """There is no memory to load a model."""

    code = "engine_out_of_memory"


class StorageError(FlowyardError):
    """The disk is full, over a quota, or failing: what was asked for was not done, and nothing of it is left."""

    code = "storage"
    retryable = True


#: Of a file system that takes no more: full, over a quota, over a limit of the process, failing.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def storage_error(error: OSError) -> StorageError | None:
    """What a failure to write means, `None` where it is not about space."""
    if error.errno not in _NO_SPACE:
        return None
    return StorageError(f"the server cannot keep it, nothing was registered: {error.strerror}; free space and try again")


class InternalError(FlowyardError):
    """A defect of ours; the log has the details."""

    code = "internal"


def _subclasses(cls: type[FlowyardError]) -> list[type[FlowyardError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]


#: Every error class by its slug.
BY_CODE: dict[str, type[FlowyardError]] = {cls.code: cls for cls in _subclasses(FlowyardError)}


def from_code(code: str, message: str) -> FlowyardError:
    """Rebuilds an error that another process reported.

    Args:
        code: The slug of the class; an unknown one becomes `InternalError`.
        message: The message for the caller.

    Returns:
        The error, ready to raise. An `InvalidWorkflowError` carries the message as its single problem.
    """
    cls = BY_CODE.get(code, InternalError)
    if cls is InvalidWorkflowError:
        return InvalidWorkflowError((Problem(message=message),))
    return cls(message)
