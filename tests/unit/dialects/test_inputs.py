"""What handlers of TorchServe and MMS get of a request."""

from __future__ import annotations

import pytest

from flowyard.platform.http.torchserve.inputs import HandlerRequest, field_of, form_or_body, inputs_of, told_headers
from flowyard.platform.http.torchserve.routes import Call
from flowyard.schemas.errors import InvalidRequestError

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"


def multipart(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


@pytest.mark.parametrize(
    ("header", "body", "inputs"),
    [
        ("", b"x", [("body", b"x", "")]),
        ("", b"", [("body", b"", "")]),
        ("application/json; charset=utf-8", b"{}", [("body", b"{}", "application/json")]),
        ("TEXT/PLAIN", b"x", [("body", b"x", "TEXT/PLAIN")]),
        ("garbage", b"x", [("body", b"x", "garbage")]),
        ("multipart/form-data", b"x", [("body", b"x", "multipart/form-data")]),
        (FORM, b"a=1&b=two%20words&c=a+b", [("a", b"1", ""), ("b", b"two words", ""), ("c", b"a b", "")]),
        (FORM, b"data=%00%ff", [("data", b"\x00\xff", "")]),
        (FORM, "c=\u00e9".encode(), [("c", "\u00e9".encode(), "")]),
        (FORM, b"a=1&a=2", [("a", b"1", ""), ("a", b"2", "")]),
        (FORM, b'{"a":1}', []),
        (FORM, b"justkey", []),
        (FORM, b"", []),
        (MULTIPART, multipart(b'Content-Disposition: form-data; name="d"\r\n\r\nfield'), [("d", b"field", "")]),
        (
            MULTIPART,
            multipart(b'Content-Disposition: form-data; name="d"\r\nContent-Type: application/json\r\n\r\n{}'),
            [("d", b"{}", "")],
        ),
        (
            MULTIPART,
            multipart(b'Content-Disposition: form-data; name="d"; filename="f"\r\nContent-Type: image/png; q=1\r\n\r\nPNG'),
            [("d", b"PNG", "image/png")],
        ),
        (
            MULTIPART,
            multipart(b'Content-Disposition: form-data; name="d"; filename="f"\r\n\r\nbytes'),
            [("d", b"bytes", "application/octet-stream")],
        ),
        (MULTIPART, b"--b--\r\n", []),
        (MULTIPART, b"not multipart", []),
    ],
)
def test_a_body_becomes_named_inputs(header, body, inputs):
    assert form_or_body(header, body) == inputs


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (FORM, b"=v"),
        (FORM, b"&".join(b"a=1" for _ in range(1001))),
        (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="d"\r\n\r\ncut'),
    ],
)
def test_a_form_that_cannot_be_read_is_the_callers_mistake(header, body):
    with pytest.raises(InvalidRequestError, match="form cannot be read"):
        form_or_body(header, body)


def test_a_query_is_input_only_where_the_path_takes_it():
    query = [("q", "1"), ("z", "\u00e9")]
    asked = inputs_of(Call("m", takes_query=True), query, "", b"b")
    assert asked == [("q", b"1", ""), ("z", "\u00e9".encode(), ""), ("body", b"b", "")]
    assert inputs_of(Call("m"), query, "", b"b") == [("body", b"b", "")]
    assert field_of(asked, "z") == "\u00e9"
    assert field_of(asked, "none") is None


def test_a_client_cannot_pretend_to_be_the_server():
    call = Call("m", "1", url_path="p", explain=True)
    headers = {"x-one": "1", "describe": "True", "explain": "False", "url_path": "forged"}
    request = HandlerRequest(headers, (), b"x", "id", [("body", b"x", "")], told_headers(call))
    message = request.for_handler("torchserve")
    assert dict(message.properties) == {"x-one": "1", "url_path": "p", "explain": "True", "requestId": "id"}
    assert (message.contents, message.types) == ((("body", b"x"),), ("",))


def test_handlers_of_djl_get_the_request_as_they_know_it():
    request = HandlerRequest({"x": "1"}, [("q", "1")], b"x", "id", [], {})
    assert request.for_handler("djl").content("q") == b"1"
