"""`flowyard apply`, `export`, `history`, `inspect` and `rollback` against a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import commands
from support.archives import linear_onnx, zipped
from support.server import running

ADAPTECHO = Path(__file__).parents[1] / "contract/recorded/djl/fixtures/models/adaptecho"


def constant(text: str) -> bytes:
    return zipped({"model.py": f"def predict(value):\n    return {text!r}\n"})


def flowyard(*arguments, url=None):
    return commands.run_text(*arguments, *(["--url", url] if url else []))


FIRST = """name: {name}
versions:
- {{version: v1, url: one.zip, engine: Python, min_worker: 0, max_worker: 2}}
- {{version: v2, file: two.zip, engine: Python, batch_size: 4}}
weights: {{v1: 9, v2: 1}}
"""
SECOND = """name: {name}
versions:
- {{version: v1, url: one.zip, engine: Python, max_worker: 3}}
- {{version: v3, url: one.zip, engine: Python, workers: {{{name}: {{cpu: [1, 2]}}}}}}
default: v1
shadows: [v3]
"""


@pytest.fixture
def folder(server, tmp_path):
    (server.model_store / "one.zip").write_bytes(constant("one"))
    (tmp_path / "two.zip").write_bytes(constant("two"))
    return tmp_path


def names(http):
    return {item["name"]: item for item in http.get("/state").json()["names"]}


def test_makes_what_is_registered_what_is_wanted_and_then_nothing(server, http, folder):
    url = server.urls[0]
    (folder / "m.yaml").write_text(FIRST.format(name="made"))
    dry = flowyard("apply", folder, "--dry-run", url=url)
    assert (dry.returncode, "made" in names(http)) == (4, False)
    assert dry.stdout.splitlines() == ["+ made:v1  one.zip", "+ made:v2  two.zip", "~ made  weights v1:9,v2:1"]
    done = flowyard("apply", folder, url=url)
    assert done.returncode == 0, done.stderr
    assert http.post("/predictions/made/v2", json=1).text == "two"
    again = flowyard("apply", folder / "m.yaml", url=url)
    assert (again.returncode, again.stdout) == (0, "nothing to change\n")

    (folder / "m.yaml").write_text(SECOND.format(name="made"))
    changed = flowyard("apply", folder, url=url)
    assert changed.returncode == 0, changed.stderr
    state = names(http)["made"]
    assert [item["version"] for item in state["versions"]] == ["v1", "v3"]
    assert (state["default"], state["shadows"], "weights" in state) == ("v1", ["v3"], False)
    assert flowyard("apply", folder, "--dry-run", url=url).returncode == 0

    (folder / "two.zip").write_bytes(constant("new two"))
    (folder / "m.yaml").write_text("name: made\nversions: [{version: v1, file: two.zip, engine: Python}]\n")
    assert flowyard("apply", folder, url=url).returncode == 0
    assert http.post("/predictions/made", json=1).text == "new two"


def test_what_is_exported_is_there_already(server, http, folder, tmp_path):
    url = server.urls[0]
    (folder / "m.yaml").write_text(FIRST.format(name="exported"))
    assert flowyard("apply", folder, url=url).returncode == 0
    model = linear_onnx([[2.0]])
    flow = zipped(
        {
            "workflow.yaml": "name: exflow\nmodels: {a: m.onnx, b: m.onnx}\nworkflow:\n  x: [a, in]\n  out: [b, x]\n",
            "m.onnx": model,
        }
    )
    assert http.post("/workflows", content=flow).status_code == 200
    assert http.put("/workflows/exflow", params={"model": "b", "max_worker": 3}).status_code == 200
    out = tmp_path / "out"
    assert flowyard("export", "-o", out, url=url).returncode == 0
    again = flowyard("apply", out, "--prune", url=url)
    assert (again.returncode, again.stdout) == (0, "nothing to change\n"), again.stdout + again.stderr
    assert "workers:" in (out / "exflow.yaml").read_text()
    assert "name: exported" in flowyard("export", url=url).stdout


ADAPTED = """name: adapted
versions:
- version: v1
  file: adaptecho.zip
  engine: Python
  adapters:
    adapted:
    - {name: polite, src: /data/polite, options: {echooption: please, pin: true}}
    - {name: myBuiltinAdapter, src: adapters/myBuiltinAdapter}
- {version: v2, file: adaptecho.zip, engine: Python}
"""


def test_adapters_are_part_of_what_is_wanted(server, http, tmp_path):
    url = server.urls[0]
    (tmp_path / "adaptecho.zip").write_bytes(
        zipped({str(path.relative_to(ADAPTECHO)): path.read_text() for path in ADAPTECHO.rglob("*") if path.is_file()})
    )
    (tmp_path / "m.yaml").write_text(ADAPTED)
    dry = flowyard("apply", tmp_path, "--dry-run", url=url)
    assert "~ adapted:v1  adapters of adapted: polite, myBuiltinAdapter" in dry.stdout.splitlines()
    done = flowyard("apply", tmp_path, url=url)
    assert done.returncode == 0, done.stderr
    again = flowyard("apply", tmp_path, url=url)
    assert (again.returncode, again.stdout) == (0, "nothing to change\n")
    for adapter, answer in (("polite", "politepleasex"), ("myBuiltinAdapter", "myBuiltinAdapterx")):
        assert http.post("/predictions/adapted/v1", params={"adapter": adapter}, content="x").text == answer
    assert http.post("/predictions/adapted/v2", params={"adapter": "polite"}, content="x").status_code == 424

    out = tmp_path / "out"
    assert flowyard("export", "-o", out, url=url).returncode == 0
    text = (out / "adapted.yaml").read_text()
    assert text.count("adapters:") == 1
    assert flowyard("apply", out / "adapted.yaml", "--dry-run", url=url).stdout == "nothing to change\n"

    (tmp_path / "m.yaml").write_text(ADAPTED.replace("please", "kindly").replace("    - {name: myB", "    # - {name: myB"))
    changed = flowyard("apply", tmp_path / "m.yaml", url=url)
    assert changed.stdout.splitlines()[-1] == "done: ~ adapted:v1  adapters of adapted: polite"
    assert http.post("/predictions/adapted/v1", params={"adapter": "polite"}, content="x").text == "politekindlyx"
    assert http.post("/predictions/adapted/v1", params={"adapter": "myBuiltinAdapter"}, content="x").status_code == 424

    (tmp_path / "m.yaml").write_text(ADAPTED.replace("pin: true", "error: true"))
    refused = flowyard("apply", tmp_path / "m.yaml", url=url)
    assert refused.returncode == 1
    assert 'adapter "polite": invoke handler failure' in refused.stderr
    assert http.post("/predictions/adapted/v1", params={"adapter": "polite"}, content="x").text == "politekindlyx"


def test_names_that_are_not_listed_go_only_when_told(tmp_path, folder):
    place = tmp_path / "own"
    place.mkdir()
    with running(place) as server:
        url = server.urls[0]
        for name in ("keep", "drop"):
            params = {"model_name": name, "engine": "Python"}
            assert server.client.post("/models", params=params, content=constant(name)).status_code == 200
        (folder / "m.yaml").write_text(flowyard("export", url=url).stdout.split("---\n")[1])
        left = flowyard("apply", folder / "m.yaml", url=url)
        assert (left.returncode, left.stdout) == (0, "nothing to change\n")
        assert "drop" in left.stderr
        gone = flowyard("apply", folder / "m.yaml", "--prune", url=url)
        assert (gone.returncode, gone.stdout) == (0, "- drop\ndone: - drop\n")
        assert list(names(server.client)) == ["keep"]


def test_what_fails_is_told_and_the_other_names_go_on(server, http, folder):
    (folder / "a.yaml").write_text(
        "name: broken\nversions:\n- {url: nowhere.zip}\n- {version: v2, url: one.zip, engine: Python}\n"
    )
    (folder / "b.yaml").write_text("name: whole\nversions: [{url: one.zip, engine: Python}]\n")
    done = flowyard("apply", folder, url=server.urls[0])
    assert done.returncode == 1
    assert "nowhere.zip" in done.stderr
    assert "left out: + broken:v2  one.zip" in done.stderr
    assert "done: + whole:default  one.zip" in done.stdout
    assert names(http).keys() >= {"whole"}
    assert "broken" not in names(http)


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("name: m", 1, "m.yaml, document 1: Object missing required field `versions`"),
        ("name: m\nversions: [{url: 'upload:sha256:0'}]", 1, "was uploaded and is not here"),
        ("name: m\nversions: [{file: gone.zip}]", 1, "gone.zip: it cannot be read"),
    ],
)
def test_documents_that_cannot_be_applied_change_nothing(server, http, tmp_path, text, status, words):
    (tmp_path / "m.yaml").write_text(text)
    before = names(http)
    refused = flowyard("apply", tmp_path, url=server.urls[0])
    assert (refused.returncode, words in refused.stderr) == (status, True), refused.stderr
    assert names(http) == before


def test_nobody_there_is_status_three(tmp_path):
    (tmp_path / "m.yaml").write_text("name: m\nversions: [{url: a.zip}]\n")
    for arguments in (("apply", tmp_path), ("export",), ("history",)):
        # In processes of their own: the HTTP client leaves a Unix socket open that it cannot connect.
        command = [sys.executable, "-m", "flowyard.platform.cli.main", *map(str, arguments), "--url", f"unix:{tmp_path}/nobody"]
        assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 3


def test_history_and_rollback_from_the_command_line(server, http, folder):
    url = server.urls[0]
    for version, text in (("v1", "one"), ("v2", "two")):
        params = {"model_name": "rolled", "engine": "Python", "model_version": version}
        assert http.post("/models", params=params, content=constant(text)).status_code == 200
    back = flowyard("workflows", "rollback", "rolled", url=url)
    assert (back.returncode, "rolled back to rolled:v1" in back.stdout) == (0, True)
    assert flowyard("models", "rollback", "rolled", "--to", "v2", url=url).returncode == 0
    assert http.post("/predictions/rolled", json=1).text == "two"
    assert flowyard("workflows", "rollback", "rolled", "--to", "v9", url=url).returncode == 1
    told = flowyard("history", "rolled", url=url).stdout.splitlines()
    assert [line.split()[2:5] for line in told[1:]] == [
        ["rollback", "rolled", "v2"],
        ["rollback", "rolled", "v1"],
        ["register", "rolled", "v2"],
        ["register", "rolled", "v1"],
    ]
    page = json.loads(flowyard("history", "rolled", "--limit", "1", "--json", url=url).stdout)
    assert [change["action"] for change in page["changes"]] == ["rollback"]


def test_inspects_without_a_server(tmp_path):
    archive = tmp_path / "flow.zip"
    text = "name: flow\nversion: v1\nmodels: {m: m.onnx}\nworkflow:\n  out: [m, in]\n"
    archive.write_bytes(zipped({"workflow.yaml": text, "m.onnx": linear_onnx([[1.0]])}))
    told = flowyard("inspect", archive)
    assert (told.returncode, "workflow flow:v1" in told.stdout, "x: float32[?, 1]" in told.stdout) == (0, True, True)
    assert json.loads(flowyard("inspect", archive, "--json").stdout)["format"] == "zip"
    archive.write_bytes(zipped({"workflow.yaml": text}))
    broken = flowyard("inspect", archive)
    assert (broken.returncode, "m.onnx" in broken.stdout) == (1, True)
    assert flowyard("inspect", tmp_path / "nowhere").returncode == 1
