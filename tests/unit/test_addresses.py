import re

import pytest

from flowyard.platform.addresses import Address, parse_address
from flowyard.platform.settings import Settings, listening, load_settings
from flowyard.schemas.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("http://127.0.0.1:8080", Address("http", "127.0.0.1", 8080), None),
        ("HTTP://Host:80/", Address("http", "host", 80), "http://host:80"),
        ("http://a", Address("http", "a", 80), "http://a:80"),
        ("https://a", Address("https", "a", 443), "https://a:443"),
        ("http://[::1]:0", Address("http", "::1", 0), None),
        ("unix:/run/a b.sock", Address("unix", path="/run/a b.sock"), None),
        ("unix:///run/a.sock", Address("unix", path="/run/a.sock"), "unix:/run/a.sock"),
    ],
)
def test_addresses(text, address, shown):
    assert parse_address(text) == address
    assert str(address) == (shown or text)


@pytest.mark.parametrize(
    "text",
    ["", "8080", "a:80", "http://", "http://a:65536", "http://a:x", "http://a:80/x", "ftp://a", "unix:a", "unix:/", "unix:/a/",
     "http://a b", "unix:/a\nb", "http://::1:80", "http://a@b"],
)  # fmt: skip
def test_what_is_no_address(text):
    with pytest.raises(InvalidRequestError, match=re.escape("allowed is http://host[:port]")):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.9:1", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("unix:/a", True),
        ("http://0.0.0.0:1", False),
        ("http://host:1", False),
    ],
)
def test_which_addresses_are_local(address, local):
    assert parse_address(address).is_local is local


@pytest.mark.parametrize(
    ("settings", "inference", "management"),
    [
        ({"host": "0.0.0.0", "port": 9}, "http://0.0.0.0:9", "http://0.0.0.0:9"),
        ({"inference_address": "http://127.0.0.1:9"}, "http://127.0.0.1:9", "http://127.0.0.1:9"),
        ({"inference_address": "unix:/a"}, "unix:/a", "unix:/a"),
        # Nobody opens the management API to the world without saying so.
        ({"inference_address": "http://0.0.0.0:9"}, "http://0.0.0.0:9", "http://127.0.0.1:8080"),
        ({"inference_address": "http://0.0.0.0:8080"}, "http://0.0.0.0:8080", "http://0.0.0.0:8080"),
        ({"management_address": "unix:/a"}, "http://127.0.0.1:8080", "unix:/a"),
    ],
)
def test_where_the_server_listens(settings, inference, management):
    where = listening(Settings(**settings))
    assert (str(where.inference), str(where.management)) == (inference, management)


@pytest.mark.parametrize(
    ("file", "flags", "inference", "management"),
    [
        ("inference_address: http://a:1", {"port": 2}, "http://a:2", "http://127.0.0.1:8080"),
        ("inference_address: https://a:1", {"host": "127.0.0.1"}, "https://127.0.0.1:1", "https://127.0.0.1:1"),
        ("inference_address: unix:/a", {"port": 2}, "http://127.0.0.1:2", "http://127.0.0.1:2"),
        ("{inference_address: 'http://a:1', management_address: 'http://a:1'}", {"port": 2}, "http://a:2", "http://a:2"),
        ("{inference_address: 'http://a:1', management_address: 'http://b:1'}", {"port": 2}, "http://a:2", "http://b:1"),
        ("{port: 1, inference_address: 'http://a:3'}", {}, "http://a:3", "http://127.0.0.1:8080"),
        ("{inference_address: 'http://a:3', port: 1}", {}, "http://a:1", "http://127.0.0.1:8080"),
        ("port: 1", {"inference_address": "unix:/a"}, "unix:/a", "unix:/a"),
        ("inference_address: http://a:3", {"inference_address": ""}, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_host_and_port_are_the_short_form_of_what_an_earlier_source_says(tmp_path, file, flags, inference, management):
    path = tmp_path / "flowyard.yaml"
    path.write_text(file)
    where = listening(load_settings(path, {}, flags)[0])
    assert (str(where.inference), str(where.management)) == (inference, management)
