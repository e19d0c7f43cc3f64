"""Where the server listens: one address for each API, socket files, TLS."""

from __future__ import annotations

import hashlib
import signal
import socket
import ssl
import stat
import tempfile
import time
from pathlib import Path

import httpx2
import pytest
from support.archives import linear_onnx, zipped
from support.certificates import issue, trusting
from support.server import ServerProcess, running

NOT_FOUND = {
    "code": 404,
    "type": "ResourceNotFoundException",
    "message": "Requested resource is not found, please refer to API document.",
}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "given.onnx"
    path.write_bytes(linear_onnx([[5.0]]))
    return path


@pytest.fixture
def certificate(tmp_path):
    return issue(tmp_path)


@pytest.fixture
def trusts(certificate) -> ssl.SSLContext:
    return trusting(certificate)


@pytest.fixture
def path():
    """Of a socket file; such a path is short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "api.sock"


def refused(folder, *flags: str, **env: str) -> str:
    """What a server says that does not start."""
    server = ServerProcess(folder, *flags, env=env, host=None)
    with pytest.raises(AssertionError) as failed:
        server.start()
    assert "Traceback" not in str(failed.value)
    return str(failed.value)


def test_each_api_has_its_address(tmp_path, model):
    addresses = ("--inference-address", "http://127.0.0.1:0", "--management-address", "http://localhost:0")
    with running(tmp_path, "--load", f"m={model}", *addresses) as server:
        assert len(server.urls) == 2
        with server.client_of(server.urls[1]) as management:
            assert server.client.get("/ping").json() == {"m": {"status": "Healthy"}}
            assert server.client.post("/predictions/m", json=[1]).json() == [5.0]
            assert management.get("/models/m").json()[0]["workflowName"] == "m"
            assert management.put("/models/m", params={"min_worker": 1}).status_code == 200
            for client, method, path in [
                (server.client, "GET", "/models"),
                (server.client, "GET", "/models/m"),
                (server.client, "POST", "/models?url=x"),
                (server.client, "DELETE", "/workflows/m"),
                (server.client, "GET", "/schema"),
                (management, "GET", "/ping"),
                (management, "POST", "/predictions/m"),
                (management, "POST", "/models/m/invoke"),
            ]:
                answer = client.request(method, path, headers={"x-request-id": "mine"})
                assert (answer.status_code, answer.json()) == (404, NOT_FOUND), path
                assert answer.headers["x-request-id"] == "mine"
            assert {client.request("OPTIONS", "/").status_code for client in (server.client, management)} == {200}


def test_equal_addresses_are_one(tmp_path, model):
    env = {"SERVING_INFERENCE_ADDRESS": "http://127.0.0.1:0", "SERVING_MANAGEMENT_ADDRESS": "http://127.0.0.1:0/"}
    with running(tmp_path, "--load", f"m={model}", env=env) as server:
        assert len(server.urls) == 1
        assert server.client.get("/ping").json() == server.client.get("/ping/x").json() == {"m": {"status": "Healthy"}}
        assert server.client.get("/models").json()["models"][0]["modelName"] == "m"


def test_a_socket_file_is_made_and_removed(tmp_path, model, path):
    other = tmp_path / "other"
    other.mkdir()
    env = {"FLOWYARD_INFERENCE_ADDRESS": f"unix:{path}"}
    with running(tmp_path, "--load", f"m={model}", env=env, host=None) as server:
        assert server.urls == [f"unix:{path}"]
        assert server.client.post("/predictions/m", json=[2]).json() == [10.0]
        assert server.client.get("/models").status_code == 200
        assert "another server listens there" in refused(other, **env)
        assert server.client.get("/ping").status_code == 200
        server.stop()
        assert not path.exists()


def test_a_socket_file_that_a_killed_server_left_is_replaced(tmp_path, path):
    with running(tmp_path, env={"FLOWYARD_INFERENCE_ADDRESS": f"unix:{path}"}, host=None) as server:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        assert stat.S_ISSOCK(path.stat().st_mode)
        server.start()
        assert server.client.get("/ping").status_code == 200


def test_what_is_not_ours_is_not_removed(tmp_path, path):
    path.write_text("precious")
    assert "something that is no socket is there" in refused(tmp_path, FLOWYARD_INFERENCE_ADDRESS=f"unix:{path}")
    assert path.read_text() == "precious"
    path.unlink()
    with running(tmp_path, env={"FLOWYARD_INFERENCE_ADDRESS": f"unix:{path}"}, host=None) as server:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            server.stop()
            assert path.exists()


def test_socket_files_that_cannot_be_made(tmp_path):
    message = refused(tmp_path, FLOWYARD_INFERENCE_ADDRESS=f"unix:{tmp_path}/absent/api.sock")
    assert "absent/api.sock: No such file or directory" in message
    assert "AF_UNIX path too long" in refused(tmp_path, FLOWYARD_INFERENCE_ADDRESS=f"unix:/{'x' * 200}")


@pytest.mark.parametrize("by", ["files", "keystore"])
def test_https(tmp_path, certificate, trusts, model, by):
    files = {"certificate_file": certificate.chain, "private_key_file": certificate.key}
    config = tmp_path / "config.properties"
    given = files if by == "files" else {"keystore": certificate.keystore}
    config.write_text("".join(f"{key}={value}\n" for key, value in given.items()) + "inference_address=https://127.0.0.1:0\n")
    with running(tmp_path, "--config", str(config), "--load", f"m={model}", host=None, trusts=trusts) as server:
        assert server.urls[0].startswith("https://127.0.0.1:")
        assert server.client.post("/predictions/m", json=[1]).json() == [5.0]
        assert server.client.post("/predictions/m", content=b"[" + b"1," * 200_000 + b"1]").status_code == 400
        old = ssl.create_default_context()
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx2.ConnectError), httpx2.Client(verify=old) as client:
            client.get(server.urls[0] + "/ping")


def test_large_bodies_over_https(tmp_path, certificate, trusts):
    env = {"FLOWYARD_KEYSTORE": str(certificate.keystore), "FLOWYARD_INFERENCE_ADDRESS": "https://127.0.0.1:0"}
    workflow = "name: size\nfunctions: {f: 'steps:size'}\nworkflow:\n  out: [f, in]\n"
    steps = "import hashlib\n\ndef size(value):\n    return [len(value), hashlib.sha256(value).hexdigest()]\n"
    with running(tmp_path, env=env, host=None, trusts=trusts) as server:
        archive = zipped({"workflow.yaml": workflow, "steps.py": steps})
        assert server.client.post("/workflows", content=archive).status_code == 200
        for size in (70_000, 600_128, 3_000_000, 1000):
            body = bytes(range(251)) * (size // 251)
            answer = server.client.post("/predictions/size", content=body, headers={"content-type": "application/octet-stream"})
            assert answer.json() == [len(body), hashlib.sha256(body).hexdigest()]


def test_https_and_http_together(tmp_path, certificate, trusts, path):
    env = {
        "FLOWYARD_INFERENCE_ADDRESS": "https://127.0.0.1:0",
        "FLOWYARD_MANAGEMENT_ADDRESS": f"unix:{path}",
        "FLOWYARD_CERTIFICATE_FILE": str(certificate.chain),
        "FLOWYARD_PRIVATE_KEY_FILE": str(certificate.key),
    }
    with running(tmp_path, env=env, host=None, trusts=trusts) as server:
        assert server.client.get("/ping").json() == {}
        with server.client_of(server.urls[1]) as management:
            assert management.get("/models").json() == {"models": []}


def test_an_idle_tls_connection_does_not_hold_up_the_end(tmp_path, certificate, trusts):
    env = {"FLOWYARD_KEYSTORE": str(certificate.keystore), "FLOWYARD_INFERENCE_ADDRESS": "https://127.0.0.1:0"}
    with running(tmp_path, env=env, host=None, trusts=trusts) as server:
        assert server.client.get("/ping").status_code == 200
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 20


def test_https_without_a_certificate_is_refused(tmp_path):
    assert "set certificate_file and private_key_file (PEM), or keystore" in refused(
        tmp_path, FLOWYARD_INFERENCE_ADDRESS="https://127.0.0.1:0"
    )


def test_a_host_that_nobody_knows_is_said(tmp_path):
    assert "cannot listen on no-such-host.invalid:0" in refused(
        tmp_path, FLOWYARD_INFERENCE_ADDRESS="http://no-such-host.invalid:0", FLOWYARD_INSECURE="1"
    )
