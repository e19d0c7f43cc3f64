"""The error tree as TorchServe tells it: status, `type` (the name of a Java class) and message (TorchServe reference §1.1)."""

from __future__ import annotations

import msgspec

from flowyard.platform.http.torchserve.answers import Answer, json_answer
from flowyard.schemas import errors

NO_ROUTE = "Requested resource is not found, please refer to API document."
NO_METHOD = "Requested method is not allowed, please refer to API document."
RETRY = [(b"retry-after", b"1")]


class VersionNotFoundError(errors.ModelNotFoundError):
    """The model is there, and this version of it is not."""


class WorkflowNotFoundError(errors.NotFoundError):
    """No such workflow, or a URL that leads to none."""


class DefaultVersionError(errors.UserError):
    """The default version cannot go while others are there."""


class InstallationError(errors.UserError):
    """What an archive wants installed could not be installed."""


class NegativeWorkersError(errors.UserError):
    """Fewer workers than none are asked for. TorchServe's own tests want the 500 that it answers."""


class InvalidKeyError(errors.UserError):
    """No token, or the wrong one."""


class ModelApiOffError(errors.ForbiddenError):
    """Models may not be registered and unregistered through the API; over HTTP that is a 405."""


class DownloadError(errors.UserError):
    """A remote archive could not be fetched; `cause` says why."""


class FileExistsAlreadyError(errors.FlowyardError):
    """A remote archive is called like something that is in the model store already."""


class WorkflowFileExistsError(FileExistsAlreadyError):
    """The same of a workflow, of which the original passes on what Java says."""


class InvalidDagError(errors.UserError):
    """The graph of a workflow is none that can be run."""


class NodeFailedError(errors.FlowyardError):
    """A node of a workflow failed.

    Attributes:
        detail: How.
    """

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.detail = detail


class StartFailedError(errors.FlowyardError):
    """The workers of a model could not be started.

    Attributes:
        detail: What the model said.
    """

    def __init__(self, message: str, cause: BaseException | None) -> None:
        super().__init__(message)
        self.detail = str(cause) if cause is not None else ""


class WorkflowStartError(StartFailedError):
    """The workers of a workflow's node could not be started."""


class StartOutOfMemoryError(StartFailedError):
    """They could not be started for want of memory."""


#: Class -> status and wire type. A class that is not listed takes its nearest base's row.
TABLE: dict[type[errors.FlowyardError], tuple[int, str]] = {
    errors.FlowyardError: (500, "InternalServerException"),
    errors.UserError: (400, "BadRequestException"),
    errors.InvalidArchiveError: (400, "InvalidModelException"),
    errors.InvalidModelError: (400, "InvalidModelException"),
    errors.InvalidWorkflowError: (400, "InvalidWorkflowException"),
    errors.ForbiddenError: (403, "IllegalArgumentException"),
    errors.NotFoundError: (404, "ResourceNotFoundException"),
    errors.ModelNotFoundError: (404, "ModelNotFoundException"),
    errors.MethodNotAllowedError: (405, "MethodNotAllowedException"),
    errors.NotAcceptableError: (406, "BadRequestException"),
    errors.ConflictError: (409, "ConflictStatusException"),
    errors.TooLargeError: (413, "BadRequestException"),
    errors.NodeError: (503, "InternalServerException"),
    errors.UnavailableError: (503, "ServiceUnavailableException"),
    errors.WorkerDiedError: (500, "InternalServerException"),
    errors.DeadlineError: (408, "RequestTimeoutException"),
    errors.OutOfMemoryError: (507, "InternalServerException"),
    errors.StorageError: (507, "InternalServerException"),
    errors.InternalError: (500, "InternalServerException"),
    VersionNotFoundError: (404, "ModelVersionNotFoundException"),
    WorkflowNotFoundError: (404, "WorkflowNotFoundException"),
    DefaultVersionError: (403, "InvalidModelVersionException"),
    NegativeWorkersError: (500, "IndexOutOfBoundsException"),
    InstallationError: (400, "ModelException"),
    InvalidKeyError: (400, "InvalidKeyException"),
    ModelApiOffError: (403, "ModelException"),
    DownloadError: (400, "DownloadArchiveException"),
    InvalidDagError: (400, "InvalidDAGException"),
    NodeFailedError: (500, "InternalServerException"),
    FileExistsAlreadyError: (500, "InternalServerException"),
    WorkflowFileExistsError: (500, "FileAlreadyExistsException"),
    StartFailedError: (500, "InternalServerException"),
    WorkflowStartError: (500, "WorkflowException"),
    StartOutOfMemoryError: (507, "InternalServerException"),
}


class ErrorBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of an error.

    Attributes:
        code: The HTTP status.
        type: What kind of error it is.
        message: What the original says.
        detail: What is behind it; only from 500 up, where clients compare no further.
    """

    code: int
    type: str
    message: str
    detail: str = ""


def error_answer(error: errors.FlowyardError, table: dict[type[errors.FlowyardError], tuple[int, str]] = TABLE) -> Answer:
    """Tells an error.

    Args:
        error: The error. One that a handler answered with a status of its own keeps it.
        table: The dialect's table.
    """
    body = error_body(error, table)
    if body.code == 413:
        return Answer(413)
    answer = json_answer(body, body.code)
    # The originals know no such limit, and have no header with their 503.
    return msgspec.structs.replace(answer, headers=RETRY) if isinstance(error, errors.MemoryFullError) else answer


def error_body(error: errors.FlowyardError, table: dict[type[errors.FlowyardError], tuple[int, str]] = TABLE) -> ErrorBody:
    """What an error is told as; arguments as for `error_answer`."""
    status, kind = next(table[cls] for cls in type(error).__mro__ if cls in table)
    status = getattr(error, "status", status)
    detail = getattr(error, "detail", "") if status >= 500 else ""
    return ErrorBody(code=status, type=kind, message=error.message, detail=detail)
