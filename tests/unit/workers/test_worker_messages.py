"""What handlers get in the middle of a workflow, and what the requests of a client are to them."""

from __future__ import annotations

import numpy as np
import pytest

from flowyard.platform.http.request import RequestPayload
from flowyard.platform.workers.messages import as_messages
from flowyard.schemas.errors import InvalidInputError, InvalidRequestError
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload

HEADERS = {"x-probe": "1"}
FORM = (
    b'--z\r\nContent-Disposition: form-data; name="f"; filename="f"\r\nContent-Type: image/png; q=1\r\n\r\n\x89\r\n'
    b'--z\r\nContent-Disposition: form-data; name="g"; filename="g"\r\n\r\nG\r\n'
    b'--z\r\nContent-Disposition: form-data; name="t"\r\nContent-Type: text/x\r\n\r\nT\r\n--z--\r\n'
)


def told(payload, handlers="torchserve"):
    (argument,) = as_messages((payload,), handlers, HEADERS, "r-1")
    return argument.message()


@pytest.mark.parametrize(
    ("value", "body", "kind"),
    [
        (b"\x00", b"\x00", ""),
        ("text", b"text", "text/plain"),
        ({"a": [1, None]}, b'{"a":[1,null]}', "application/json"),
        (np.array([[1, 2]]), b"[[1,2]]", "application/json"),
        (None, b"null", "application/json"),
    ],
)
@pytest.mark.parametrize("handlers", ["torchserve", "mms"])
def test_a_value_is_the_body_with_the_headers_of_the_request(value, body, kind, handlers):
    assert told(Payload.of(value), handlers) == Message(
        properties=(("x-probe", "1"), ("requestId", "r-1")), contents=(("body", body),), types=(kind,)
    )


def test_of_an_answer_only_the_bytes_count():
    answer = Message(418, "Teapot", (("x-own", "1"),), ((None, b"7"),), ("application/json",))
    assert told(Payload.of(answer)) == Message(properties=(("x-probe", "1"), ("requestId", "r-1")), contents=(("body", b"7"),))


def test_the_row_of_several_parents_keeps_their_names():
    row = Message(contents=(("a", b"1"), ("b", b"2")))
    assert told(Payload.of(row)).contents == (("a", b"1"), ("b", b"2"))


def test_djls_handlers_get_the_answer_itself():
    answer = Payload.of(Message(201, "made", (("x-own", "1"),), ((None, b"7"),)))
    assert as_messages((answer,), "djl", HEADERS, "r-1") == (answer,)


@pytest.mark.parametrize("handlers", ["djl", "torchserve"])
def test_what_cannot_be_told(handlers):
    with pytest.raises(InvalidInputError, match="takes one argument, not 2"):
        as_messages((Payload.of(1), Payload.of(2)), handlers, HEADERS, "r-1")
    with pytest.raises(InvalidInputError, match="cannot be told to a handler"):
        as_messages((Payload.of({"a": object()}),), handlers, HEADERS, "r-1")


def request(body, kind="", query=()):
    headers = {"content-type": kind} if kind else {}
    return RequestPayload(headers, list(query), body, "r-2").for_handler("torchserve")


@pytest.mark.parametrize(
    ("body", "kind", "contents", "types"),
    [
        (b"x", "", (("body", b"x"),), ("",)),
        (b"x", "text/csv; charset=utf-8", (("body", b"x"),), ("text/csv",)),
        (b"{}", "Application/Json", (("body", b"{}"),), ("Application/Json",)),
        (b"a=1&a=2&b=x%20y", "application/x-www-form-urlencoded", (("a", b"1"), ("a", b"2"), ("b", b"x y")), ("", "", "")),
        (b'{"a": 1}', "application/x-www-form-urlencoded", (("body", b'{"a": 1}'),), ("application/json",)),
        (
            FORM,
            "multipart/form-data; boundary=z",
            (("f", b"\x89"), ("g", b"G"), ("t", b"T")),
            ("image/png", "application/octet-stream", ""),
        ),
    ],
)
def test_a_request_as_torchserves_handlers_see_it(body, kind, contents, types):
    message = request(body, kind, query=[("q", "1")])
    assert (message.contents, message.types) == (contents, types)
    assert message.get("requestId") == "r-2"


def test_a_form_that_is_none():
    with pytest.raises(InvalidRequestError, match="multipart form cannot be read"):
        request(b"--z\r\nbroken", "multipart/form-data; boundary=z")
