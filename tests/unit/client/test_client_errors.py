"""Errors by type: whatever the server can say has a class of its own on this side."""

from __future__ import annotations

import msgspec
import pytest

from flowyard.platform.client import errors
from flowyard.platform.client.errors import RefusedError, UnexpectedAnswerError, error_of
from flowyard.platform.http.native.errors import TABLE, error_body
from flowyard.schemas.errors import InvalidWorkflowError, Problem

#: The server tells two kinds of each of these in the same way.
SHARED = {"MemoryFullError": "QueueFullError", "WorkerDiedError": "NotReadyError", "HandlerError": "InternalError"}
OTHER_NAMES = {"FlowyardError": "InternalError", "UserError": "InvalidRequestError"}


@pytest.mark.parametrize("raised", [cls for cls in TABLE if cls is not InvalidWorkflowError], ids=lambda cls: cls.__name__)
def test_each_error_of_the_server_has_its_class_here(raised):
    """Or that of its nearest base."""
    body = error_body(raised("why"))
    names = [SHARED.get(cls.__name__) or OTHER_NAMES.get(cls.__name__) or cls.__name__ for cls in raised.__mro__]
    name = next(name for name in names if hasattr(errors, name))
    error = error_of(body.code, {"x-request-id": "r1"}, msgspec.json.encode(body))
    assert type(error) is getattr(errors, name)
    assert (error.status, error.type, error.message, error.request_id) == (body.code, body.type, "why", "r1")


def test_problems_come_along():
    problems = (Problem(message="wrong", file="workflow.yaml", line=3, column=7, fix="right"),)
    body = msgspec.json.encode(error_body(InvalidWorkflowError(problems)))
    error = error_of(400, {}, body)
    assert isinstance(error, errors.InvalidWorkflowError)
    assert (error.problems, error.body) == (problems, body)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", None), ("Wed, 21 Oct", None), ("-1", None), ("²", None)])
def test_when_to_try_again(header, seconds):
    body = b'{"code": 503, "type": "ServiceUnavailableException", "message": "busy"}'
    error = error_of(503, {"retry-after": header}, body)
    assert isinstance(error, errors.UnavailableError)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(("status", "cls"), [(401, errors.UnauthorizedError), (418, RefusedError), (599, RefusedError)])
def test_a_status_without_a_known_type(status, cls):
    error = error_of(status, {}, b'{"code": 1, "message": "no"}')
    assert type(error) is cls


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"code": "x", "message": 1}', b"\xff\xfe", b'{"detail": "no"}'])
def test_what_no_flowyard_says(body):
    error = error_of(500, {"content-type": "text/html"}, body, "http://here")
    assert type(error) is UnexpectedAnswerError
    assert error.message.startswith("http://here gives an answer that is not flowyard's: status 500, text/html, ")


def test_a_long_page_is_not_shown_in_full():
    assert len(error_of(500, {}, b"x" * 100_000).message) < 400
