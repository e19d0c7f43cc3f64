"""Where URLs of registrations may lead."""

from __future__ import annotations

import pytest

from flowyard.platform.archives.allowed import AllowedUrls
from flowyard.platform.archives.hosts import parse_address
from flowyard.platform.archives.remote import parse_url
from flowyard.platform.http.torchserve.urls import base_name, check_relative, in_store
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import ForbiddenError, InvalidRequestError, ModelNotFoundError

SETTINGS = Settings(model_store="/store")


@pytest.mark.parametrize(
    ("url", "name"),
    [("m.mar", "m.mar"), ("/store/m.mar", "m.mar"), ("folder", "folder"), ("folder/", "folder/")],
)
def test_what_is_at_the_top_of_the_store(url, name):
    assert in_store(url, SETTINGS) == name


@pytest.mark.parametrize(
    "url", ["sub/m.mar", "/store/sub/m.mar", "/elsewhere/m.mar", " ", "ftp://h/m.mar", "file:/m.mar", "/store/"]
)
def test_what_is_elsewhere(url):
    assert in_store(url, SETTINGS) is None


@pytest.mark.parametrize("url", ["../m.mar", "a/../m.mar", "a..b.mar"])
def test_two_dots_are_refused_anywhere(url):
    with pytest.raises(ModelNotFoundError, match="Relative path is not allowed in url"):
        check_relative(url)


@pytest.mark.parametrize(
    ("url", "name"), [("https://h/a/m.mar?sig=1", "m.mar"), ("https://h/m.mar/", "m.mar"), ("http://", ""), ("http://[", "")]
)
def test_the_file_that_a_download_would_be(url, name):
    assert base_name(url) == name


def test_regular_expressions_are_for_the_whole_url():
    allowed = AllowedUrls((), [r"https://good\.example/.*", r"http://10\.0\.0\.1:8000/.*"])
    allowed.check(parse_url("https://good.example/m.mar"), "url")
    allowed.check(parse_url("HTTPS://GOOD.example/m.mar"), "url")
    for url in ("https://evil.example/https://good.example/", "https://good.example.evil/m.mar", "http://good.example/m.mar"):
        with pytest.raises(ForbiddenError, match="no entry that matches"):
            allowed.check(parse_url(url), "url")


def test_a_regular_expression_opens_private_addresses_but_not_those_where_clouds_tell_secrets():
    allowed = AllowedUrls((), ["http://.*"])
    allowed.check(parse_url("http://127.0.0.1:9000/m.mar"), "url")
    with pytest.raises(ForbiddenError, match="not public"):
        allowed.check(parse_url("http://169.254.169.254/latest"), "url")
    named = parse_url("http://models.example/m.mar")
    private, metadata = parse_address("10.0.0.1"), parse_address("169.254.169.254")
    assert private is not None
    assert metadata is not None
    allowed.check_address(named, private)
    with pytest.raises(ForbiddenError):
        allowed.check_address(named, metadata)


def test_what_is_no_regular_expression_is_told():
    with pytest.raises(InvalidRequestError, match="no regular expression"):
        AllowedUrls((), ["("])


def test_a_url_may_be_signed_only_where_torchserve_s_rule_counts():
    assert AllowedUrls((), [".*"]).takes_signed
    assert not AllowedUrls(["https://h"]).takes_signed
    assert parse_url("https://h/m.mar?sig=1", signed=True).target == "/m.mar?sig=1"
    with pytest.raises(InvalidRequestError, match="credential"):
        parse_url("https://h/m.mar?sig=1")
