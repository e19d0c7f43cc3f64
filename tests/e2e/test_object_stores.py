"""Models in object stores and on the Hugging Face Hub, played by a server on the loopback."""

from __future__ import annotations

import base64
import json

import pytest
from support.archives import linear_onnx, zipped
from support.files import file_server
from support.objects import object_server
from support.server import running

ONNX = linear_onnx([[1.0], [2.0]])
MODEL = zipped({"model.onnx": ONNX})
MAX_BYTES = 100_000
SECRET = "hunter2hunter2"
COMMIT = "c0ffee" * 6 + "c0ff"

LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult><Name>models</Name><Prefix>{prefix}</Prefix><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"""
ITEM = '<Contents><Key>{}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"x"</ETag></Contents>'


@pytest.fixture(scope="module")
def files():
    with file_server() as started:
        yield started


@pytest.fixture(scope="module")
def objects():
    with object_server() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory, files, objects):
    env = {
        "AWS_ENDPOINT_URL": files.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "GOOGLE_BASE_URL": objects.url,
        "GOOGLE_ALLOW_HTTP": "true",
        "GOOGLE_BEARER_TOKEN": SECRET,
        "AZURE_STORAGE_ENDPOINT": objects.url,
        "AZURE_ALLOW_HTTP": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": "someone",
        "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(SECRET.encode()).decode(),
        "HF_ENDPOINT": files.url,
        "HF_TOKEN": f"hf_{SECRET}",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "FLOWYARD_ALLOWED_URLS": "s3://models gs://models az://models hf://owner",
        "FLOWYARD_MAX_ARCHIVE_SIZE_BYTES": str(MAX_BYTES),
        "FLOWYARD_FETCH_ATTEMPTS": "1",
    }
    with running(tmp_path_factory.mktemp("server"), env=env) as started:
        yield started


def listing(files, prefix, *items):
    text = LISTING.format(prefix=prefix, items="".join(ITEM.format(*item) for item in items))
    files.file("/models", text.encode())


def repository(files, name, **sizes):
    siblings = [{"rfilename": file.replace("__", "."), "size": size} for file, size in sizes.items()]
    info = json.dumps({"id": f"owner/{name}", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
    for revision in ("", "/revision/main", "/revision/v1"):
        files.file(f"/api/models/owner/{name}{revision}", info.encode())


def register(http, **params):
    return http.post("/models", params=params)


def left_behind(server):
    return [path.name for path in (server.state_dir / "archives" / "tmp").iterdir()]


def test_an_object(http, files):
    files.file("/models/team/object.zip", MODEL)
    answer = register(http, url="s3://models/team/object.zip?topK=1")
    assert (answer.status_code, answer.json()) == (200, {"status": 'Model "object" registered.'}), answer.text
    assert http.post("/predictions/object", json=[[1.0, 1.0]]).json() == [[3.0]]
    ((_, headers),) = [seen for seen in files.requests if seen[0] == "/models/team/object.zip"]
    assert "someone" in headers["authorization"]


def test_a_folder_of_objects(http, files):
    listing(files, "team/folder/", ("team/folder/", 0), ("team/folder/model.onnx", len(ONNX)), ("team/folder/a/b.txt", 2))
    files.file("/models/team/folder/model.onnx", ONNX)
    files.file("/models/team/folder/a/b.txt", b"hi")
    assert register(http, url="s3://models/team/folder/").status_code == 200
    assert http.post("/predictions/folder", json=[[1.0, 1.0]]).json() == [[3.0]]


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_other_stores(server, http, objects, scheme):
    objects.objects = {("models", "team/net.zip"): MODEL, ("models", "team/net/model.onnx"): ONNX, ("models", "team/net/a"): b"a"}
    for name, url in ((f"{scheme}1", "models/team/net.zip"), (f"{scheme}2", "models/team/net/")):
        answer = register(http, url=f"{scheme}://{url}", model_name=name)
        assert answer.status_code == 200, answer.text
        assert http.post(f"/predictions/{name}", json=[[1.0, 1.0]]).json() == [[3.0]]
    objects.statuses = {("models", ""): 403}
    denied = register(http, url=f"{scheme}://models/team/net/", model_name="denied")
    objects.statuses = {}
    assert (denied.status_code, "does not let the server in" in denied.json()["message"]) == (400, True)
    elsewhere = register(http, url=f"{scheme}://other/team/net.zip")
    assert (elsewhere.status_code, "allowed_urls" in elsewhere.json()["message"]) == (403, True)
    assert SECRET not in server.log.read_text()


def test_a_repository(http, files):
    repository(files, "net", model__onnx=len(ONNX), README__md=2)
    files.file(f"/owner/net/resolve/{COMMIT}/model.onnx", ONNX)
    files.file(f"/owner/net/resolve/{COMMIT}/README.md", b"hi")
    answer = register(http, url="hf://owner/net@v1")
    assert (answer.status_code, answer.json()) == (200, {"status": 'Model "net_v1" registered.'}), answer.text
    assert http.post("/predictions/net_v1", json=[[1.0, 1.0]]).json() == [[3.0]]
    sent = [headers for path, headers in files.requests if path.endswith("/model.onnx")]
    assert sent[-1]["Authorization"] == f"Bearer hf_{SECRET}"


def test_a_file_of_a_repository_that_lies_elsewhere(http, files):
    with file_server() as elsewhere:
        repository(files, "single", model__onnx=len(ONNX), other__bin=2 * MAX_BYTES)
        files.redirect(f"/owner/single/resolve/{COMMIT}/model.onnx", elsewhere.file("/cdn?sig=x", ONNX))
        answer = register(http, url="hf://owner/single/model.onnx")
    assert (answer.status_code, "not public" in answer.json()["message"]) == (403, True), answer.text
    files.redirect(f"/owner/single/resolve/{COMMIT}/model.onnx", "/lfs/model")
    files.file("/lfs/model", ONNX)
    assert register(http, url="hf://owner/single/model.onnx").status_code == 200
    assert http.post("/predictions/model_onnx", json=[[1.0, 1.0]]).json() == [[3.0]]


@pytest.mark.parametrize("case", ["no object", "no folder", "denied", "broken", "large", "large folder", "upwards"])
def test_objects_that_cannot_be_had(server, http, files, case):
    url = "s3://models/x.zip"
    files.status("/models/x.zip", {"denied": 403, "broken": 500}.get(case, 404))
    listing(files, "x/", *{"large folder": [("x/a", MAX_BYTES), ("x/b", 1)], "upwards": [("x/../../a", 1)]}.get(case, []))
    files.status("/models/a", 404)
    if case == "large":
        files.file("/models/x.zip", bytes(MAX_BYTES + 1))
    if case in ("no folder", "large folder", "upwards"):
        url = "s3://models/x/"
    status, word = {
        "no object": (404, "Invalid model url"),
        "no folder": (404, "nothing is below it"),
        "denied": (400, "does not let the server in"),
        "broken": (503, "could not be fetched"),
        "large": (413, "max_archive_size_bytes"),
        "large folder": (413, "max_archive_size_bytes"),
        "upwards": (400, "no file can have"),
    }[case]
    answer = register(http, url=url, model_name="failing")
    assert (answer.status_code, word in answer.json()["message"]) == (status, True), answer.text
    assert SECRET not in answer.text + server.log.read_text()
    assert left_behind(server) == []


@pytest.mark.parametrize(
    ("url", "status", "word"),
    [
        ("hf://owner/absent", 404, "Invalid model url"),
        ("hf://owner", 400, "hf://OWNER/MODEL"),
        ("hf://owner/big", 413, "max_archive_size_bytes"),
        ("hf://owner/big/absent.onnx", 404, "has nothing there"),
        ("hf://owner/bad--name..x", 404, "Invalid model url"),
        ("hf://other/net", 403, "allowed_urls"),
    ],
)
def test_repositories_that_cannot_be_had(server, http, files, url, status, word):
    repository(files, "big", model__onnx=MAX_BYTES + 1)
    answer = register(http, url=url, model_name="failing")
    assert (answer.status_code, word in answer.json()["message"]) == (status, True), answer.text
    assert SECRET not in answer.text + server.log.read_text()
    assert left_behind(server) == []
