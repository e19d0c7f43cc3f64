"""Messages: what they are to handlers, and to those who know none; their way between processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.schemas.codecs import npy
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import decode, encode

text = st.text(max_size=20)
messages = st.builds(
    Message,
    st.integers(100, 599),
    text,
    st.lists(st.tuples(text, text), max_size=5).map(tuple),
    st.lists(st.tuples(st.none() | text, st.binary(max_size=3000)), max_size=5).map(tuple),
    st.lists(text, max_size=5).map(tuple),
)


@given(messages)
def test_a_message_survives_the_way_between_processes(message):
    assert decode(encode(message)) == message
    assert decode(encode([{"a": message}])) == [{"a": message}]
    assert Payload.from_encoded(Payload.of(message).encoded()).message() == message


def test_the_data_is_the_content_of_that_name_or_the_first():
    assert Message(contents=(("a", b"1"), ("data", b"2"))).data == b"2"
    assert Message(contents=(("a", b"1"), ("b", b"2"))).data == b"1"
    assert Message().data == b""


@pytest.mark.parametrize(
    ("properties", "types", "kind"),
    [((), (), ""), ((), ("text/a", "text/b"), "text/a"), ((("Content-Type", "text/own"),), ("text/a",), "text/own")],
)
def test_the_content_type_is_the_messages_own_or_that_of_its_first_content(properties, types, kind):
    assert Message(properties=properties, contents=((None, b"x"),), types=types).content_type == kind


def test_a_result_that_is_known_to_be_json_is_a_value_to_those_who_know_no_messages():
    assert Payload.of(Message(contents=((None, b"[1]"),), types=("application/json",))).value() == [1]


def test_properties_are_found_in_any_case_and_the_last_one_counts():
    message = Message(properties=(("Content-Type", "a"), ("content-type", "b")))
    assert message.get("CONTENT-TYPE") == "b"
    assert message.get("other", "none") == "none"


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/problem+json; charset=utf-8", b"1", 1),
        ("text/plain; charset=utf-8", "ü".encode(), "ü"),
        ("text/x-up", b"HI", "HI"),
        ("image/png", b"\x89PNG", b"\x89PNG"),
        ("", b"hello", b"hello"),
    ],
)
def test_others_see_the_body_by_its_content_type(content_type, body, value):
    properties = (("content-type", content_type),) if content_type else ()
    payload = Payload.of(Message(properties=properties, contents=(("data", body),)))
    assert payload.value() == value
    assert Payload.from_encoded(payload.encoded()).value() == value


def test_others_see_tensors_as_arrays():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for kind in ("application/x-npy", "tensor/npy", "application/octet-stream"):
        message = Message(properties=(("Content-Type", kind),), contents=(("data", npy.encode(array)),))
        assert np.array_equal(Payload.of(message).value(), array)


@pytest.mark.parametrize(("content_type", "body"), [("application/json", b"{"), ("text/plain", b"\xff"), ("tensor/npz", b"x")])
def test_a_body_that_is_not_what_it_says_is_refused(content_type, body):
    payload = Payload.of(Message(properties=(("content-type", content_type),), contents=(("data", body),)))
    with pytest.raises(InvalidInputError):
        payload.value()


def test_a_value_is_no_message():
    assert Payload.of({"a": 1}).message() is None
    assert Payload.from_json(b"[1]").message() is None
