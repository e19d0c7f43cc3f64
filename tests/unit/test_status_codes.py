"""Statuses of failed predictions that the operator chooses."""

import pytest

from flowyard.platform.http.native.errors import StatusCodes, error_body
from flowyard.platform.http.native.predictions import error_answer
from flowyard.platform.settings import Settings
from flowyard.schemas import errors

CODES = StatusCodes.of(
    Settings(bad_request_http_code=422, wlm_error_http_code=529, throttle_error_http_code=429, server_error_http_code=599)
)


@pytest.mark.parametrize(
    ("error", "usual", "chosen", "may_retry"),
    [
        (errors.InvalidInputError("x"), 400, 422, False),
        (errors.InvalidRequestError("x"), 400, 422, False),
        (errors.QueueFullError("x"), 503, 429, True),
        (errors.WorkerDiedError("x"), 503, 529, True),
        (errors.ShutDownError("x"), 503, 529, True),
        (errors.NotReadyError("x"), 503, 529, True),
        (errors.InternalError("x"), 500, 599, False),
        (errors.ModelNotFoundError("x"), 404, 404, False),
        (errors.TooLargeError("x"), 413, 413, False),
        (errors.NodeError("x"), 424, 424, False),
        (errors.DeadlineError("x"), 504, 504, False),
        (errors.OutOfMemoryError("x"), 507, 507, False),
    ],
)
def test_the_statuses_of_predictions_are_the_operators(error, usual, chosen, may_retry):
    assert error_body(error).code == usual
    status, _, body, headers = error_answer(error, CODES)
    assert status == error_body(error, CODES).code == chosen
    assert f'"code": {chosen},'.encode() in body
    assert bool(headers) is may_retry
    assert StatusCodes.of(Settings()) == StatusCodes()
