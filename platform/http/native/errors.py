"""The error tree as the native API tells it: status, `type` (DJL's names, §2.8) and body."""

from __future__ import annotations

import msgspec

from flowyard.platform.settings import Settings
from flowyard.schemas import errors

#: Class -> status and wire type. A class that is not listed takes its nearest base's row.
TABLE: dict[type[errors.FlowyardError], tuple[int, str]] = {
    errors.FlowyardError: (500, "InternalServerException"),
    errors.UserError: (400, "BadRequestException"),
    errors.InvalidInputError: (400, "TranslateException"),
    errors.InvalidArchiveError: (400, "InvalidArchiveException"),
    errors.InvalidWorkflowError: (400, "InvalidWorkflowException"),
    errors.InvalidModelError: (400, "MalformedModelException"),
    errors.UnauthorizedError: (401, "UnauthorizedException"),
    errors.ForbiddenError: (403, "ForbiddenException"),
    errors.NotFoundError: (404, "ResourceNotFoundException"),
    errors.ModelNotFoundError: (404, "ModelNotFoundException"),
    errors.AdapterNotFoundError: (404, "BadRequestException"),
    errors.AdapterConflictError: (409, "IllegalArgumentException"),
    errors.ConflictError: (409, "BadRequestException"),
    errors.MethodNotAllowedError: (405, "MethodNotAllowedException"),
    errors.NotAcceptableError: (406, "BadRequestException"),
    errors.TooLargeError: (413, "BadRequestException"),
    errors.NodeError: (424, "TranslateException"),
    errors.HandlerError: (500, "InternalServerException"),
    errors.UnavailableError: (503, "ServiceUnavailableException"),
    errors.QueueFullError: (503, "WlmCapacityException"),
    errors.MemoryFullError: (503, "WlmCapacityException"),
    errors.WorkerDiedError: (503, "WlmException"),
    errors.ShutDownError: (503, "WlmShutdownException"),
    errors.NotReadyError: (503, "WlmException"),
    errors.DeadlineError: (504, "DeadlineExceededException"),
    errors.OutOfMemoryError: (507, "WlmOutOfMemoryException"),
    errors.EngineOutOfMemoryError: (507, "EngineException"),
    errors.StorageError: (507, "InsufficientStorageException"),
    errors.InternalError: (500, "InternalServerException"),
}

NO_ROUTE = "Requested resource is not found, please refer to API document."
NO_METHOD = "Requested method is not allowed, please refer to API document."


class StatusCodes(msgspec.Struct, frozen=True):
    """Statuses of failed predictions that the operator may choose (DJL §4.2); the management API has none of its own.

    Attributes:
        bad_request: Instead of 400.
        wlm: Instead of 503.
        throttle: Instead of 503 where a queue, or the memory for requests, is full.
        server_error: Instead of 500.
    """

    bad_request: int = 400
    wlm: int = 503
    throttle: int = 503
    server_error: int = 500

    @classmethod
    def of(cls, settings: Settings) -> StatusCodes:
        """From the settings."""
        return cls(
            settings.bad_request_http_code,
            settings.wlm_error_http_code,
            settings.throttle_error_http_code,
            settings.server_error_http_code,
        )

    def choose(self, error: errors.FlowyardError, status: int) -> int:
        """The status of an error that usually has this one."""
        if isinstance(error, (errors.QueueFullError, errors.MemoryFullError)):
            return self.throttle
        return {400: self.bad_request, 503: self.wlm, 500: self.server_error}.get(status, status)


DEFAULT_CODES = StatusCodes()


class ErrorBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of every error.

    Attributes:
        code: The HTTP status.
        type: What kind of error it is.
        message: What went wrong, where, and what to do about it.
        detail: What a handler of TorchServe or MMS raised, where the message is only what these servers say.
        problems: For a refused workflow file: everything that is wrong with it.
    """

    code: int
    type: str
    message: str
    detail: str = ""
    problems: tuple[errors.Problem, ...] = ()


def error_body(error: errors.FlowyardError, codes: StatusCodes = DEFAULT_CODES) -> ErrorBody:
    """The body that tells an error, with the statuses that the operator chose."""
    status, kind = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    if isinstance(error, errors.HandlerError):
        return ErrorBody(code=error.status, type=kind, message=error.message, detail=_detail(error))
    status = codes.choose(error, status)
    problems = error.problems if isinstance(error, errors.InvalidWorkflowError) else ()
    return ErrorBody(code=status, type=kind, message=error.message, problems=problems)


def _detail(error: errors.HandlerError) -> str:
    return f'node "{error.node}": {error.detail}' if error.detail else ""


def to_json(body: object) -> bytes:
    """Encodes a management answer as DJL does (§1.1): two spaces of indent and a final newline."""
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
