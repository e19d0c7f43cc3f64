"""The error tree as TorchServe's gRPC services tell it: a code and two lines, the second a Java class (reference §2.6)."""

from __future__ import annotations

from typing import NamedTuple

from grpc import StatusCode

from flowyard.platform.http.torchserve.errors import InvalidKeyError, error_body
from flowyard.schemas.errors import DeadlineError, FlowyardError, InvalidRequestError, ModelNotFoundError, UnavailableError

#: HTTP status -> code, where it is not the one of its class.
CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.ABORTED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    416: StatusCode.OUT_OF_RANGE,
    429: StatusCode.RESOURCE_EXHAUSTED,
    499: StatusCode.CANCELLED,
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
#: Where the originals' classes are, by their simple names; all others are with HTTP.
_HTTP = "org.pytorch.serve.http"
_PACKAGES = {
    "DownloadArchiveException": "org.pytorch.serve.archive",
    "InvalidModelException": "org.pytorch.serve.archive.model",
    "ModelException": "org.pytorch.serve.archive.model",
    "ModelNotFoundException": "org.pytorch.serve.archive.model",
    "ModelVersionNotFoundException": "org.pytorch.serve.archive.model",
}
#: The text of a status travels in a header of at most 8 KiB, where a byte may take three.
MAX_TEXT_BYTES = 2_000
#: Characters of a message: what comes after it is to fit, too.
MAX_MESSAGE = 1_000


class NameMissingError(InvalidRequestError):
    """A prediction names no model."""


class Failure(NamedTuple):
    """What a call ends with.

    Attributes:
        status: The HTTP status of the same error.
        code: Its code here.
        message: What the original says.
        reason: What kind of error it is.
        detail: What is behind it, where that is told.
    """

    status: int
    code: StatusCode
    message: str
    reason: str = ""
    detail: str = ""

    @property
    def details(self) -> str:
        """The text of the status."""
        lines = "\n".join(line for line in (self.message[:MAX_MESSAGE], self.reason, self.detail) if line)
        return lines.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def code_of(status: int) -> StatusCode:
    """The code of an HTTP status."""
    if status in CODES:
        return CODES[status]
    if 200 <= status < 300:
        return StatusCode.OK
    if 400 <= status < 500:
        return StatusCode.FAILED_PRECONDITION
    return StatusCode.INTERNAL if 500 <= status < 600 else StatusCode.UNKNOWN


def failure_of(error: FlowyardError) -> Failure:
    """Tells an error."""
    body = error_body(error)
    if isinstance(error, InvalidKeyError):
        return Failure(body.code, StatusCode.PERMISSION_DENIED, body.message)
    code = StatusCode.DEADLINE_EXCEEDED if isinstance(error, DeadlineError) else code_of(body.code)
    reason = f"{_PACKAGES.get(body.type, _HTTP)}.{body.type}"
    return Failure(body.code, code, body.message, reason, body.detail)


def prediction_failure_of(error: FlowyardError) -> Failure:
    """Tells an error of a prediction: no such model, and no free worker, are `INTERNAL` as in the original."""
    failure = failure_of(error)
    if isinstance(error, NameMissingError):
        return failure._replace(code=StatusCode.INTERNAL, reason="BadRequestException.()")
    if type(error) is UnavailableError:
        return failure._replace(code=StatusCode.INTERNAL, reason="InternalServerException.()")
    return failure._replace(code=StatusCode.INTERNAL) if isinstance(error, ModelNotFoundError) else failure
