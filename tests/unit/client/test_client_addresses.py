"""Where a server is: what is taken, and what is refused by name."""

from __future__ import annotations

import pytest

from flowyard.platform.client import InvalidArgumentError
from flowyard.platform.client.address import Address, address_of, authorization


@pytest.mark.parametrize(
    ("url", "env", "address"),
    [
        (None, {}, Address("http://127.0.0.1:8080")),
        (None, {"FLOWYARD_URL": "https://models.example"}, Address("https://models.example")),
        (None, {"FLOWYARD_URL": ""}, Address("http://127.0.0.1:8080")),
        ("http://one", {"FLOWYARD_URL": "http://two"}, Address("http://one")),
        ("http://one:1/behind/a/proxy/", {}, Address("http://one:1/behind/a/proxy")),
        ("http://[::1]:8080", {}, Address("http://[::1]:8080")),
        ("unix:/run/flowyard.sock", {}, Address("http://localhost", "/run/flowyard.sock")),
        ("unix:///run/flowyard.sock", {}, Address("http://localhost", "/run/flowyard.sock")),
        ("unix:here.sock", {}, Address("http://localhost", "here.sock")),
    ],
)
def test_addresses(url, env, address):
    assert address_of(url, env) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "http://host:port"),
        ("127.0.0.1:8080", "(http://127.0.0.1:8080?)"),
        ("localhost", "(http://localhost?)"),
        ("ftp://host", "ftp://host"),
        ("http://", "http://"),
        ("http://host:99999", "99999"),
        ("http://host:x", "host:x"),
        ("http://host:0", "host:0"),
        ("http://ho st", "ho st"),
        ("http://host\r\nx: y", "\\r\\n"),
        ("http://host/?q", "?q"),
        ("http://host/#f", "#f"),
        ("http://[::1", "[::1"),
        ("unix:", "unix:/path"),
        ("unix://", "unix:/path"),
    ],
)
def test_what_is_no_address(url, words):
    with pytest.raises(InvalidArgumentError) as caught:
        address_of(url, {})
    assert words in caught.value.message


def test_a_password_is_not_repeated():
    with pytest.raises(InvalidArgumentError) as caught:
        address_of("http://me:secret@host", {})
    assert "FLOWYARD_TOKEN" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("token", ["", None])
def test_no_token_is_no_header(token):
    assert authorization(token, {}) == {}


@pytest.mark.parametrize("token", ["a b", "a\nb", "ü", "a\x7f"])
def test_tokens_that_no_header_can_hold(token):
    with pytest.raises(InvalidArgumentError):
        authorization(token, {})
