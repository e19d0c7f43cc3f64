"""Fetching over HTTP against a server on the loopback, with names that only the test resolves."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from contextlib import contextmanager

import pytest
import stamina
import trustme
from support.files import file_server

from flowyard.platform.archives import fetch
from flowyard.platform.archives.fetch import Fetcher
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import (
    DeadlineError,
    ForbiddenError,
    InvalidRequestError,
    ModelNotFoundError,
    TooLargeError,
    UnavailableError,
)

LOOPBACK = "127.0.0.1"


@pytest.fixture
def files():
    with file_server() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_waiting():
    """Tries follow each other at once."""
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


class Names:
    """A resolver that knows the names of a test, and counts."""

    def __init__(self, **names):
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append(host)
        answers = self.names.get(host, [])
        if isinstance(answers, Exception):
            raise answers
        if answers is None:
            await asyncio.get_running_loop().create_future()
        if answers and isinstance(answers[0], list):
            answers = answers.pop(0)
        return [ipaddress.ip_address(answer) for answer in answers]


def fetched(tmp_path, url, names=None, allowed=("http://*:*",), **settings):
    """Fetches a URL; what is there, and what was reported."""
    into, reports = tmp_path / "into", []

    async def run():
        fetcher = Fetcher(Settings(allowed_urls=tuple(allowed), **settings), names or Names())
        await fetcher.fetch(url, into, lambda *progress: reports.append(progress))

    asyncio.run(run())
    return into.read_bytes(), reports


def test_the_address_that_was_checked_is_the_one_connected_to(files, tmp_path):
    files.file("/m", b"model")
    names = Names(models_test=[[LOOPBACK], ["10.0.0.1"]])
    url = f"http://models.test:{files.port}/m"
    assert fetched(tmp_path, url, names, [f"http://models.test:{files.port}"])[0] == b"model"
    assert names.asked == ["models.test"]
    assert files.requests[0][1]["Host"] == f"models.test:{files.port}"


def test_a_proxy_of_the_environment_is_not_asked(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert fetched(tmp_path, files.file("/m", b"model"), allowed=[files.url])[0] == b"model"


@pytest.mark.parametrize(
    "addresses", [[LOOPBACK], ["1.1.1.1", LOOPBACK], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:7f00:1"]]
)
def test_a_name_that_has_an_address_it_must_not_have(files, tmp_path, addresses):
    files.file("/m", b"model")
    with pytest.raises(ForbiddenError, match="has an address that is not public"):
        fetched(tmp_path, f"http://models.test:{files.port}/m", Names(models_test=addresses))
    assert files.requests == []


def test_a_redirect_is_resolved_and_checked_anew(files, tmp_path):
    files.file("/m", b"model")
    files.redirect("/hop", f"http://evil.test:{files.port}/m")
    names = Names(models_test=[LOOPBACK], evil_test=[LOOPBACK])
    with pytest.raises(ForbiddenError, match=r"http://evil\.test:\d+ has an address that is not public"):
        fetched(tmp_path, f"http://models.test:{files.port}/hop", names, ["http://*:*", f"http://models.test:{files.port}"])
    assert files.paths() == ["/hop"]
    assert names.asked == ["models.test", "evil.test"]


def test_the_next_address_is_tried_when_one_does_not_answer(files, tmp_path):
    files.file("/m", b"model")
    names = Names(models_test=["127.0.0.2", LOOPBACK])
    url = f"http://models.test:{files.port}/m"
    assert fetched(tmp_path, url, names, [f"http://models.test:{files.port}"])[0] == b"model"


@pytest.mark.parametrize(
    ("answer", "error", "asked"),
    [
        ([], ModelNotFoundError, 1),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), ModelNotFoundError, 1),
        (socket.gaierror(socket.EAI_AGAIN, "later"), UnavailableError, 3),
        (None, UnavailableError, 3),
    ],
)
def test_names_that_cannot_be_resolved(tmp_path, answer, error, asked):
    names = Names(models_test=answer)
    with pytest.raises(error, match=r"http://models\.test/m"):
        fetched(tmp_path, "http://models.test/m", names, fetch_connect_timeout_s=0.05)
    assert names.asked == ["models.test"] * asked


def test_nobody_listens(tmp_path):
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        url = f"http://{LOOPBACK}:{unused.getsockname()[1]}/m"
        with pytest.raises(UnavailableError, match=r"3 tries: the connection to .* failed"):
            fetched(tmp_path, url, allowed=[f"http://{LOOPBACK}:*"])


def test_progress_is_told(files, tmp_path):
    content = bytes(2**20 + 2**19)
    _, reports = fetched(tmp_path, files.file("/m", content), allowed=[files.url])
    assert reports[0] == (0, len(content))
    assert reports[-1] == (len(content), len(content))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_a_second_try_starts_from_the_beginning(files, tmp_path):
    url = files.status("/m", 503, 429, then=b"model")
    content, _ = fetched(tmp_path, url, allowed=[files.url])
    assert (content, files.paths()) == (b"model", ["/m"] * 3)


def test_what_will_not_pass_is_not_tried_again(files, tmp_path):
    with pytest.raises(InvalidRequestError, match="answers 403"):
        fetched(tmp_path, files.status("/m", 403), allowed=[files.url])
    with pytest.raises(TooLargeError):
        fetched(tmp_path, files.file("/large", bytes(11)), allowed=[files.url], max_archive_size_bytes=10)
    assert files.paths() == ["/m", "/large"]


def test_exactly_the_limit_is_allowed(files, tmp_path):
    assert fetched(tmp_path, files.file("/m", bytes(10)), allowed=[files.url], max_archive_size_bytes=10)[0] == bytes(10)


def test_all_of_it_takes_no_longer_than_allowed(files, tmp_path):
    url, _ = files.gated("/m", b"model")
    with pytest.raises(DeadlineError, match=r"within 0\.2 s \(setting fetch_total_timeout_s\)"):
        fetched(tmp_path, url, allowed=[files.url], fetch_total_timeout_s=0.2)


def test_only_so_many_are_fetched_at_once(files, tmp_path):
    gated = [files.gated(f"/{number}", b"model") for number in range(fetch.FETCHES_AT_ONCE + 1)]

    async def run():
        fetcher = Fetcher(Settings(allowed_urls=(files.url,)))
        begun = asyncio.Queue()

        def starter(number):
            return lambda done, _: begun.put_nowait(number) if not done else None

        runs = [asyncio.ensure_future(fetcher.fetch(url, tmp_path / str(n), starter(n))) for n, (url, _) in enumerate(gated)]
        first = [await begun.get() for _ in range(fetch.FETCHES_AT_ONCE)]
        (last,) = set(range(len(runs))) - set(first)
        assert len(files.requests) == fetch.FETCHES_AT_ONCE
        gated[first[0]][1].set()
        assert await begun.get() == last
        for _, gate in gated:
            gate.set()
        await asyncio.gather(*runs)

    asyncio.run(run())


@contextmanager
def tls_server(authority, name):
    """Answers one request over TLS; tells the port and the name that clients asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    asked = []
    context.sni_callback = lambda _, asked_for, __: asked.append(asked_for)
    listener = socket.create_server((LOOPBACK, 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(65_536)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmodel")
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture
def authority(tmp_path, monkeypatch):
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def test_the_certificate_is_held_against_the_name(tmp_path, authority):
    names = Names(models_test=[LOOPBACK], other_test=[LOOPBACK])
    with tls_server(authority, "models.test") as (port, asked):
        allowed = [f"https://models.test:{port}", f"https://other.test:{port}"]
        assert fetched(tmp_path, f"https://models.test:{port}/m", names, allowed)[0] == b"model"
        with pytest.raises(InvalidRequestError, match=r"the certificate of https://other\.test:\d+ does not hold"):
            fetched(tmp_path, f"https://other.test:{port}/m", names, allowed)
    assert asked == ["models.test", "other.test"]


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b/m", "obstore", "cloud"), ("hf://o/m", "huggingface_hub", "hf")])
def test_a_missing_extra_is_named(monkeypatch, url, package, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else object())
    fetcher = Fetcher(Settings(allowed_urls=("s3://b", "hf://o")))
    with pytest.raises(InvalidRequestError, match=rf"needs the package {package}: pip install 'flowyard\[{extra}\]'"):
        fetcher.check(url)


AWS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2", "AWS_DEFAULT_REGION": "eu-west-1"}


def signed_fetch(folder, url, allowed):
    into = folder / "fetched"
    fetcher = Fetcher(Settings(allowed_urls=tuple(allowed), fetch_attempts=1))
    asyncio.run(fetcher.fetch(url, into, lambda done, total: None, signed=True))
    return into.read_bytes()


def test_a_url_of_s3_is_signed_with_the_servers_credentials(files, tmp_path, monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr("flowyard.platform.archives.web.Web.download", lambda self, url, *rest: _noted(asked, url, *rest))
    url = f"{files.url}/sse%20test/m.mar"
    signed_fetch(tmp_path, url, [files.url])
    (target,) = asked
    path, _, query = target.partition("?")
    assert path == "/sse%20test/m.mar"
    assert "X-Amz-Credential=someone%2F" in query
    assert "%2Feu-west-1%2Fs3%2Faws4_request" in query
    assert "X-Amz-Signature=" in query
    assert "hunter2" not in query


async def _noted(asked, url, shown, into, report):
    assert "Signature" not in shown
    asked.append(url.target)
    into.write_bytes(b"model")


@pytest.mark.parametrize("missing", [*AWS, None])
def test_without_credentials_it_is_asked_for_as_it_is(files, tmp_path, monkeypatch, missing):
    for name, value in AWS.items():
        if missing in (name, None):
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert signed_fetch(tmp_path, files.file("/m.mar", b"model"), [files.url]) == b"model"
    assert files.paths() == ["/m.mar"]


def test_without_the_package_it_is_refused(files, tmp_path, monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidRequestError, match=r"s3_sse_kms needs the package obstore: pip install 'flowyard\[cloud\]'"):
        signed_fetch(tmp_path, f"{files.url}/m.mar", [files.url])
