"""`flowyard models`, `workflows` and `predict` as a user types them, against a real server."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
from support import commands
from support.archives import linear_onnx, zipped
from support.loopback import SILENCE, answer, loopback
from support.server import running, wait_until

STEPS = """
import itertools
import pathlib
import time

def count(value):
    for number in range(value):
        yield {"n": number}

def breaks(value):
    yield 1
    raise ValueError("half way")

def endless(value):
    folder = pathlib.Path(value)
    try:
        for number in itertools.count():
            yield "x" * 10_000
    finally:
        (folder / "closed").touch()

def gated(value):
    folder = pathlib.Path(value)
    (folder / "began").touch()
    yield "first"
    while not (folder / "go").exists():
        time.sleep(0.005)
    yield "second"

def echo(value):
    return value

def nasty(value):
    return "clear\\x1b[2Jed"
"""
FUNCTIONS = ("count", "breaks", "endless", "gated", "echo", "nasty")
COMMAND = (sys.executable, "-m", "flowyard.platform.cli.main")


@pytest.fixture(scope="module")
def url(server):
    return str(server.client.base_url).rstrip("/")


@pytest.fixture(scope="module", autouse=True)
def sources(http, tmp_path_factory):
    for name in FUNCTIONS:
        text = f"name: {name}\nfunctions: {{f: steps:{name}}}\nworkflow:\n  out: [f, in]\n"
        assert http.post("/workflows", content=zipped({"workflow.yaml": text, "steps.py": STEPS})).status_code == 200
    folder = tmp_path_factory.mktemp("sources")
    (folder / "linear.onnx").write_bytes(linear_onnx([[1.0, 10.0], [2.0, 20.0]]))
    assert http.post("/models", params={"model_name": "linear"}, content=(folder / "linear.onnx").read_bytes()).status_code == 200
    return folder


@pytest.fixture
def flowyard(url, tmp_path):
    def run(*arguments, stdin=b"", env=None):
        done = commands.run(*arguments, stdin=stdin, env={"FLOWYARD_URL": url} | (env or {}), cwd=tmp_path)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    return run


def on_terminal(*arguments, url, columns=120):
    """Runs a command with its output and errors on a terminal; status and what was shown there."""
    main, side = pty.openpty()
    env = os.environ | {"FLOWYARD_URL": url, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdin=side, stdout=side, stderr=side, env=env)
    os.close(side)
    shown = bytearray()
    while True:
        select.select([main], [], [], 60)
        try:
            data = os.read(main, 1 << 16)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(main)
    return process.wait(60), shown.decode()


def test_lists(flowyard, http):
    done = flowyard("models", "list")
    assert (done.returncode, done.stderr) == (0, b"")
    head, *rows = done.stdout.decode().splitlines()
    assert head.split() == ["MODEL", "VERSION", "STATUS", "URL"]
    (linear,) = [row for row in rows if row.startswith("linear ")]
    assert linear.split()[1] == "READY"
    assert head.index("STATUS") == linear.index("READY")
    names = [line.split()[0] for line in flowyard("workflows", "list").stdout.decode().splitlines()]
    assert {"linear", *FUNCTIONS} <= set(names)


def test_lists_as_the_server_tells_them(flowyard, http):
    assert flowyard("models", "list", "--json").stdout == http.get("/models").content
    assert flowyard("workflows", "list", "--json").stdout == http.get("/workflows").content
    page = flowyard("workflows", "list", "--json", "--limit", "2", "--next-page-token", "1")
    assert page.stdout == http.get("/workflows", params={"limit": 2, "next_page_token": 1}).content


def test_one_page(flowyard):
    done = flowyard("workflows", "list", "--limit", "1")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == b"there are more: --next-page-token 1\n"


def test_descriptions(flowyard, http):
    done = flowyard("models", "describe", "linear")
    assert done.returncode == 0
    text = done.stdout.decode()
    assert text.startswith("linear  READY  upload:sha256:")
    assert "OnnxRuntime  Healthy  cpu" in text
    assert "linear takes x: float32[?, 2]" in text
    described = flowyard("models", "describe", "linear", "--json")
    # What a worker takes of memory may have changed in between.
    told, now = (re.sub(rb'"memory": \d+', b"", text) for text in (described.stdout, http.get("/models/linear").content))
    assert told == now
    assert flowyard("workflows", "describe", "count", "--json").stdout == http.get("/workflows/count").content


def test_a_table_on_a_terminal(url):
    status, shown = on_terminal("models", "list", url=url)
    assert status == 0
    assert "┏━" in shown
    assert "linear" in shown
    assert "\x1b[32mREADY" in shown


def test_a_registration_by_upload_until_its_end(flowyard, sources):
    done = flowyard(
        "models", "register", sources / "linear.onnx", "--model-name", "mine", "--model-version", "v1", "--min-worker", 1
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b'Model "mine" registered.\n', b"")
    scaled = flowyard("models", "scale", "mine:v1", "--min-worker", "2", "--max-worker", "2")
    assert (scaled.returncode, b"min workers:2 max workers:2" in scaled.stdout) == (0, True)
    later = flowyard("models", "scale", "mine", "--max-worker", "3", "--asynchronous", "--json")
    assert json.loads(later.stdout) == {"status": "Worker updated"}
    assert flowyard("predict", "mine:v1", "--data", "[[1,1]]").stdout == b"[[3.0,30.0]]\n"
    gone = flowyard("models", "delete", "mine:v1")
    assert (gone.returncode, gone.stdout) == (0, b'Workflow "mine" unregistered\n')
    assert flowyard("models", "describe", "mine").returncode == 1


def test_a_registration_by_url(flowyard, server, sources):
    (server.model_store / "stored.onnx").write_bytes((sources / "linear.onnx").read_bytes())
    done = flowyard("models", "register", "stored.onnx", "--parameter", "batch_size=4", "--json")
    assert json.loads(done.stdout) == {"status": 'Model "stored_onnx" registered.'}
    (version,) = json.loads(flowyard("models", "describe", "stored_onnx", "--json").stdout)
    assert version["models"][0]["batchSize"] == 4
    assert flowyard("models", "delete", "stored_onnx", "--json").returncode == 0


def test_a_workflow_of_a_folder(flowyard, tmp_path):
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "steps.py").write_text(STEPS)
    (tmp_path / "flow" / "workflow.yaml").write_text("name: flow\nfunctions: {f: steps:echo}\nworkflow:\n  out: [f, in]\n")
    done = flowyard("workflows", "register", "flow", "--asynchronous")
    assert (done.returncode, done.stdout.decode()) == (0, 'Workflow "flow" registration scheduled.\nflow is ready\n')
    assert flowyard("workflows", "delete", "flow").stdout == b'Workflow "flow" unregistered\n'


def test_a_registration_that_fails_later(flowyard, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.py").write_text("import nothing_of_that_name\n\ndef predict(value):\n    return value\n")
    done = flowyard("models", "register", "broken", "--asynchronous")
    assert done.returncode == 1
    assert b"broken could not be started" in done.stderr
    assert b"nothing_of_that_name" in done.stderr
    assert b"FAILED" in flowyard("models", "list").stdout
    assert flowyard("models", "delete", "broken").returncode == 0
    detached = flowyard("models", "register", "broken", "--detach")
    assert (detached.returncode, detached.stdout) == (0, b'Model "broken" registration scheduled.\n')
    assert flowyard("models", "delete", "broken").returncode == 0


def test_bars_on_a_terminal(url, sources, flowyard):
    status, shown = on_terminal("models", "register", sources / "linear.onnx", "--model-name", "bars", "--asynchronous", url=url)
    assert status == 0
    assert "uploading" in shown
    assert "bars is ready" in shown
    assert flowyard("models", "delete", "bars").returncode == 0


def test_problems_come_as_a_compiler_tells_them(flowyard, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "workflow.yaml").write_text("name: x\nfunctions: {one: steps:one}\nworkflow:\n  out: [onne, in]\n")
    (tmp_path / "bad" / "steps.py").write_text("def one(x):\n    return x\n")
    done = flowyard("workflows", "register", "bad")
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert 'bad/workflow.yaml:4:9: error: unknown model or function "onne" (did you mean "one"?)' in lines
    told = flowyard("workflows", "register", "bad", "--json")
    assert json.loads(told.stdout)["problems"][0]["file"] == "workflow.yaml"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["models", "describe", "nothing"], 1, "Workflow not found: nothing"),
        (["models", "delete", "nothing"], 1, "not found: nothing"),
        (["models", "scale", "nothing", "--min-worker", "1"], 1, "not found: nothing"),
        (["models", "scale", "linear", "--min-worker", "9", "--max-worker", "2"], 1, "min_worker"),
        (["models", "register", "nothing.onnx"], 1, "no file or folder nothing.onnx here either"),
        (["models", "register", "https://127.0.0.1:1/m.zip"], 1, "allowed_urls"),
        (["models", "register", "x", "--parameter", "batch_sise=1"], 1, "Did you mean batch_size?"),
        (["models", "list", "--limit", "-1"], 1, "Parameter limit"),
        (["predict", "nothing", "--data", "1"], 1, "not found: nothing"),
        (["predict", "linear:v9", "--data", "1"], 1, "not found: linear"),
        (["predict", "linear", "--data", '"text"'], 1, "linear"),
        (["predict", "count", "--data", "1", "--priority", "12"], 2, "priority 12"),
        (["predict", "count", "--data", "1", "--header", "nothing"], 2, "KEY:VALUE"),
        (["predict", "count", "--data", "{"], 2, "not JSON"),
        (["predict", "count", "--data", "@nothing"], 2, "nothing: no such file"),
        (["predict", "count", "nothing.json"], 2, "nothing.json: no such file"),
        (["predict", "count", "nothing.json", "--data", "1"], 2, "only one"),
        (["predict", "count"], 2, "--data"),
        (["predict", "count", "--data", "1", "--output", "no/such/folder/x"], 2, "no/such/folder/x"),
        (["predict", "..", "--data", "1"], 2, "no name"),
        (["models", "describe", ":v1"], 2, "NAME:VERSION"),
        (["models", "set-default", "linear"], 2, "NAME:VERSION"),
        (["models", "weights", "linear", "v1"], 2, "VERSION:SHARE"),
        (["models", "scale", "linear"], 2, "--min-worker"),
        (["models", "scale", "linear", "--min-worker", "x"], 2, "--min-worker"),
        (["models", "register", "./nothing.onnx"], 2, "no such file"),
        (["adapters", "register", "m", "a", "/x", "--parameter", "pin"], 2, "KEY=VALUE"),
        (["results", "fetch", "m", "t", "--max-items", "0"], 2, "--max-items 0"),
        (["predict", "m", "--data", "1", "--detach", "--stream"], 2, "--detach"),
        (["models", "register", "."], 2, "no file in this folder"),
        (["models", "list", "--url", "localhost"], 2, "http://localhost?"),
        (["models", "list", "--url", "https://localhost", "--ca-file", "nothing"], 2, "--ca-file nothing"),
        (["models", "frobnicate"], 2, "frobnicate"),
        (["models", "list", "--url", "http://127.0.0.1:1"], 3, "no connection to http://127.0.0.1:1"),
        (["predict", "m", "--data", "1", "--url", "http://name.invalid"], 3, "no connection to http://name.invalid"),
    ],
)
def test_mistakes_get_a_message_and_a_status(flowyard, arguments, status, words):
    done = flowyard(*arguments)
    assert (done.returncode, done.stdout) == (status, b""), done.stderr
    assert words.lower() in " ".join(done.stderr.decode().split()).lower()


def test_a_mistake_that_is_typed(tmp_path):
    # In a process of its own also because the HTTP client leaves a Unix socket open that it cannot connect.
    process = started("models", "list", url="unix:/nothing", cwd=tmp_path)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (3, b"")
    assert errors.startswith(b"flowyard: no connection to unix:/nothing")


def test_a_refusal_as_json(flowyard):
    done = flowyard("models", "describe", "nothing", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "code": 404,
        "type": "ModelNotFoundException",
        "message": "Workflow not found: nothing",
    }
    assert done.stderr == b"flowyard: Workflow not found: nothing\n"
    assert json.loads(flowyard("predict", "nothing", "--data", "1", "--json").stdout)["code"] == 404


def test_predictions_from_everywhere(flowyard, tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    (tmp_path / "x.txt").write_text("words")
    for arguments, stdin in [
        (("x.json",), b""),
        (("--data", '{"a": 1}'), b""),
        (("--data", "@x.json"), b""),
        (("-",), b'{"a": 1}'),
        (("--data", "@-"), b'{"a": 1}'),
    ]:
        done = flowyard("predict", "echo", *arguments, stdin=stdin)
        assert (done.returncode, done.stdout) == (0, b'{"a":1}\n'), arguments
    assert flowyard("predict", "echo", "x.txt").stdout == b"words"
    assert flowyard("predict", "echo", "--data", "words", "--content-type", "text/plain").stdout == b"words"
    assert flowyard("predict", "echo", "-", stdin=b"\x00\xff").stdout == b"\x00\xff"
    assert flowyard("predict", "echo", "--data", "-5").stdout == b"-5\n"


def test_tensors(flowyard, tmp_path, url):
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    done = flowyard("predict", "linear", "x.npy", "--output", "y.npy")
    assert (done.returncode, done.stdout) == (0, b"")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[3, 30]])
    assert (tmp_path / "y.npy").stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert flowyard("predict", "linear", "x.npy", "--accept", "application/json").stdout == b"[[3.0,30.0]]\n"
    assert flowyard("predict", "linear", "x.npy").stdout.startswith(b"\x93NUMPY")
    status, shown = on_terminal("predict", "linear", tmp_path / "x.npy", url=url)
    assert (status, "[[ 3. 30.]]" in shown) == (0, True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_refusal_leaves_no_output(flowyard, tmp_path):
    (tmp_path / "y").write_text("before")
    assert flowyard("predict", "nothing", "--data", "1", "--output", "y").returncode == 1
    assert flowyard("predict", "breaks", "--data", "1", "--output", "y", "--stream").returncode == 3
    assert (tmp_path / "y").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_text_from_a_model_cannot_steer_a_terminal(url, flowyard):
    status, shown = on_terminal("predict", "nasty", "--data", "1", url=url)
    assert (status, "clear\\x1b[2Jed" in shown) == (0, True)
    assert flowyard("predict", "nasty", "--data", "1").stdout == b"clear\x1b[2Jed\n"


def test_a_timeline(flowyard):
    done = flowyard("predict", "linear", "--data", "[[1,1]]", "--trace")
    assert (done.returncode, done.stdout) == (0, b"[[3.0,30.0]]\n")
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("linear  status 200  ")
    assert lines[1].startswith("linear |")
    assert "batch 1, worker" in lines[1]


def test_the_timeline_of_a_stream_is_fetched(flowyard):
    done = flowyard("predict", "count", "--data", "2", "--stream", "--trace")
    assert (done.returncode, done.stdout) == (0, b'{"n":0}\n{"n":1}\n')
    assert done.stderr.decode().splitlines()[1].startswith("out |")


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["models", "weights", "m", "v1:90", "v2=10"], "PUT /models/m?weights=v1%3A90%2Cv2%3A10"),
        (["workflows", "weights", "m", "v1:1"], "PUT /workflows/m?weights=v1%3A1"),
        (["models", "weights", "m", "none"], "PUT /models/m?weights=none"),
        (["models", "set-default", "m:v1"], "PUT /models/m/v1/set-default"),
        (["workflows", "set-default", "m:v1", "--off"], "DELETE /workflows/m/v1/set-default"),
        (["models", "rollback", "m", "--to", "v1"], "POST /models/m/rollback?version=v1"),
        (
            ["adapters", "register", "m", "a", "/x", "--parameter", "pin=true"],
            "POST /models/m/adapters?pin=true&name=a&src=%2Fx",
        ),
        (["adapters", "update", "m", "a", "--parameter", "pin=false"], "POST /models/m/adapters/a/update?pin=false"),
        (["adapters", "update", "m", "a", "/y"], "POST /models/m/adapters/a/update?src=%2Fy"),
        (["adapters", "delete", "m", "a"], "DELETE /models/m/adapters/a"),
        (["results", "cancel", "m", "t"], "DELETE /predictions/m"),
        (["models", "shadow", "m:v2"], "PUT /models/m/v2?shadow=true"),
        (["models", "shadow", "m:v2", "--off"], "PUT /models/m/v2?shadow=false"),
        (["workflows", "register", "w.zip", "--engine", "PyTorch"], "POST /workflows?url=w.zip&engine=PyTorch"),
        (["models", "register", "m", "--trusted", "--sha256", "a"], "POST /models?url=m&trusted=true&sha256=a"),
    ],
)
def test_what_commands_ask_for(flowyard, arguments, target):
    with loopback(answer(b'{"status": "done"}')) as server:
        done = flowyard(*arguments, "--url", server.url, env={"FLOWYARD_TOKEN": "secret"})
        assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr
        (request,) = server.requests
        assert request.startswith(target.encode() + b" HTTP/1.1\r\n")
        assert b"\r\nauthorization: bearer secret\r\n" in request.lower()


def test_adapters_are_shown(flowyard):
    one = {"name": "a", "src": "/a", "preload": True, "pin": False}
    pages = [{"adapters": [one], "nextPageToken": "1"}, {"adapters": [{**one, "name": "b", "pin": True}]}]
    with loopback(*(answer(json.dumps(page).encode()) for page in [*pages, one])) as server:
        listed = flowyard("adapters", "list", "m", "--url", server.url).stdout.decode()
        assert [line.split() for line in listed.splitlines()] == [
            ["ADAPTER", "PRELOAD", "PIN", "SOURCE"],
            ["a", "yes", "no", "/a"],
            ["b", "yes", "yes", "/a"],
        ]
        assert "/a" in flowyard("adapters", "describe", "m", "a", "--url", server.url).stdout.decode()
        assert [request.split(b" HTTP")[0] for request in server.requests] == [
            b"GET /models/m/adapters",
            b"GET /models/m/adapters?next_page_token=1",
            b"GET /models/m/adapters/a",
        ]


def test_results_that_nobody_waits_for(flowyard, tmp_path):
    token = flowyard("predict", "count", "--data", "3", "--detach").stdout.decode().strip()
    lines = b'{"n":0}\n{"n":1}\n{"n":2}\n'
    assert flowyard("results", "wait", "count", token).stdout == lines
    assert flowyard("results", "wait", "count", token, "--output", tmp_path / "x").stdout == b""
    assert (tmp_path / "x").read_bytes() == lines
    part = flowyard("results", "fetch", "count", token, "--max-items", 2)
    assert part.stdout == b'{"n":0}\n{"n":1}\n'
    further = part.stderr.decode().split()[-1]
    rest = flowyard("results", "fetch", "count", further)
    assert (rest.stdout, rest.stderr) == (b'{"n":2}\n', b"")
    cancelled = flowyard("results", "cancel", "count", token)
    assert (cancelled.returncode, cancelled.stdout) == (0, f"Asynchronous request {token} forgotten\n".encode())
    gone = flowyard("results", "wait", "count", token)
    assert (gone.returncode, b"Invalid x-starting-token" in gone.stderr) == (1, True)


def test_a_result_that_is_not_complete_in_time(flowyard, tmp_path):
    token = flowyard("predict", "gated", "--data", json.dumps(str(tmp_path)), "--detach").stdout.decode().strip()
    wait_until((tmp_path / "began").exists)
    late = flowyard("results", "wait", "gated", token, "--timeout", "0.2")
    assert (late.returncode, b"not complete after 0.2 s" in late.stderr) == (3, True)
    assert flowyard("results", "cancel", "gated", token).stdout == f"Asynchronous request {token} cancelled\n".encode()


def test_one_version_is_followed_whatever_became_of_the_others(flowyard):
    scheduled = answer(b'{"status": "Model \\"m\\" registration scheduled."}', "202 Accepted")
    done = answer(b'[{"workflowName": "m", "version": "v2", "models": [], "status": "READY"}]')
    with loopback(scheduled, done) as server:
        arguments = ("models", "register", "x", "--model-version", "v2", "--asynchronous", "--url", server.url)
        assert flowyard(*arguments).returncode == 0
        assert [request.split(b" HTTP")[0] for request in server.requests] == [
            b"POST /models?url=x&model_version=v2&synchronous=false",
            b"GET /models/m/v2",
        ]


def test_versions_that_share_requests_are_described(flowyard):
    shared = {"workflowName": "m", "models": [], "status": "READY"}
    counts = {"sent": 3, "answered": 2, "failed": 1, "skipped": 0}
    versions = [
        shared | {"version": "v1", "weight": 90, "default": True},
        shared | {"version": "v2", "shadow": True, "shadowRequests": counts},
        shared | {"version": "v3", "status": "FAILED", "reason": "no such module"},
    ]
    with loopback(answer(json.dumps(versions).encode())) as server:
        text = flowyard("models", "describe", "m", "--url", server.url).stdout.decode()
    assert "m:v1  READY  default  weight 90" in text
    assert "m:v2  READY  shadow (3 sent, 2 answered, 1 failed, 0 skipped)" in text
    assert "m:v3  FAILED\nreason: no such module" in text


def test_a_unix_socket_and_a_trace(flowyard, tmp_path):
    timing = "a;start=0;dur=1, b;start=1;dur=2"
    with loopback(answer(b"5", server_timing=timing), path=tmp_path / "socket") as server:
        done = flowyard("predict", "m", "--data", "1", "--trace", "--url", server.url)
        assert (done.returncode, done.stdout) == (0, b"5\n")
        assert [line.split()[0] for line in done.stderr.decode().splitlines()] == ["a", "b", "total"]
        assert b"\r\nx-flowyard-trace: 1\r\n" in server.requests[0].lower()


def test_headers_go_along(flowyard):
    done = flowyard("predict", "echo", "--data", "1", "--header", "x-priority: none", "--timeout", "5")
    assert (done.returncode, b"x-priority" in done.stderr) == (1, True)


def test_pieces(flowyard):
    assert flowyard("predict", "count", "--data", "2", "--stream").stdout == b'{"n":0}\n{"n":1}\n'
    events = flowyard("predict", "count", "--data", "2", "--stream", "--accept", "text/event-stream")
    assert events.stdout == b'{"n":0}\n{"n":1}\n'
    assert flowyard("predict", "count", "--data", "2").stdout == b'{"n":0}\n{"n":1}\n'


def test_a_stream_that_fails(flowyard):
    broken = flowyard("predict", "breaks", "--data", "1", "--stream")
    assert (broken.returncode, broken.stdout, b"broke off" in broken.stderr) == (3, b"1\n", True)
    told = flowyard("predict", "breaks", "--data", "1", "--stream", "--accept", "text/event-stream")
    assert (told.returncode, told.stdout, b"half way" in told.stderr) == (1, b"1\n", True)


def started(*arguments, url, **options):
    command = [*COMMAND, *map(str, arguments)]
    env = os.environ | {"FLOWYARD_URL": url}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, **options)


def test_pieces_are_printed_as_they_come_and_ctrl_c_ends_it(url, tmp_path):
    process = started("predict", "gated", "--data", json.dumps(str(tmp_path)), "--stream", url=url)
    assert process.stdout.read(5) == b"first"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")
    (tmp_path / "go").touch()


def test_ctrl_c_during_a_registration_says_what_goes_on(tmp_path):
    with loopback(SILENCE) as server:
        process = started("models", "register", "m.onnx", url=server.url, cwd=tmp_path)
        wait_until(lambda: server.requests)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, b"goes on with" in errors, b"Traceback" in errors) == (130, True, False)


def test_a_reader_that_leaves_ends_the_command_and_the_stream(url, tmp_path):
    process = started("predict", "endless", "--data", json.dumps(str(tmp_path)), "--stream", url=url)
    assert process.stdout.read(1) == b"x"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), errors) == (141, b"")
    wait_until((tmp_path / "closed").exists)


def test_a_reader_that_leaves_a_list(url):
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen([*COMMAND, "models", "list", "--url", url], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (141, b"")


def test_an_output_that_is_full_closed_or_of_few_characters(url, tmp_path):
    def listed(redirection, **env):
        command = (
            f"exec {sys.executable} -m flowyard.platform.cli.main predict echo --data '\"\u00fc\"' --url {url} {redirection}"
        )
        return subprocess.run(command, shell=True, capture_output=True, env=os.environ | env, check=False)

    full = listed("> /dev/full")
    assert (full.returncode, full.stderr) == (1, b"flowyard: the output cannot be written: No space left on device\n")
    closed = listed(">&-")
    assert (closed.returncode, closed.stderr) == (0, b"")
    folder = tmp_path / "n\u00f6"
    folder.mkdir()
    (folder / "workflow.yaml").write_text("name: x\nworkflow:\n  out: [id, in]\n")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    few = subprocess.run([*COMMAND, "check", folder.name], capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert (few.returncode, few.stdout) == (0, b"n\\xf6: workflow x is valid\n")


def test_a_server_that_goes_away_in_mid_stream(tmp_path):
    with running(tmp_path) as server:
        text = "name: gated\nfunctions: {f: steps:gated}\nworkflow:\n  out: [f, in]\n"
        server.client.post("/workflows", content=zipped({"workflow.yaml": text, "steps.py": STEPS}))
        process = started("predict", "gated", "--data", json.dumps(str(tmp_path)), "--stream", url=str(server.client.base_url))
        assert process.stdout.read(5) == b"first"
        server.kill()
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, b"broke off" in errors, b"Traceback" in errors) == (3, True, False)


def test_the_variables_of_the_client_are_no_unknown_settings(tmp_path):
    with running(tmp_path, env={"FLOWYARD_URL": "http://x", "FLOWYARD_TOKEN": "secret"}) as server:
        assert "FLOWYARD_" not in server.log.read_text()
