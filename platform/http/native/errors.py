"""The error tree as the native API tells it: status, `type` (DJL's names, §2.8) and body."""

from __future__ import annotations

import msgspec

from flowyard.schemas import errors

#: Class -> status and wire type. A class that is not listed takes its nearest base's row.
TABLE: dict[type[errors.FlowyardError], tuple[int, str]] = {
    errors.FlowyardError: (500, "InternalServerException"),
    errors.UserError: (400, "BadRequestException"),
    errors.InvalidInputError: (400, "TranslateException"),
    errors.InvalidArchiveError: (400, "InvalidArchiveException"),
    errors.InvalidWorkflowError: (400, "InvalidWorkflowException"),
    errors.InvalidModelError: (400, "MalformedModelException"),
    errors.ForbiddenError: (403, "ForbiddenException"),
    errors.NotFoundError: (404, "ResourceNotFoundException"),
    errors.ModelNotFoundError: (404, "ModelNotFoundException"),
    errors.ConflictError: (409, "BadRequestException"),
    errors.MethodNotAllowedError: (405, "MethodNotAllowedException"),
    errors.NotAcceptableError: (406, "BadRequestException"),
    errors.TooLargeError: (413, "BadRequestException"),
    errors.NodeError: (424, "TranslateException"),
    errors.UnavailableError: (503, "ServiceUnavailableException"),
    errors.QueueFullError: (503, "WlmCapacityException"),
    errors.WorkerDiedError: (503, "WlmException"),
    errors.ShutDownError: (503, "WlmShutdownException"),
    errors.NotReadyError: (503, "WlmException"),
    errors.DeadlineError: (504, "DeadlineExceededException"),
    errors.OutOfMemoryError: (507, "WlmOutOfMemoryException"),
    errors.EngineOutOfMemoryError: (507, "EngineException"),
    errors.InternalError: (500, "InternalServerException"),
}

NO_ROUTE = "Requested resource is not found, please refer to API document."
NO_METHOD = "Requested method is not allowed, please refer to API document."


class ErrorBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of every error.

    Attributes:
        code: The HTTP status.
        type: What kind of error it is.
        message: What went wrong, where, and what to do about it.
        problems: For a refused workflow file: everything that is wrong with it.
    """

    code: int
    type: str
    message: str
    problems: tuple[errors.Problem, ...] = ()


def error_body(error: errors.FlowyardError) -> ErrorBody:
    """The body that tells an error."""
    status, kind = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    problems = error.problems if isinstance(error, errors.InvalidWorkflowError) else ()
    return ErrorBody(code=status, type=kind, message=error.message, problems=problems)


def to_json(body: object) -> bytes:
    """Encodes a management answer as DJL does (§1.1): two spaces of indent and a final newline."""
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
