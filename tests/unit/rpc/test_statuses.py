"""How the error tree is told over gRPC."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from flowyard.platform.http.torchserve.errors import (
    TABLE,
    DefaultVersionError,
    DownloadError,
    FileExistsAlreadyError,
    InvalidKeyError,
    ModelApiOffError,
    StartFailedError,
    VersionNotFoundError,
)
from flowyard.platform.rpc.calls import client_of
from flowyard.platform.rpc.statuses import (
    MAX_TEXT_BYTES,
    NameMissingError,
    code_of,
    failure_of,
    prediction_failure_of,
)
from flowyard.schemas import errors

HTTP = "org.pytorch.serve.http"
MODEL = "org.pytorch.serve.archive.model"
CODES = [
    (200, "OK"),
    (202, "OK"),
    (400, "INVALID_ARGUMENT"),
    (401, "UNAUTHENTICATED"),
    (403, "PERMISSION_DENIED"),
    (404, "NOT_FOUND"),
    (405, "FAILED_PRECONDITION"),
    (408, "FAILED_PRECONDITION"),
    (409, "ABORTED"),
    (413, "RESOURCE_EXHAUSTED"),
    (416, "OUT_OF_RANGE"),
    (429, "RESOURCE_EXHAUSTED"),
    (499, "CANCELLED"),
    (500, "INTERNAL"),
    (501, "UNIMPLEMENTED"),
    (503, "UNAVAILABLE"),
    (504, "DEADLINE_EXCEEDED"),
    (507, "INTERNAL"),
    (302, "UNKNOWN"),
]
#: An error, its code, the first two lines; and its code where a prediction ended with it.
ERRORS = [
    (errors.InvalidRequestError("x"), "INVALID_ARGUMENT", f"x\n{HTTP}.BadRequestException", "INVALID_ARGUMENT"),
    (errors.InvalidInputError("x"), "INVALID_ARGUMENT", f"x\n{HTTP}.BadRequestException", "INVALID_ARGUMENT"),
    (errors.InvalidModelError("x"), "INVALID_ARGUMENT", f"x\n{MODEL}.InvalidModelException", "INVALID_ARGUMENT"),
    (DownloadError("x"), "INVALID_ARGUMENT", "x\norg.pytorch.serve.archive.DownloadArchiveException", "INVALID_ARGUMENT"),
    (errors.ModelNotFoundError("x"), "NOT_FOUND", f"x\n{MODEL}.ModelNotFoundException", "INTERNAL"),
    (VersionNotFoundError("x"), "NOT_FOUND", f"x\n{MODEL}.ModelVersionNotFoundException", "INTERNAL"),
    (FileExistsAlreadyError("x"), "INTERNAL", f"x\n{HTTP}.InternalServerException", "INTERNAL"),
    (errors.ConflictError("x"), "ABORTED", f"x\n{HTTP}.ConflictStatusException", "ABORTED"),
    (DefaultVersionError("x"), "PERMISSION_DENIED", f"x\n{HTTP}.InvalidModelVersionException", "PERMISSION_DENIED"),
    (ModelApiOffError("x"), "PERMISSION_DENIED", f"x\n{MODEL}.ModelException", "PERMISSION_DENIED"),
    (InvalidKeyError("x"), "PERMISSION_DENIED", "x", "PERMISSION_DENIED"),
    (errors.DeadlineError("x"), "DEADLINE_EXCEEDED", f"x\n{HTTP}.RequestTimeoutException", "DEADLINE_EXCEEDED"),
    (errors.TooLargeError("x"), "RESOURCE_EXHAUSTED", f"x\n{HTTP}.BadRequestException", "RESOURCE_EXHAUSTED"),
    (errors.ShutDownError("x"), "UNAVAILABLE", f"x\n{HTTP}.ServiceUnavailableException", "UNAVAILABLE"),
    (errors.UnavailableError("x"), "UNAVAILABLE", f"x\n{HTTP}.ServiceUnavailableException", "INTERNAL"),
    (errors.WorkerDiedError("x"), "INTERNAL", f"x\n{HTTP}.InternalServerException", "INTERNAL"),
    (errors.OutOfMemoryError("x"), "INTERNAL", f"x\n{HTTP}.InternalServerException", "INTERNAL"),
    (errors.InternalError("x"), "INTERNAL", f"x\n{HTTP}.InternalServerException", "INTERNAL"),
    (errors.HandlerError("x", status=503), "UNAVAILABLE", f"x\n{HTTP}.InternalServerException", "UNAVAILABLE"),
    (errors.HandlerError("x", status=409), "ABORTED", f"x\n{HTTP}.InternalServerException", "ABORTED"),
    (StartFailedError("x", ValueError("why")), "INTERNAL", f"x\n{HTTP}.InternalServerException\nwhy", "INTERNAL"),
]


@pytest.mark.parametrize(("status", "code"), CODES)
def test_the_code_of_a_status(status, code):
    assert code_of(status) is StatusCode[code]


@pytest.mark.parametrize(("error", "code", "details", "of_prediction"), ERRORS)
def test_how_an_error_is_told(error, code, details, of_prediction):
    failure = failure_of(error)
    assert (failure.code.name, failure.details) == (code, details)
    assert prediction_failure_of(error).code.name == of_prediction


def test_a_prediction_without_a_name_and_one_without_a_worker():
    missing = prediction_failure_of(NameMissingError("x"))
    assert (missing.status, missing.code, missing.details) == (400, StatusCode.INTERNAL, "x\nBadRequestException.()")
    idle = prediction_failure_of(errors.UnavailableError("x"))
    assert (idle.status, idle.code, idle.details) == (503, StatusCode.INTERNAL, "x\nInternalServerException.()")


def test_every_error_is_told():
    for cls in TABLE:
        error = cls.__new__(cls)
        errors.FlowyardError.__init__(error, "x")
        assert failure_of(error).code not in (StatusCode.OK, StatusCode.UNKNOWN), cls


def test_a_long_text_fits_the_header():
    failure = failure_of(StartFailedError("é" * 5_000, ValueError("ü" * 5_000)))
    assert len(failure.details.encode()) <= MAX_TEXT_BYTES
    assert failure.details.startswith("é" * 900)
    assert "InternalServerException" in failure_of(errors.InternalError("x" * 100_000)).details


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("ipv6:%5B::1%5D:9000", ("::1", 9000)),
        ("ipv6:[::1]:9000", ("::1", 9000)),
        ("unix:/run/x.sock", None),
        ("unknown", None),
    ],
)
def test_the_address_of_a_client(peer, client):
    assert client_of(peer) == client
