"""Objects and folders of objects out of the three kinds of stores, played by a server on the loopback."""

from __future__ import annotations

import asyncio

import pytest
from support.objects import object_server

from flowyard.platform.archives.fetch import FetchLimits
from flowyard.platform.archives.objects import fetch_objects
from flowyard.platform.archives.remote import parse_url
from flowyard.schemas.errors import InvalidArchiveError, InvalidRequestError, ModelNotFoundError, TooLargeError, UnavailableError

LIMITS = FetchLimits(connect_s=5, read_s=5, total_s=10, attempts=1, max_bytes=1000, max_files=4)
KEY = "aHVudGVyMmh1bnRlcjI="
#: The environment of a server that reads from a stand-in, and what its requests are signed with.
STORES = {
    "s3": (
        {"AWS_ENDPOINT_URL": "{url}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        | {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": KEY},
        "AWS4-HMAC-SHA256 Credential=someone/",
    ),
    "gs": ({"GOOGLE_BASE_URL": "{url}", "GOOGLE_ALLOW_HTTP": "true", "GOOGLE_BEARER_TOKEN": "ya29.x"}, "Bearer ya29.x"),
    "az": (
        {"AZURE_STORAGE_ENDPOINT": "{url}", "AZURE_ALLOW_HTTP": "true"}
        | {"AZURE_STORAGE_ACCOUNT_NAME": "someone", "AZURE_STORAGE_ACCOUNT_KEY": KEY},
        "SharedKey someone:",
    ),
    "az, its emulator": (
        {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": "{url}", "AZURE_ALLOW_HTTP": "true"}
        | {"AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1", "AZURE_STORAGE_ACCOUNT_KEY": KEY},
        "SharedKey devstoreaccount1:",
    ),
}


@pytest.fixture(params=STORES)
def kind(request):
    return request.param


@pytest.fixture
def objects(kind, monkeypatch):
    with object_server() as started:
        if "emulator" in kind:
            started.account = "devstoreaccount1"
        for name, value in STORES[kind][0].items():
            monkeypatch.setenv(name, value.format(url=started.url))
        yield started


def fetch(kind, place, into):
    url = f"{kind[:2]}://{place}"
    seen = []
    asyncio.run(fetch_objects(parse_url(url), url, into, lambda *progress: seen.append(progress), LIMITS))
    return seen


def test_one_object(kind, objects, tmp_path):
    objects.objects["models", "team/a b+ü.zip"] = b"content"
    seen = fetch(kind, "models/team/a%20b%2B%C3%BC.zip", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
    assert seen[-1] == (7, 7)
    assert all(headers["authorization"].startswith(STORES[kind][1]) for _, headers in objects.requests)


def test_all_objects_of_a_folder_over_several_pages(kind, objects, tmp_path):
    for key in ("net/", "net/a.onnx", "net/b/c.txt", "net/b/d.txt", "net/e", "network/x", "other"):
        objects.objects["models", key] = key.encode()
    fetch(kind, "models/net/", tmp_path / "x")
    found = {path.relative_to(tmp_path / "x").as_posix(): path.read_bytes() for path in (tmp_path / "x").rglob("*.*")}
    assert found == {"a.onnx": b"net/a.onnx", "b/c.txt": b"net/b/c.txt", "b/d.txt": b"net/b/d.txt"}
    assert sum("prefix=" in target for target, _ in objects.requests) == 3


@pytest.mark.parametrize(
    ("place", "statuses", "error", "words"),
    [
        ("models/absent.zip", {}, ModelNotFoundError, "Invalid model url"),
        ("models/absent/", {}, ModelNotFoundError, "nothing is below it"),
        ("nowhere/x.zip", {}, ModelNotFoundError, "Invalid model url"),
        ("nowhere/x/", {}, ModelNotFoundError, "Invalid model url"),
        ("models/x.zip", {"x.zip": 403}, InvalidRequestError, "does not let the server in"),
        ("models/x.zip", {"x.zip": 401}, InvalidRequestError, "does not let the server in"),
        ("models/x/", {"": 403}, InvalidRequestError, "does not let the server in"),
        ("models/x/", {"": 401}, InvalidRequestError, "does not let the server in"),
        ("models/x.zip", {"x.zip": 500}, UnavailableError, "could not be fetched"),
        ("models/x/", {"": 500}, UnavailableError, "could not be fetched"),
        ("models/large", {}, TooLargeError, "max_archive_size_bytes"),
        ("models/larger/", {}, TooLargeError, "max_archive_size_bytes"),
        ("models/many/", {}, TooLargeError, "max_archive_files"),
        ("models/up/", {}, InvalidArchiveError, "no file can have"),
    ],
)
def test_what_cannot_be_had_is_told(kind, objects, tmp_path, place, statuses, error, words):
    objects.objects |= {("models", "large"): bytes(1001), ("models", "larger/a"): bytes(600), ("models", "larger/b"): bytes(600)}
    objects.objects |= {("models", f"many/{number}"): b"" for number in range(5)} | {("models", "up/../../x"): b"x"}
    objects.statuses = {("models", key): status for key, status in statuses.items()}
    with pytest.raises(error, match=words) as raised:
        fetch(kind, place, tmp_path / "x")
    assert KEY not in str(raised.value)
    assert objects.url not in str(raised.value)
