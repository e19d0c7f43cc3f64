"""Parameters of TorchServe and MMS: silent defaults in a query, kinds held to in JSON, names of both ages."""

from __future__ import annotations

import pytest
import structlog.testing

from flowyard.platform.http.torchserve.parameters import of_json, of_query, query_pairs
from flowyard.platform.http.torchserve.registrations import MMS_RUNTIMES, TORCHSERVE_RUNTIMES, read_registration
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidRequestError


def query(text: str):
    return of_query(query_pairs(text.encode()))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("n=4", 4),
        ("n=-7", -7),
        ("n=", None),
        ("", None),
        ("n=dd", None),
        ("n=2.5", None),
        ("n=99999999999", None),
        ("n=1&n=2", 1),
    ],
)
def test_what_is_no_whole_number_counts_as_absent(text, number):
    assert query(text).integer("n") == number


def test_a_silent_default_is_told_in_the_log():
    with structlog.testing.capture_logs() as logs:
        query("batch_size=dd").integer("batch_size")
    assert [(line["parameter"], line["value"]) for line in logs] == [("batch_size", "dd")]


@pytest.mark.parametrize(
    ("text", "value"),
    [("f=true", True), ("f=TRUE", True), ("f=false", False), ("f=-1", False), ("f=nan", False), ("f=", False), ("", True)],
)
def test_only_true_is_true(text, value):
    assert query(text).flag("f", default=True) is value


def test_a_semicolon_separates_like_an_ampersand():
    assert query("a=1;b=2").integer("b") == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"url": "m.mar", "batch_size": 3}',
        b"{'url': 'm.mar', 'batch_size': '3'}",
        b"{url: m.mar, batch_size: 3}",
        b"{url:m.mar,batch_size:3}",
        b"{'url'=m.mar; batch_size => 3.0}",
        b"{url: m.mar, batch_size: '3'} // as it was",
        b'{"url": "m.mar", "batch_size": "3", "handler": null}',
    ],
)
def test_json_is_read_as_leniently_as_gson_reads_it(body):
    given = of_json(body)
    assert (given.text("url"), given.integer("batch_size"), given.text("handler")) == ("m.mar", 3, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"url": ',
        b'{"url": {"a": 1}}',
        b"{a: &x [*x]}",
        b"{url:http://h/m.mar}",
        b"{url:m.mar,}",
        b"{url:m.mar} {}",
        b"{url:}",
        b'"text"',
        b"{" * 5000,
        b'{"a":' * 100_000,
        b"{a: " * 10_000,
        b"\xff\xfe",
    ],
)
def test_json_that_is_none_is_the_callers_mistake(body):
    with pytest.raises(InvalidRequestError):
        of_json(body)


def test_what_is_no_json_is_not_read_any_further_where_that_would_take_long():
    with pytest.raises(InvalidRequestError):
        of_json(b"{url: " + b"x" * 70_000 + b"}")


@pytest.mark.parametrize("body", [b'{"n": "dd"}', b'{"n": 2.5}', b'{"n": true}', b'{"n": ""}', b"{n: 3e99}", b"{n: NaN}"])
def test_in_json_a_number_is_held_to(body):
    with pytest.raises(InvalidRequestError, match=r"Parameter n: .* a whole number"):
        of_json(body).integer("n")


def test_in_json_a_truth_value_is_held_to():
    with pytest.raises(InvalidRequestError, match="true or false"):
        of_json(b'{"f": 3}').flag("f", default=False)


def test_all_parameters_of_a_registration():
    text = (
        "url=m.mar&model_name=m&handler=h.py:f&runtime=python3&batch_size=4&max_batch_delay=50&response_timeout=5"
        "&startup_timeout=6&initial_workers=2&synchronous=false&s3_sse_kms=true"
    )
    asked = read_registration(query(text), Settings(default_service_handler="service:handle"), TORCHSERVE_RUNTIMES)
    assert (asked.url, asked.name, asked.workers, asked.synchronous) == ("m.mar", "m", 2, False)
    assert (asked.spec.batch_size, asked.spec.max_batch_delay) == (4, 50)
    assert asked.spec.options == {
        "handler": "h.py:f",
        "runtime": "python3",
        "initial_workers": "2",
        "response_timeout": "5",
        "startup_timeout": "6",
        "default_service_handler": "service:handle",
        "s3_sse_kms": "true",
    }


def test_the_names_of_the_early_documents():
    asked = read_registration(query("model_url=m.mar&initial_worker=3&runtime=PYTHON"), Settings(), TORCHSERVE_RUNTIMES)
    assert (asked.url, asked.workers, asked.spec.options["runtime"]) == ("m.mar", 3, "python")


def test_what_nobody_says_comes_from_the_settings():
    settings = Settings(default_workers_per_model=2, service_envelope="kserve", decode_input_request=False)
    asked = read_registration(query("url=m.mar"), settings, TORCHSERVE_RUNTIMES)
    assert asked.spec.options == {"initial_workers": "2", "service_envelope": "kserve", "decode_input_request": "false"}


def test_times_that_are_too_long_are_cut_down():
    text = "url=m.mar&response_timeout=300000&startup_timeout=2147483647"
    asked = read_registration(query(text), Settings(), TORCHSERVE_RUNTIMES)
    assert (asked.spec.options["response_timeout"], asked.spec.options["startup_timeout"]) == ("86400", "86400")
    asked = read_registration(query("url=m.mar&response_timeout=2000"), Settings(), MMS_RUNTIMES, response_timeout_unit_s=60)
    assert asked.spec.options["response_timeout"] == "86400"


def test_the_response_timeout_of_mms_is_in_minutes():
    asked = read_registration(query("url=m.mar&response_timeout=2"), Settings(), MMS_RUNTIMES, response_timeout_unit_s=60)
    assert asked.spec.options["response_timeout"] == "120"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Parameter url is required."),
        ("model_name=x", "Parameter url is required."),
        ("URL=m.mar", "Parameter url is required."),
        ("url=m&runtime=python4", "Invalid RuntimeType value: python4"),
        ("url=m&runtime=", "Invalid RuntimeType value: "),
        ("url=m&runtime=python2", "Invalid RuntimeType value: python2"),
        ("url=m&batch_size=0", "Parameter batch_size: 0 is not allowed"),
        ("url=m&batch_size=-7", "Parameter batch_size: -7 is not allowed"),
        ("url=m&max_batch_delay=-1", "Parameter max_batch_delay: -1 is not allowed"),
        ("url=m&response_timeout=0", "Parameter response_timeout: 0 is not allowed"),
        ("url=m&startup_timeout=-5", "Parameter startup_timeout: -5 is not allowed"),
        ("url=m&initial_workers=5000", "Parameter initial_workers: 5000 is not allowed"),
        ("url=m&model_name=a/b", "Invalid name"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text, message):
    with pytest.raises(InvalidRequestError, match=message):
        read_registration(query(text), Settings(), TORCHSERVE_RUNTIMES)


@pytest.mark.parametrize(
    "text", ["batch_size=-1", "response_timeout=-1", "startup_timeout=-1", "initial_workers=-1", "batch_size=dd"]
)
def test_what_the_original_takes_for_not_said(text):
    asked = read_registration(query(f"url=m&{text}"), Settings(), TORCHSERVE_RUNTIMES)
    assert (asked.workers, asked.spec.batch_size) == (0, None)
    assert asked.spec.options.keys() <= {"initial_workers"}
