"""One table per dialect: every error of the tree has a status and the name of a Java class."""

from __future__ import annotations

import msgspec
import pytest

from flowyard.platform.http.mms import errors as mms
from flowyard.platform.http.torchserve import errors as torchserve
from flowyard.platform.http.torchserve.inference import workflow_result
from flowyard.schemas import errors

TORCHSERVE = [
    (errors.InvalidRequestError("m"), 400, "BadRequestException"),
    (errors.InvalidModelError("m"), 400, "InvalidModelException"),
    (errors.InvalidArchiveError("m"), 400, "InvalidModelException"),
    (torchserve.DefaultVersionError("m"), 403, "InvalidModelVersionException"),
    (torchserve.InvalidKeyError("m"), 400, "InvalidKeyException"),
    (torchserve.DownloadError("m"), 400, "DownloadArchiveException"),
    (torchserve.InvalidDagError("m"), 400, "InvalidDAGException"),
    (errors.NotFoundError("m"), 404, "ResourceNotFoundException"),
    (errors.ModelNotFoundError("m"), 404, "ModelNotFoundException"),
    (torchserve.VersionNotFoundError("m"), 404, "ModelVersionNotFoundException"),
    (torchserve.WorkflowNotFoundError("m"), 404, "WorkflowNotFoundException"),
    (errors.MethodNotAllowedError("m"), 405, "MethodNotAllowedException"),
    (errors.DeadlineError("m"), 408, "RequestTimeoutException"),
    (errors.ConflictError("m"), 409, "ConflictStatusException"),
    (errors.AlreadyRegisteredError("m", "a", "1"), 409, "ConflictStatusException"),
    (errors.NodeError("m"), 503, "InternalServerException"),
    (errors.UnavailableError("m"), 503, "ServiceUnavailableException"),
    (errors.QueueFullError("m"), 503, "ServiceUnavailableException"),
    (errors.WorkerDiedError("m"), 500, "InternalServerException"),
    (errors.OutOfMemoryError("m"), 507, "InternalServerException"),
    (errors.StorageError("m"), 507, "InternalServerException"),
    (errors.EngineOutOfMemoryError("m"), 507, "InternalServerException"),
    (errors.InternalError("m"), 500, "InternalServerException"),
    (torchserve.FileExistsAlreadyError("m"), 500, "InternalServerException"),
    (torchserve.StartFailedError("m", None), 500, "InternalServerException"),
    (torchserve.StartOutOfMemoryError("m", None), 507, "InternalServerException"),
    (torchserve.WorkflowStartError("m", None), 500, "WorkflowException"),
    (torchserve.NodeFailedError("m", "why"), 500, "InternalServerException"),
]


@pytest.mark.parametrize(("error", "status", "kind"), TORCHSERVE, ids=lambda value: type(value).__name__)
def test_torchserve_tells_an_error_as_it_always_did(error, status, kind):
    answer = torchserve.error_answer(error)
    body = msgspec.json.decode(answer.body)
    assert (answer.status, body["code"], body["type"], body["message"]) == (status, status, kind, "m")


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
@pytest.mark.parametrize("tell", [torchserve.error_answer, mms.error_answer])
def test_every_error_of_the_tree_can_be_told(code, tell):
    answer = tell(errors.from_code(code, "m"))
    assert 400 <= answer.status <= 599


def test_a_request_that_is_too_large_gets_no_body():
    answer = torchserve.error_answer(errors.TooLargeError("m"))
    assert (answer.status, answer.body, answer.content_type) == (413, b"", b"")


def test_the_reason_is_told_from_500_up_where_nobody_compares_further():
    why = torchserve.StartFailedError("Failed to start workers", ValueError("no such file"))
    assert msgspec.json.decode(torchserve.error_answer(why).body)["detail"] == "no such file"


def test_a_handler_keeps_the_status_that_it_names():
    body = torchserve.error_answer(errors.HandlerError("bad input", status=400, detail="never told below 500")).body
    assert msgspec.json.decode(body) == {"code": 400, "type": "InternalServerException", "message": "bad input"}


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (torchserve.DownloadError("m"), 400, "DownloadModelException"),
        (errors.ModelNotFoundError("m"), 404, "ModelNotFoundException"),
        (errors.ConflictError("m"), 409, "ConflictStatusException"),
        (errors.ForbiddenError("m"), 500, "IllegalArgumentException"),
    ],
)
def test_mms_differs_where_it_did(error, status, kind):
    answer = mms.error_answer(error)
    assert (answer.status, msgspec.json.decode(answer.body)["type"]) == (status, kind)


@pytest.mark.parametrize("error", [errors.NodeError("raised", "m"), errors.DeadlineError('node "m": not done in 1 s', "m")])
def test_of_a_node_that_fails_or_takes_too_long_only_the_name_is_told(error):
    with pytest.raises(torchserve.NodeFailedError) as told:
        workflow_result(error)
    assert (torchserve.error_answer(told.value).status, told.value.message) == (500, "Error executing m")
    assert told.value.detail == str(error)


def test_a_workflow_whose_client_has_no_time_left_is_told_so():
    with pytest.raises(errors.DeadlineError) as told:
        workflow_result(errors.DeadlineError("the request was not done in time"))
    assert torchserve.error_answer(told.value).status == 408
