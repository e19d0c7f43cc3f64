"""Tokens, from the command line to a server that runs."""

from __future__ import annotations

import pytest
from support.archives import zipped
from support.commands import run_text
from support.server import ServerProcess, running

FLOW = "name: flow\nworkflow:\n  out: [id, in]\n"


def tokens(folder, *arguments, status=0):
    done = run_text("tokens", *arguments, "--state-dir", folder / "state")
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def create(folder, scope, *arguments):
    return tokens(folder, "create", "--scope", scope, *arguments).stdout.strip()


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_tokens_come_and_go_while_the_server_runs(tmp_path):
    with running(tmp_path) as server:
        http = server.client
        assert http.post("/workflows", content=zipped({"workflow.yaml": FLOW})).status_code == 200
        assert http.post("/predictions/flow", json=1).json() == 1
        inference = create(tmp_path, "inference")
        refused = http.post("/predictions/flow", json=1)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert http.get("/ping").status_code == 200
        assert http.post("/predictions/flow", json=2, headers=bearer(inference)).json() == 2
        assert http.get("/models", headers=bearer(inference)).status_code == 403
        both = create(tmp_path, "management,metrics", "--name", "ops", "--expires", "30d")
        assert http.get("/models", headers=bearer(both)).status_code == 200
        infer = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
        assert http.post("/v2/models/flow/infer", json=infer).json()["error"]
        rotated = tokens(tmp_path, "rotate", "ops", "--grace", "1h").stdout.strip()
        for token in (both, rotated):
            assert http.get("/models", headers=bearer(token)).status_code == 200
        tokens(tmp_path, "revoke", both.split("_")[1])
        assert http.get("/models", headers=bearer(both)).status_code == 401
        assert http.get("/models", headers=bearer(rotated)).status_code == 200
        listed = tokens(tmp_path, "list").stdout
        assert [line.split()[2] for line in listed.splitlines()[1:]] == ["inference", "management,metrics"]
        for token in (inference, both, rotated):
            secret = token.split("_", 2)[2]
            assert secret not in listed
            assert all(secret not in path.read_text(errors="replace") for path in server.state_dir.iterdir() if path.is_file())
            assert secret not in server.log.read_text()
        server.stop()
        server.start()
        assert server.client.post("/predictions/flow", json=1).status_code == 401
        assert server.client.post("/predictions/flow", json=3, headers=bearer(inference)).json() == 3


def test_an_expired_token_says_so(tmp_path):
    token = create(tmp_path, "inference", "--expires", "1s")
    with running(tmp_path) as server:

        def ask():
            return server.client.get("/v2", headers=bearer(token))

        answer = ask()
        while answer.status_code == 200:
            answer = ask()
        assert answer.status_code == 401
        assert "expired" in answer.json()["error"]
        assert "expired" in answer.headers["www-authenticate"]


def start(folder, *flags, **env):
    server = ServerProcess(folder, *flags, host=None, env={f"FLOWYARD_{key.upper()}": value for key, value in env.items()})
    with pytest.raises(AssertionError) as caught:
        server.start()
    assert server.status == 1
    return str(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        {"host": "0.0.0.0", "port": "0"},
        {"inference_address": "http://0.0.0.0:0"},
        {"inference_address": "http://[::]:0"},
        {"inference_address": "http://127.0.0.1:0", "management_address": "http://0.0.0.0:0"},
        {"inference_address": "http://192.0.2.1:0"},
    ],
)
def test_other_machines_are_not_served_without_tokens(tmp_path, where):
    told = start(tmp_path, **where)
    assert "can be reached from other machines" in told
    assert "flowyard tokens create" in told
    assert "--insecure" in told
    assert str(tmp_path / "state") in told


def test_other_machines_are_served_with_tokens_or_when_it_is_meant(tmp_path):
    with running(tmp_path, "--insecure", host="0.0.0.0") as server:
        assert server.client.get(f"http://127.0.0.1:{server.urls[0].rpartition(':')[2]}/models").status_code == 200
    create(tmp_path, "inference")
    with running(tmp_path, host="0.0.0.0") as server:
        assert server.client.get(f"http://127.0.0.1:{server.urls[0].rpartition(':')[2]}/models").status_code == 401


def test_socket_files_are_local(tmp_path):
    with running(tmp_path, host=None, env={"FLOWYARD_INFERENCE_ADDRESS": f"unix:{tmp_path}/socket"}) as server:
        assert server.client.get("/models").status_code == 200


def test_broken_tokens_keep_the_server_from_starting(tmp_path):
    create(tmp_path, "inference")
    (tmp_path / "state" / "tokens.json").write_text("{")
    assert "tokens.json cannot be used" in start(tmp_path, port="0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "--scope", "admin"], "inference, management, metrics"),
        (["create", "--scope", "inference", "--expires", "soon"], "--expires 'soon'"),
        (["create", "--scope", "inference", "--name", "a/b"], "letters, digits"),
        (["revoke", "nobody"], "no token with the id or name 'nobody'"),
        (["rotate", "nobody"], "no token with the id or name 'nobody'"),
        (["rotate", "nobody", "--grace", "0d"], "--grace '0d'"),
    ],
)
def test_mistakes_are_told(tmp_path, arguments, words):
    done = tokens(tmp_path, *arguments, status=1)
    assert words in done.stderr
    assert done.stdout == ""


def test_registration_can_be_switched_off(tmp_path):
    archive = tmp_path / "flow.zip"
    archive.write_bytes(zipped({"workflow.yaml": FLOW}))
    with running(tmp_path, "--disable-model-api", "--load", str(archive)) as server:
        http = server.client
        assert http.post("/predictions/flow", json=1).json() == 1
        for answer in (http.post("/workflows", content=archive.read_bytes()), http.delete("/workflows/flow")):
            assert answer.status_code == 405
            assert "enable_model_api" in answer.json()["message"]
        assert http.put("/workflows/flow").status_code == 200
        assert http.get("/models").status_code == 200
