"""How remote URLs are read, which the settings allow, and which addresses a host may have."""

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.archives.allowed import AllowedUrls, fits, parse_pattern
from flowyard.platform.archives.hosts import effective_address, is_local, is_public
from flowyard.platform.archives.remote import is_remote, parse_redirect, parse_url, url_arguments
from flowyard.schemas.errors import ForbiddenError, InvalidRequestError, UserError


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "target", "origin"),
    [
        ("https://Host.example/a/b.zip", "host.example", 443, "/a/b.zip", "/a/b.zip", "https://host.example"),
        ("http://host:/x", "host", 80, "/x", "/x", "http://host"),
        ("HTTP://host", "host", 80, "", "/", "http://host"),
        ("http://host:443/", "host", 443, "/", "/", "http://host:443"),
        ("http://host/a%20b?x=1&y=a b".replace(" b", "%20b"), "host", 80, "/a b", "/a%20b?x=1&y=a%20b", "http://host"),
        ("http://host/ü", "host", 80, "/ü", "/%C3%BC", "http://host"),
        ("http://[::1]:8080/m", "::1", 8080, "/m", "/m", "http://[::1]:8080"),
        ("http://[0:0::1]/m", "::1", 80, "/m", "/m", "http://[::1]"),
        ("s3://bucket/a/b/", "bucket", 0, "/a/b/", "/a/b/", "s3://bucket"),
        ("hf://Owner/Model@main", "Owner", 0, "/Model@main", "/Model@main", "hf://Owner"),
    ],
)
def test_urls_that_can_be_read(url, host, port, path, target, origin):
    parsed = parse_url(url)
    assert (parsed.host, parsed.port, parsed.path, parsed.target, parsed.origin) == (host, port, path, target, origin)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "expected is http://HOST/PATH"),
        ("https:host/x", "expected is https://HOST/PATH"),
        ("s3:///x", "expected is s3://BUCKET/PATH"),
        ("hf://", "expected is hf://OWNER/MODEL"),
        ("http://user@host/", "user name or password"),
        ("http://:secret@host/", "user name or password"),
        ("s3://key:secret@bucket/", "user name or password"),
        ("http://host/?token=x", "the parameter token is a credential"),
        ("http://host/?a=1&Sig=x", "the parameter sig is a credential"),
        ("http://host/a b", "write them as %20"),
        ("http://host/a\0", "control characters"),
        ("http://host\\evil/", "backslashes"),
        ("http://host/%5c", "backslashes"),
        ("http://host/%0a", "control characters"),
        ("http://host/%zz", "written %25"),
        ("http://host/#x", "written %25"),
        ("http://host/%ff", "not UTF-8"),
        ("http://host/a/../b", "leads upwards"),
        ("http://host/..%2fb", "leads upwards"),
        ("http://host/a/..;/b", "leads upwards"),
        ("http://host/a/..;x=1/b", "leads upwards"),
        ("http://host/%252e%252e/b", "leads upwards"),
        ("http://[::1/", "not a url"),
        ("http://[fe80::1%25eth0]/", "without a zone"),
        ("http://[::1]x/", "expected is http://HOST/PATH"),
        ("http://x[::1]/", "expected is http://HOST/PATH"),
        ("http://::1/", "expected is http://HOST/PATH"),
        ("http://host:x/", "expected is http://HOST/PATH"),
        ("http://host:-1/", "expected is http://HOST/PATH"),
        ("http://host:80:90/", "expected is http://HOST/PATH"),
        ("http://host:99999/", "there is no port 99999"),
        ("http://host./", "without a final dot"),
        ("http://a..b/", "a host is a name"),
        ("http://münchen/", "xn--"),
        ("http://ho%73t/", "a host is a name"),
        ("http://127.1/", "four decimal numbers"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://0177.0.0.1/", "four decimal numbers"),
        ("http://0x7f.0.0.1/", "four decimal numbers"),
        ("http://127.0.0.0x1/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://127.0.0.256/", "four decimal numbers"),
        ("http://127.0.0.1./", "four decimal numbers"),
        ("http://①②⑦.0.0.1/", "four decimal numbers"),
        ("http://host/" + "x" * 8200, "8192 are allowed"),
    ],
)
def test_urls_that_are_refused(url, message):
    with pytest.raises(InvalidRequestError, match=re.escape(message)) as caught:
        parse_url(url)
    assert "secret" not in caught.value.message


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", "s3://", "hf://", "http:"]))
def test_any_text_is_read_or_refused(text, start):
    try:
        parsed = parse_url(start + text)
    except UserError:
        return
    assert parsed.target.isascii()
    assert parsed.target.startswith("/")
    assert not re.search(r"[\s\\]", parsed.target)
    assert ".." not in parsed.path.split("/")
    assert parsed.host


def test_what_is_remote():
    assert all(map(is_remote, ["http://x", "HTTPS:x", "s3://b/k", "gs:", "az://c", "hf://o/m"]))
    assert not any(map(is_remote, ["model.zip", "file:///x", "/http://x", "module:callable", "httpx://h"]))


def test_the_query_is_the_models():
    assert url_arguments("http://h/m.zip?topK=1&translator=a%20b&topK=2&none=") == {"topK": "1", "translator": "a b", "none": ""}
    assert url_arguments("file:/m?artifact_id=x") == {"artifact_id": "x"}
    assert url_arguments("models/a?b=c") == {}
    assert url_arguments("module:callable") == {}


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("/x?sig=1", "http://host:8080/x?sig=1"),
        ("y", "http://host:8080/a/y"),
        ("//other/z", "http://other/z"),
        ("https://other/z?X-Amz-Signature=s", "https://other/z?X-Amz-Signature=s"),
    ],
)
def test_redirects(location, found):
    target = parse_redirect(parse_url("http://host:8080/a/b"), location)
    assert target.origin + target.target == found


@pytest.mark.parametrize(
    "location",
    ["", "ftp://x/", "file:///etc/passwd", "http://a:b@host/", "http://127.1/", "http://h/../x", "http://[", "s3://b/k", "a\nb"],
)
def test_redirects_that_are_refused(location):
    with pytest.raises(InvalidRequestError, match="the redirect of http://host cannot be followed"):
        parse_redirect(parse_url("http://host"), location)


def test_a_redirect_does_not_leave_tls():
    with pytest.raises(InvalidRequestError, match="from https: to http:"):
        parse_redirect(parse_url("https://host/"), "http://host/")


ALLOWED = [
    ("https://host", "https://host/any/thing.zip", True),
    ("https://host", "http://host/x", False),
    ("https://host", "https://host:8443/x", False),
    ("https://host", "https://host.evil/x", False),
    ("https://host:*", "https://host:8443/x", True),
    ("https://host:8443/", "https://host:8443/x", True),
    ("https://host/team", "https://host/team", True),
    ("https://host/team", "https://host/team/x", True),
    ("https://host/team", "https://host/team-evil/x", False),
    ("https://host/team/", "https://host/team/x", True),
    ("https://host/team/", "https://host/%74eam/x", True),
    ("https://host/team/", "https://host/x?p=/team/", False),
    ("https://host/*.zip", "https://host/a/b.zip", True),
    ("https://host/*.zip", "https://host/a/b.tar", False),
    ("https://host/*.zip", "https://host/a/b.tar?x=.zip", False),
    ("https://host/a.b", "https://host/axb", False),
    ("https://*.host/", "https://a.b.host/x", True),
    ("https://*.host/", "https://host/x", False),
    ("https://*.host/", "https://evilhost/x", False),
    ("https://*", "https://1.1.1.1/x", True),
    ("https://*.1.1.1", "https://1.1.1.1/x", None),
    ("host", "http://host/x", True),
    ("host", "https://host/x", True),
    ("host:81", "http://host:81/x", True),
    ("host:81", "http://host/x", False),
    ("HOST/a", "https://host/a/b", True),
    ("http://[::1]:9000", "http://[0::1]:9000/x", True),
    ("http://127.0.0.1", "http://127.0.0.1/x", True),
    ("http://127.0.0.1", "http://[::ffff:127.0.0.1]/x", False),
    ("s3://bucket/a", "s3://bucket/a/b", True),
    ("s3://bucket/a", "s3://bucket/ab", False),
    ("s3://*", "s3://other/x", True),
    ("s3://bucket", "gs://bucket/x", False),
    ("hf://owner", "hf://Owner/model", True),
    ("hf://owner/model", "hf://owner/model/file", True),
]


@pytest.mark.parametrize(("entry", "url", "expected"), ALLOWED)
def test_what_an_entry_allows(entry, url, expected):
    if expected is None:
        with pytest.raises(InvalidRequestError):
            parse_pattern(entry)
        return
    assert parse_pattern(entry).matches(parse_url(url)) is expected


@given(st.text("ab/", max_size=8), st.text("ab*", min_size=1, max_size=5).filter(lambda text: "*" in text))
def test_a_star_stands_for_anything(text, pattern):
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert fits(pattern.split("*"), text) == bool(re.fullmatch(expression, text))


@given(st.text(max_size=40), st.sampled_from(["", "https://", "s3://", "http://["]))
def test_any_entry_is_read_or_refused(text, start):
    try:
        pattern = parse_pattern(start + text)
    except InvalidRequestError:
        return
    assert pattern.host
    assert not pattern.matches(parse_url("hf://owner/model")) or start + text == "hf://owner"


def test_a_hostile_path_takes_no_time():
    pattern = parse_pattern("https://host/*/a/*/a/*/a/*/a/*.zip")
    assert not pattern.matches(parse_url("https://host" + "/a/" * 2700))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "https://",
        "ftp://host",
        "https://*evil.org",
        "https://a.*.org",
        "https://ho*st",
        "https://user@host",
        "https://host/x?y",
        "https://host/#x",
        "https://host:port",
        "https://host:",
        "https://[host]",
        "https://::1",
        "https://127.1",
        "s3://",
        "s3://a b",
        ".*",
        "https?://.*",
    ],
)
def test_entries_that_cannot_be_read(entry):
    with pytest.raises(InvalidRequestError, match=re.escape(f"allowed_urls: {entry!r} is not allowed: ")):
        AllowedUrls([entry])


PRIVATE = [
    *("127.0.0.1", "127.255.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
    *("::1", "fc00::1", "fec0::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::"),
]
SPECIAL = [
    *("0.0.0.0", "169.254.169.254", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "fe80::1", "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::"),
    *("::127.0.0.1", "4000::1"),
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::"]
DOCUMENTATION = ["192.0.2.1", "198.18.0.1", "2001:db8::1", "2001::1"]


@pytest.mark.parametrize("text", PRIVATE + SPECIAL + DOCUMENTATION)
def test_addresses_that_are_not_public(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_that_are_public(text):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_of_ones_own_network(text):
    assert is_local(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", SPECIAL)
def test_special_addresses(text):
    assert not is_local(ipaddress.ip_address(text))


def test_the_address_inside():
    assert str(effective_address(ipaddress.ip_address("64:ff9b::a9fe:a9fe"))) == "169.254.169.254"
    assert str(effective_address(ipaddress.ip_address("2606:4700::1111"))) == "2606:4700::1111"


@pytest.mark.parametrize(
    ("entries", "url", "address", "allowed"),
    [
        (["https://*"], "https://host/", "1.1.1.1", True),
        (["https://*"], "https://host/", "10.0.0.1", False),
        (["https://*", "https://host"], "https://host/", "10.0.0.1", True),
        (["https://*", "https://other"], "https://host/", "10.0.0.1", False),
        (["https://*", "https://host/a"], "https://host/b", "10.0.0.1", False),
        (["https://host"], "https://host/", "127.0.0.1", True),
        (["https://host"], "https://host/", "169.254.169.254", False),
        (["https://host"], "https://host/", "::ffff:169.254.169.254", False),
        (["https://host"], "https://host/", "0.0.0.0", False),
        (["https://169.254.169.254"], "https://169.254.169.254/", "169.254.169.254", True),
        (["https://*"], "https://169.254.169.254/", "169.254.169.254", False),
        (["https://*.host"], "https://a.host/", "127.0.0.1", False),
    ],
)
def test_which_addresses_a_host_may_have(entries, url, address, allowed):
    urls, parsed = AllowedUrls(entries), parse_url(url)
    if allowed:
        urls.check_address(parsed, ipaddress.ip_address(address))
        return
    with pytest.raises(ForbiddenError, match="has an address that is not public; the setting allowed_urls") as caught:
        urls.check_address(parsed, ipaddress.ip_address(address))
    assert address in url or address not in caught.value.message


def test_an_address_in_the_url_is_checked_before_anything_else():
    with pytest.raises(ForbiddenError, match="not public"):
        AllowedUrls(["http://*:*"]).check(parse_url("http://127.0.0.1:9000/"), "url")


def test_an_empty_setting_says_so():
    with pytest.raises(
        ForbiddenError, match="url 'x': remote urls are not allowed unless the setting allowed_urls lists them; it is empty"
    ):
        AllowedUrls([]).check(parse_url("https://host/"), "url 'x'")
