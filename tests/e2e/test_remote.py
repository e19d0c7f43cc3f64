"""Models and workflows at remote URLs: fetched where the settings allow it, refused by the name of the setting where not."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import yaml
from support.archives import linear_onnx, zipped
from support.files import file_server
from support.server import running, wait_until

ONNX = linear_onnx([[1.0], [2.0]])
MODEL = zipped({"model.onnx": ONNX})
WORKFLOW = "name: {name}\nmodels: {{m: '{url}'}}\nworkflow:\n  out: [m, in]\n"
MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def files():
    with file_server() as started:
        yield started


@pytest.fixture(scope="module")
def allowed_env(files):
    return {
        "FLOWYARD_ALLOWED_URLS": f"{files.url}/,http://localhost:{files.port}/public/,s3://bucket/",
        "FLOWYARD_MAX_ARCHIVE_SIZE_BYTES": str(MAX_BYTES),
        "FLOWYARD_FETCH_READ_TIMEOUT_S": "0.5",
        "FLOWYARD_FETCH_TOTAL_TIMEOUT_S": "20",
        "FLOWYARD_FETCH_ATTEMPTS": "2",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory, allowed_env):
    with running(tmp_path_factory.mktemp("server"), env=allowed_env) as started:
        yield started


def temporary(server) -> list[str]:
    return [path.name for path in (server.state_dir / "archives" / "tmp").iterdir()]


def stored(server) -> set[str]:
    return {path.name for path in (server.state_dir / "archives" / "sha256").iterdir()}


def entry(client, name):
    (info,) = client.get(f"/models/{name}").json()
    return info


def test_a_model_is_fetched_and_described_by_its_url(http, files):
    url = files.file("/mlp.zip", MODEL)
    answer = http.post("/models", params={"url": url})
    assert (answer.status_code, answer.json()) == (200, {"status": 'Model "mlp" registered.'})
    assert http.post("/predictions/mlp", json=[[1.0, 1.0]]).json() == [[3.0]]
    assert entry(http, "mlp")["models"][0]["modelUrl"] == url
    ((_, headers),) = [seen for seen in files.requests if seen[0] == "/mlp.zip"]
    assert headers["Host"] == f"127.0.0.1:{files.port}"
    assert headers["Accept-Encoding"] == "identity"


def test_a_single_model_file_and_a_workflow(http, files):
    files.file("/plain.onnx", ONNX)
    assert http.post("/models", params={"url": f"{files.url}/plain.onnx"}).status_code == 200
    assert http.post("/predictions/plain_onnx", json=[[1.0, 1.0]]).json() == [[3.0]]
    archive = zipped({"workflow.yaml": WORKFLOW.format(name="flow", url="model.onnx"), "model.onnx": ONNX})
    answer = http.post("/workflows", params={"url": files.file("/anything.zip", archive)})
    assert (answer.status_code, answer.json()) == (200, {"status": 'Workflow "flow" registered.'})


def test_redirects_that_stay_where_it_is_allowed(http, files):
    files.file("/public/end.zip", MODEL)
    files.redirect("/hop", "/public/hop2", 301)
    files.redirect("/public/hop2", f"http://localhost:{files.port}/public/end.zip?signature=x", 307)
    assert http.post("/models", params={"url": f"{files.url}/hop", "model_name": "hopped"}).status_code == 200


@pytest.mark.parametrize("waiting", ["true", "false"])
def test_what_is_loaded_at_the_start_may_be_remote(tmp_path, files, allowed_env, waiting):
    env = allowed_env | {"FLOWYARD_WAIT_MODEL_LOADING": waiting}
    with running(tmp_path, "--load", f"first={files.file('/first.zip', MODEL)}", env=env) as server:
        wait_until(lambda: entry(server.client, "first")["status"] == "READY")
        assert server.client.post("/predictions/first", json=[[1.0, 1.0]]).json() == [[3.0]]


def test_the_operator_has_to_allow_it_too(tmp_path, files):
    with pytest.raises(AssertionError, match="setting allowed_urls"), running(tmp_path, "--load", f"{files.url}/first.zip"):
        pass


def test_the_query_goes_to_the_server_and_to_the_model(http, files):
    files.file("/asked.zip", MODEL)
    url = f"{files.url}/asked.zip?topK=1&translator=x%20y"
    assert http.post("/models", params={"url": url}).status_code == 200
    assert "/asked.zip?topK=1&translator=x%20y" in files.paths()
    assert entry(http, "asked")["models"][0]["modelUrl"] == url


def test_the_query_of_a_file_url_says_nothing_of_the_path(server, http):
    (server.model_store / "local.onnx").write_bytes(ONNX)
    url = f"file:{server.model_store}/local.onnx?topK=1"
    assert http.post("/models", params={"url": url, "model_name": "local"}).status_code == 200
    assert entry(http, "local")["models"][0]["modelUrl"] == url


def test_a_transient_failure_is_tried_again(http, files):
    url = files.status("/flaky.zip", 503, then=MODEL)
    assert http.post("/models", params={"url": url}).status_code == 200
    assert files.paths().count("/flaky.zip") == 2


FAILURES = {
    "nothing there": (lambda files: f"{files.url}/nothing.zip", 404, ["Invalid model url", "404"], 1),
    "a refusal": (lambda files: files.status("/refused", 401, 401), 400, ["401"], 1),
    "a server that is broken": (lambda files: files.status("/broken", 500, 502, 500), 503, ["502", "2 tries"], 2),
    "a truncated body": (lambda files: files.truncated("/truncated.zip", MODEL), 503, ["incomplete"], 2),
    "a server that stops talking": (lambda files: files.gated("/silent.zip", MODEL)[0], 503, ["ReadTimeout"], 2),
    "more than allowed, announced": (
        lambda files: files.file("/large.zip", bytes(MAX_BYTES + 1)),
        413,
        ["max_archive_size_bytes"],
        1,
    ),
    "more than allowed, not announced": (lambda files: files.endless("/endless.zip"), 413, ["max_archive_size_bytes"], 1),
    "no archive": (lambda files: files.file("/no.zip", MODEL[:-30]), 400, ["zip"], 1),
    "a redirect to another port": (
        lambda files: files.redirect("/port", f"http://127.0.0.1:{files.port + 1}/x.zip"),
        403,
        ["allowed_urls", "redirected"],
        1,
    ),
    "a redirect to a private address": (
        lambda files: files.redirect("/private", "http://169.254.169.254/latest/meta-data"),
        403,
        ["allowed_urls", "169.254.169.254"],
        1,
    ),
    "a redirect to a path that is not allowed": (
        lambda files: files.redirect("/path", f"http://localhost:{files.port}/mlp.zip"),
        403,
        ["allowed_urls"],
        1,
    ),
    "a redirect upwards": (
        lambda files: files.redirect("/up", f"http://localhost:{files.port}/public/../mlp.zip"),
        400,
        ["leads upwards"],
        1,
    ),
    "a redirect to a file": (lambda files: files.redirect("/file", "file:///etc/passwd"), 400, ["cannot be followed"], 1),
    "a redirect with a password": (
        lambda files: files.redirect("/password", f"http://me:hunter2@127.0.0.1:{files.port}/mlp.zip"),
        400,
        ["cannot be followed"],
        1,
    ),
    "redirects in circles": (lambda files: files.redirect("/circle", "/circle"), 400, ["more than 5 times"], 6),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_a_failure_leaves_nothing_or_an_entry_that_says_why(server, http, files, case, synchronous):
    make, status, words, requests = FAILURES[case]
    before, seen = stored(server), len(files.requests)
    url = make(files)
    answer = http.post("/models", params={"url": url, "model_name": "fails", "synchronous": synchronous})
    if synchronous == "true":
        assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
        reason = answer.json()["message"]
        assert http.get("/models/fails").status_code == 404
    else:
        assert answer.status_code == 202
        wait_until(lambda: entry(http, "fails")["status"] == "FAILED")
        reason = entry(http, "fails")["reason"]
        assert http.delete("/models/fails").status_code == 200
    assert all(word in reason for word in words), reason
    assert len(files.requests) - seen == requests
    assert "hunter2" not in reason + server.log.read_text()
    assert (temporary(server), stored(server)) == ([], before)


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("https://resources.djl.ai/test-models/mlp.tar.gz", 403, ["allowed_urls"]),
        ("http://127.0.0.1:1/mlp.zip", 403, ["allowed_urls"]),
        ("http://localhost:{port}/mlp.zip", 403, ["allowed_urls"]),
        ("http://127.1:{port}/mlp.zip", 400, ["four decimal numbers"]),
        ("http://2130706433:{port}/mlp.zip", 400, ["four decimal numbers"]),
        ("http://0x7f000001:{port}/mlp.zip", 400, ["four decimal numbers"]),
        ("http://0177.0.0.1:{port}/mlp.zip", 400, ["four decimal numbers"]),
        ("http://[::ffff:127.0.0.1]:{port}/mlp.zip", 403, ["allowed_urls"]),
        ("http://127.0.0.1.:{port}/mlp.zip", 400, ["four decimal numbers"]),
        ("http://me:hunter2@127.0.0.1:{port}/mlp.zip", 400, ["user name or password", "environment"]),
        ("http://127.0.0.1:{port}/mlp.zip?X-Amz-Signature=hunter2", 400, ["x-amz-signature", "environment"]),
        ("http://127.0.0.1:{port}/a/../mlp.zip", 400, ["leads upwards"]),
        ("http://127.0.0.1:{port}/a/%2e%2e/mlp.zip", 400, ["leads upwards"]),
        ("http://127.0.0.1:{port}/mlp.zip%00", 400, ["control characters"]),
        ("http://127.0.0.1:{port}/mlp\n.zip", 400, ["control characters"]),
        ("http://127.0.0.1:{port}\\@example.org/", 400, ["backslash"]),
        ("http://127.0.0.1:{port}/" + "x" * 9000, 400, ["characters"]),
        ("http:///mlp.zip", 400, ["http://HOST"]),
        ("http://127.0.0.1:99999/", 400, ["port 99999"]),
        ("ftp://me:hunter2@127.0.0.1/mlp.zip", 400, ["ftp: is not supported"]),
        ("file://me:hunter2@host/mlp.zip", 400, ["user name or password"]),
        ("gopher://127.0.0.1:{port}/", 400, ["gopher: is not supported"]),
        ("s3://other/x.onnx", 403, ["allowed_urls"]),
        ("hf://owner/model", 403, ["allowed_urls"]),
    ],
)
@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_urls_that_are_refused_at_once(server, http, files, url, status, words, synchronous):
    seen = len(files.requests)
    answer = http.post(
        "/models", params={"url": url.format(port=files.port), "model_name": "refused", "synchronous": synchronous}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
    assert all(word in answer.json()["message"] for word in words), answer.json()["message"]
    assert "hunter2" not in answer.text + server.log.read_text()
    assert http.get("/models/refused").status_code == 404
    assert len(files.requests) == seen


def test_nothing_is_allowed_unless_the_settings_say_so(tmp_path, files):
    with running(tmp_path) as server:
        for route in ("/models", "/workflows"):
            answer = server.client.post(route, params={"url": "https://resources.djl.ai/test-models/mlp.tar.gz"})
            assert (answer.status_code, answer.json()["type"]) == (403, "ForbiddenException")
            assert "setting allowed_urls" in answer.json()["message"]


def test_a_setting_that_cannot_be_read_stops_the_start(tmp_path):
    with (
        pytest.raises(AssertionError, match=r"allowed_urls: 'https://\*evil\.org' is not allowed"),
        running(tmp_path, env={"FLOWYARD_ALLOWED_URLS": "https://*evil.org"}),
    ):
        pass


@pytest.mark.parametrize("route", ["remote", "local", "upload"])
def test_the_digest_is_checked(server, http, files, route):
    digest = hashlib.sha256(MODEL).hexdigest()
    (server.model_store / "digest.zip").write_bytes(MODEL)
    url = {"remote": files.file("/digest.zip", MODEL), "local": "digest.zip", "upload": ""}[route]
    content = MODEL if route == "upload" else None
    params = {"url": url, "model_name": f"digest_{route}"}
    wrong = http.post("/models", params={**params, "sha256": "0" * 64}, content=content)
    assert (wrong.status_code, wrong.json()["type"]) == (400, "InvalidArchiveException")
    assert digest in wrong.json()["message"]
    assert "0" * 64 in wrong.json()["message"]
    assert http.post("/models", params={**params, "sha256": digest.upper()}, content=content).status_code == 200


def test_a_digest_that_is_none(server, http):
    answer = http.post("/models", params={"url": "x.zip", "sha256": "abc"})
    assert (answer.status_code, "sha256" in answer.json()["message"]) == (400, True)
    (server.model_store / "tree").mkdir()
    (server.model_store / "tree" / "model.onnx").write_bytes(ONNX)
    answer = http.post("/models", params={"url": "tree", "sha256": "0" * 64})
    assert (answer.status_code, "only a file has a digest" in answer.json()["message"]) == (400, True)


def test_nobody_waits_for_a_fetch_that_nobody_wants_to_wait_for(tmp_path, files, allowed_env):
    url, gate = files.gated("/later.zip", MODEL)
    with running(tmp_path, env=allowed_env | {"FLOWYARD_FETCH_READ_TIMEOUT_S": "60"}) as server:
        answer = server.client.post("/models", params={"url": url, "synchronous": "false"})
        assert (answer.status_code, answer.json()) == (202, {"status": 'Model "later" registration scheduled.'})
        assert entry(server.client, "later")["status"] == "PENDING"
        assert server.client.post("/models", params={"url": url, "synchronous": "false"}).status_code == 409
        assert server.client.post("/models", params={"url": url, "model_name": "later"}).status_code == 409
        gate.set()
        wait_until(lambda: entry(server.client, "later")["status"] == "READY")
        assert server.client.post("/predictions/later", json=[[1.0, 1.0]]).json() == [[3.0]]


def test_a_fetch_is_taken_up_again_after_a_crash(tmp_path, files, allowed_env):
    url, gate = files.gated("/resumed.zip", MODEL)
    with running(tmp_path, env=allowed_env | {"FLOWYARD_FETCH_READ_TIMEOUT_S": "60"}) as server:
        params = {"url": url, "synchronous": "false", "sha256": hashlib.sha256(MODEL).hexdigest()}
        assert server.client.post("/models", params=params).status_code == 202
        wait_until(lambda: temporary(server))
        server.kill()
        server.start()
        assert entry(server.client, "resumed")["status"] == "PENDING"
        gate.set()
        wait_until(lambda: entry(server.client, "resumed")["status"] == "READY")
        wait_until(lambda: not temporary(server))
        server.kill()
        server.start()
        assert server.client.post("/predictions/resumed", json=[[1.0, 1.0]]).json() == [[3.0]]
        assert files.paths().count("/resumed.zip") == 2


@pytest.mark.parametrize("end", ["unregister", "stop"])
def test_a_fetch_can_be_cut_short(tmp_path, files, allowed_env, end):
    url, _ = files.gated(f"/{end}.zip", MODEL)
    with running(tmp_path, env=allowed_env | {"FLOWYARD_FETCH_READ_TIMEOUT_S": "60"}) as server:
        assert server.client.post("/models", params={"url": url, "synchronous": "false"}).status_code == 202
        wait_until(lambda: temporary(server))
        if end == "unregister":
            assert server.client.delete("/models/unregister").status_code == 200
            wait_until(lambda: not temporary(server))
        else:
            assert server.stop() == 0
            assert temporary(server) == []


def test_stopping_does_not_wait_for_a_fetch_that_somebody_waits_for(tmp_path, files, allowed_env):
    url, _ = files.gated("/waited.zip", MODEL)
    env = allowed_env | {"FLOWYARD_FETCH_READ_TIMEOUT_S": "60", "FLOWYARD_FETCH_TOTAL_TIMEOUT_S": "60"}
    with running(tmp_path, env=env | {"FLOWYARD_DRAIN_TIMEOUT_S": "0.5"}) as server, ThreadPoolExecutor(1) as threads:
        base_url = str(server.client.base_url)
        waiting = threads.submit(httpx2.post, f"{base_url}/models", params={"url": url}, timeout=60)
        wait_until(lambda: temporary(server))
        assert server.stop() == 0
        assert temporary(server) == []
        assert (waiting.result().status_code, "the server is stopping" in waiting.result().json()["message"]) == (503, True)


def test_an_unregistered_part_is_not_fetched_to_the_end(tmp_path, files, allowed_env):
    url, _ = files.gated("/cut.zip", MODEL)
    archive = zipped({"workflow.yaml": WORKFLOW.format(name="cut", url=url)})
    with running(tmp_path, env=allowed_env | {"FLOWYARD_FETCH_READ_TIMEOUT_S": "60"}) as server:
        assert server.client.post("/workflows", params={"synchronous": "false"}, content=archive).status_code == 202
        wait_until(lambda: temporary(server))
        assert server.client.delete("/workflows/cut").status_code == 200
        wait_until(lambda: not temporary(server) and not stored(server))


@pytest.mark.parametrize("name", ["flow.yml", "flow.json"])
def test_a_workflow_file_without_an_archive(http, files, name):
    text = WORKFLOW.format(name=name.replace(".", "_"), url=files.file("/lone.zip", MODEL))
    content = json.dumps(yaml.safe_load(text)) if name.endswith("json") else text
    answer = http.post("/workflows", params={"url": files.file(f"/{name}", content.encode())})
    assert answer.status_code == 200, answer.text
    assert http.post(f"/predictions/{name.replace('.', '_')}", json=[[1.0, 1.0]]).json() == [[3.0]]


def test_models_of_a_workflow_may_be_remote(tmp_path, files, allowed_env):
    url = files.file("/part.zip", MODEL)
    archive = zipped({"workflow.yaml": WORKFLOW.format(name="parted", url=f"{url}?topK=1")})
    with running(tmp_path, env=allowed_env | {"FLOWYARD_ROLLBACK_VERSIONS": "0"}) as server:
        assert server.client.post("/workflows", content=archive).status_code == 200
        assert server.client.post("/predictions/parted", json=[[1.0, 1.0]]).json() == [[3.0]]
        assert len(stored(server)) == 2
        server.kill()
        server.start()
        assert server.client.post("/predictions/parted", json=[[1.0, 1.0]]).json() == [[3.0]]
        assert files.paths().count("/part.zip?topK=1") == 1
        assert server.client.delete("/workflows/parted").status_code == 200
        assert stored(server) == set()
        later = server.client.post("/workflows", params={"synchronous": "false"}, content=archive)
        assert later.status_code == 202
        wait_until(lambda: entry(server.client, "parted")["status"] == "READY")


@pytest.mark.parametrize("url", ["nodes/m.zip", "{model_dir}/nodes/m.zip", "file://{model_dir}/nodes/m.zip"])
def test_a_model_of_a_workflow_may_be_an_archive_in_the_archive(tmp_path, url):
    text = WORKFLOW.replace("{url}", url).replace("{name}", "nested").replace("{{", "{").replace("}}", "}")
    with running(tmp_path) as server:
        assert server.client.post("/workflows", content=zipped({"workflow.yaml": text, "nodes/m.zip": MODEL})).status_code == 200
        server.kill()
        server.start()
        assert server.client.post("/predictions/nested", json=[[1.0, 1.0]]).json() == [[3.0]]
        assert len(stored(server)) == 2
        broken = zipped({"workflow.yaml": text.replace("nested", "broken"), "nodes/m.zip": MODEL[:-30]})
        answer = server.client.post("/workflows", content=broken)
        assert (answer.status_code, 'model "m"' in answer.json()["message"]) == (400, True), answer.text
        assert len(stored(server)) == 2


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("https://resources.djl.ai/mlp.zip", 403, ['model "m"', "allowed_urls"]),
        ("{url}/nothing.zip", 404, ['model "m"', "Invalid model url"]),
        ("http://me:hunter2@127.0.0.1/x.zip", 400, ['model "m"', "user name or password"]),
        ("file:///etc/hostname", 403, ['model "m"', "allowed_paths"]),
        ("/etc/hostname", 403, ['model "m"', "allowed_paths"]),
        ("djl://ai.djl/mlp", 400, ['model "m"', "djl: is not supported"]),
    ],
)
def test_models_of_a_workflow_follow_the_same_rules(server, http, files, model, status, words):
    before = stored(server)
    text = WORKFLOW.format(name="ruled", url=model.format(url=files.url))
    answer = http.post("/workflows", content=zipped({"workflow.yaml": text}))
    assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
    assert all(word in answer.json()["message"] for word in words), answer.json()["message"]
    assert "hunter2" not in answer.text + server.log.read_text()
    assert stored(server) == before


def test_a_model_of_a_workflow_may_lie_in_the_model_store(server, http):
    (server.model_store / "shared.zip").write_bytes(MODEL)
    text = WORKFLOW.format(name="lying", url=f"file://{server.model_store}/shared.zip")
    assert http.post("/workflows", content=zipped({"workflow.yaml": text})).status_code == 200
    assert http.post("/predictions/lying", json=[[1.0, 1.0]]).json() == [[3.0]]


def test_parameters_as_a_json_body(http, files):
    body = {"url": files.file("/body.zip", MODEL), "sha256": hashlib.sha256(MODEL).hexdigest()}
    answer = http.post("/models", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.json() == {"status": 'Model "body" registered.'}
