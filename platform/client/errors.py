"""What can go wrong with a call, by type.

ClientError
├── InvalidArgumentError         what the caller gave cannot be sent: a URL, a header, a file
├── NoAnswerError                no complete answer came
│   ├── UnreachableError         no connection was made; nothing has been sent
│   │   └── TlsError             the certificate or the handshake was refused
│   ├── TimedOutError            silence for longer than allowed; the server may still have done it
│   ├── InterruptedAnswerError   the connection ended before the answer did
│   └── UnexpectedAnswerError    an answer that is not one of flowyard's
├── RegistrationFailedError      what was registered asynchronously could not be started
└── RefusedError                 the server said no: status, type, message, problems, request id
    ├── InvalidRequestError      400 (also InvalidInput-, InvalidArchive-, InvalidWorkflow- and InvalidModelError)
    ├── UnauthorizedError        401
    ├── ForbiddenError           403
    ├── NotFoundError            404 (ModelNotFoundError: no such model, workflow or version)
    ├── MethodNotAllowedError    405
    ├── NotAcceptableError       406
    ├── ConflictError            409
    ├── TooLargeError            413
    ├── NodeError                424: code of the user's raised
    ├── InternalError            500
    ├── UnavailableError         503, with `retry_after_s` (QueueFullError, ShutDownError, NotReadyError)
    ├── DeadlineError            504
    ├── OutOfMemoryError         507
    └── StorageError             507, the server's disk is full
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flowyard.schemas.errors import FlowyardError, Problem

#: As much of an answer that nobody expected is shown.
_SHOWN_BYTES = 200


class ClientError(FlowyardError):
    """A call did not succeed."""


class InvalidArgumentError(ClientError):
    """What the caller gave cannot be sent; nothing has been."""


class NoAnswerError(ClientError):
    """No complete answer came."""


class UnreachableError(NoAnswerError):
    """No connection was made; nothing has been sent, so the call can be repeated."""


class TlsError(UnreachableError):
    """The certificate or the handshake was refused."""


class TimedOutError(NoAnswerError):
    """Silence for longer than allowed; the server may still have done what was asked."""


class InterruptedAnswerError(NoAnswerError):
    """The connection ended before the answer did."""


class UnexpectedAnswerError(NoAnswerError):
    """An answer that is not one of flowyard's: from a proxy, or from something else that listens there.

    Attributes:
        status: The HTTP status, 0 when it was not even HTTP.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RegistrationFailedError(ClientError):
    """What was registered asynchronously could not be started; the message has the server's reason."""


class RefusedError(ClientError):
    """The server said no.

    Attributes:
        status: The HTTP status.
        type: The kind of error as the server calls it, such as `BadRequestException`.
        problems: For a refused workflow file: everything that is wrong with it.
        request_id: Under which the server's log has the request.
        retry_after_s: When another try makes sense, `None` where the server does not say.
        body: The answer as it came.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "",  # noqa: A002 - what the wire calls it
        problems: tuple[Problem, ...] = (),
        request_id: str = "",
        retry_after_s: float | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.problems = problems
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.body = body


class InvalidRequestError(RefusedError):
    """400: a parameter, header or body that cannot be read."""


class InvalidInputError(InvalidRequestError):
    """400: an input that does not fit the model."""


class InvalidArchiveError(InvalidRequestError):
    """400: an archive that is broken or refused."""


class InvalidWorkflowError(InvalidRequestError):
    """400: a workflow file with problems; `problems` lists all of them."""


class InvalidModelError(InvalidRequestError):
    """400: a model that its engine cannot load."""


class UnauthorizedError(RefusedError):
    """401: no token, or not the right one."""


class ForbiddenError(RefusedError):
    """403: something that the settings do not allow."""


class NotFoundError(RefusedError):
    """404: no such route."""


class ModelNotFoundError(NotFoundError):
    """404: no such model, workflow or version, or a URL that leads to none."""


class MethodNotAllowedError(RefusedError):
    """405: the route exists, the method does not."""


class NotAcceptableError(RefusedError):
    """406: the result cannot be told in a content type that was asked for."""


class ConflictError(RefusedError):
    """409: the name is taken."""


class TooLargeError(RefusedError):
    """413: over a size limit."""


class NodeError(RefusedError):
    """424: code of the user's (a handler, function or model) raised."""


class InternalError(RefusedError):
    """500: a defect of the server's."""


class UnavailableError(RefusedError):
    """503: not now; another try may work."""


class QueueFullError(UnavailableError):
    """503: the model's queue is full, or the server's memory for requests."""


class ShutDownError(UnavailableError):
    """503: the model has no workers by request."""


class NotReadyError(UnavailableError):
    """503: the model is still starting, or its workers do not stay alive."""


class DeadlineError(RefusedError):
    """504: not done in time."""


class OutOfMemoryError(RefusedError):
    """507: a device or the host ran out of memory."""


class StorageError(RefusedError):
    """507: the server cannot keep it, its disk is full or failing; nothing was changed."""


#: Status and wire type -> class, where the type says more than the status does.
BY_TYPE: dict[tuple[int, str], type[RefusedError]] = {
    (400, "TranslateException"): InvalidInputError,
    (400, "InvalidArchiveException"): InvalidArchiveError,
    (400, "InvalidWorkflowException"): InvalidWorkflowError,
    (400, "MalformedModelException"): InvalidModelError,
    (404, "ModelNotFoundException"): ModelNotFoundError,
    (503, "WlmCapacityException"): QueueFullError,
    (507, "InsufficientStorageException"): StorageError,
    (503, "WlmShutdownException"): ShutDownError,
    (503, "WlmException"): NotReadyError,
}
BY_STATUS: dict[int, type[RefusedError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    405: MethodNotAllowedError,
    406: NotAcceptableError,
    409: ConflictError,
    413: TooLargeError,
    424: NodeError,
    500: InternalError,
    503: UnavailableError,
    504: DeadlineError,
    507: OutOfMemoryError,
}


class _ErrorBody(msgspec.Struct):
    code: int
    message: str
    type: str = ""
    problems: tuple[Problem, ...] = ()


_decode_error = msgspec.json.Decoder(_ErrorBody)


def error_of(status: int, headers: Mapping[str, str], body: bytes, server: str = "") -> ClientError:
    """The error that an answer tells.

    Args:
        status: Its HTTP status.
        headers: Its headers; names in lower case, or a mapping that does not mind.
        body: Its body.
        server: Who gave it.

    Returns:
        The error, ready to raise: a `RefusedError` by status and type, an `UnexpectedAnswerError` when the body is not what
        flowyard says.
    """
    try:
        told = _decode_error.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return unexpected_answer(status, headers, body, server)
    kind = BY_TYPE.get((status, told.type)) or BY_STATUS.get(status, RefusedError)
    return kind(
        told.message,
        status=status,
        type=told.type,
        problems=told.problems,
        request_id=headers.get("x-request-id", ""),
        retry_after_s=_seconds(headers.get("retry-after", "")),
        body=body,
    )


def unexpected_answer(status: int, headers: Mapping[str, str], body: bytes, server: str = "") -> UnexpectedAnswerError:
    """The error for an answer that flowyard does not give."""
    kind = headers.get("content-type", "") or "no content type"
    start = " ".join(body[:_SHOWN_BYTES].decode("utf-8", "replace").split())
    where = f" to {headers['location']}" if 300 <= status < 400 and headers.get("location") else ""
    text = f": {start}" if start else ""
    whose = f"{server} gives an answer that is not flowyard's" if server else "an answer that is not flowyard's"
    return UnexpectedAnswerError(f"{whose}: status {status}{where}, {kind}, {len(body)} bytes{text}", status)


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None
