"""What was acknowledged is there whatever happens: kills, a full disk, a damaged database, a second server."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.archives import zipped
from support.server import ServerProcess, running, wait_until

ROOT = Path(__file__).resolve().parents[2]


def constant(text: str, padding: int = 0) -> bytes:
    """A model that always answers the same."""
    return zipped({"model.py": f"def predict(value):\n    return {text!r}\n", "padding.bin": os.urandom(padding)})


def register(http, name, archive, **params):
    return http.post("/models", params={"model_name": name, "engine": "Python", **params}, content=archive)


def asked(http, path):
    return http.post(f"/predictions/{path}", json=1).text


@contextlib.contextmanager
def no_more_than(server: ServerProcess, size_bytes: int):
    """Lets no file of the server grow beyond a size: like a full disk, but for tests without a file system of their own."""
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_nothing_acknowledged_is_lost_by_kills():
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert "nothing acknowledged was lost" in done.stdout


def test_an_archive_that_does_not_fit_leaves_nothing(tmp_path):
    with running(tmp_path) as server:
        http = server.client
        (server.model_store / "large.zip").write_bytes(constant("large", padding=2 << 20))
        with no_more_than(server, 1 << 20):
            answers = [
                register(http, "a", constant("large", padding=2 << 20)),
                register(http, "a", constant("large", padding=2 << 20), synchronous="false"),
                http.post("/models", params={"url": "large.zip"}),
            ]
            assert [answer.status_code for answer in answers] == [507, 507, 507]
            assert {answer.json()["type"] for answer in answers} == {"InsufficientStorageException"}
            assert str(tmp_path) not in answers[0].text
            assert http.get("/state").json() == {"names": []}
        for kept in ("tmp", "sha256"):
            assert not list((server.state_dir / "archives" / kept).iterdir())
        assert register(http, "a", constant("large", padding=2 << 20)).status_code == 200
        assert asked(http, "a") == "large"


def test_changes_that_cannot_be_recorded_are_not_made(tmp_path):
    with running(tmp_path, "--log-level", "error", env={"FLOWYARD_ACCESS_LOG": "false"}) as server:
        http = server.client
        for version in ("v1", "v2"):
            assert register(http, "m", constant(version), model_version=version).status_code == 200
        before = http.get("/state").json()
        with no_more_than(server, 4096):
            answers = [
                register(http, "n", constant("n")),
                register(http, "m", constant("v3"), model_version="v1", replace="true"),
                http.put("/models/m/v1?max_worker=5"),
                http.put("/models/m?weights=v1:1,v2:3"),
                http.put("/models/m/v2/set-default"),
                http.put("/models/m/v2?shadow=true"),
                http.delete("/models/m/v1"),
                http.delete("/models/m"),
            ]
            # Workers have files, too: their shared memory.
            assert [answer.status_code for answer in answers] == [503] * 2 + [507] * 6, [answer.text for answer in answers]
            assert http.get("/state").json() == before
            assert {asked(http, "m/v1"), asked(http, "m/v2")} == {"v1", "v2"}
        assert http.put("/models/m/v1?max_worker=5").status_code == 200
        after = http.get("/state").json()
        server.kill()
        server.start()
        assert server.client.get("/state").json() == after


def test_a_second_server_on_the_same_directory_is_refused(tmp_path):
    with running(tmp_path) as server:
        second = tmp_path / "second"
        second.mkdir()
        other = ServerProcess(second)
        other.state_dir = server.state_dir
        with pytest.raises(AssertionError, match=rf"in use by another server \(process {server.process.pid}\)"):
            other.start()
        assert server.client.get("/ping").status_code == 200


def damage(database: Path, how: str) -> None:
    content = bytearray(database.read_bytes())
    if how == "no database":
        content[:] = b"not a database at all, " * 200
    elif how == "half of it":
        del content[len(content) // 2 :]
    else:
        content[4096 + 8 : 4096 + 300] = os.urandom(292)
    database.write_bytes(content)


@pytest.mark.parametrize("how", ["no database", "half of it", "a broken page", "gone"])
def test_a_damaged_registry_is_set_aside_and_rebuilt(tmp_path, how):
    with running(tmp_path) as server:
        http = server.client
        for version in ("v1", "v2"):
            assert register(http, "m", constant(version), model_version=version).status_code == 200
        assert register(http, "other", constant("other")).status_code == 200
        assert http.put("/models/m?weights=v1:1,v2:3").status_code == 200
        assert http.put("/models/m/v1?max_worker=4").status_code == 200
        before = http.get("/state").json()
        server.stop()
        database = server.state_dir / "registry.sqlite"
        if how == "gone":
            database.unlink()
        else:
            damage(database, how)
        damaged = database.read_bytes() if how != "gone" else b""
        server.start()
        assert server.client.get("/state").json() == before
        assert asked(server.client, "m/v2") == "v2"
        aside = list(server.state_dir.glob("registry.sqlite.damaged-*"))
        assert [path.read_bytes() for path in aside] == ([damaged] if how != "gone" else [])
        log = server.log.read_text()
        assert "rebuilt from its copies" in log
        assert ("is damaged and was set aside" in log) == (how != "gone")


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    with running(tmp_path) as server:
        server.stop()
        database = server.state_dir / "registry.sqlite"
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA user_version=99")
        with pytest.raises(AssertionError, match="written by a newer flowyard"):
            server.start()
        server.process = None
        assert not list(server.state_dir.glob("*damaged*"))


def test_one_that_cannot_be_brought_up_does_not_stop_the_others(tmp_path):
    gated = "from pathlib import Path\nassert not Path({gate!r}).exists()\ndef predict(value):\n    return 'gated'\n"
    gate = tmp_path / "gate"
    with running(tmp_path) as server:
        http = server.client
        for name in ("a", "c"):
            assert register(http, name, constant(name)).status_code == 200
        assert register(http, "b", zipped({"model.py": gated.format(gate=str(gate))})).status_code == 200
        gate.touch()
        server.kill()
        server.start()
        (failed,) = server.client.get("/models/b").json()
        assert (failed["status"], "AssertionError" in failed["reason"]) == ("FAILED", True)
        assert [asked(server.client, name) for name in ("a", "c")] == ["a", "c"]
        log = server.log.read_text()
        assert '"done":3,"of":3' in log


def test_rollback_goes_back_and_survives(tmp_path):
    with running(tmp_path, env={"FLOWYARD_ROLLBACK_VERSIONS": "2"}) as server:
        http = server.client
        assert register(http, "m", constant("one"), model_version="v1").status_code == 200
        assert register(http, "m", constant("two"), model_version="v2").status_code == 200
        assert http.put("/models/m?weights=v1:1,v2:1").status_code == 200
        assert http.post("/workflows/m/rollback").status_code == 200
        assert {asked(http, "m") for _ in range(4)} == {"one"}
        assert http.post("/models/m/rollback").status_code == 404
        assert http.delete("/models/m/v2").status_code == 200
        assert http.post("/models/m/rollback", params={"version": "v2"}).status_code == 200
        assert asked(http, "m") == "two"
        assert register(http, "m", constant("three"), model_version="v2", replace="true").status_code == 200
        assert asked(http, "m") == "three"
        assert http.post("/models/m/rollback", params={"version": "v2"}).status_code == 200
        server.kill()
        server.start()
        assert asked(server.client, "m") == "two"
        assert server.client.post("/models/m/rollback", params={"version": "v7"}).status_code == 404
        changes = server.client.get("/audit", params={"name": "m"}).json()["changes"]
        assert [change["action"] for change in changes][:3] == ["rollback", "replace", "rollback"]
        assert {change["who"] for change in changes} == {"127.0.0.1"}


def test_what_nobody_can_go_back_to_leaves_the_disk(tmp_path):
    with running(tmp_path, env={"FLOWYARD_ROLLBACK_VERSIONS": "0"}) as server:
        assert register(server.client, "m", constant("m")).status_code == 200
        assert server.client.delete("/models/m").status_code == 200
        assert server.client.post("/models/m/rollback").status_code == 404
        wait_until(lambda: not list((server.state_dir / "archives" / "sha256").iterdir()))


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path):
    with running(tmp_path) as server:
        http = server.client
        assert register(http, "m", constant("old")).status_code == 200
        broken = zipped({"model.py": "raise RuntimeError('no')\n"})
        assert register(http, "m", broken, replace="true").status_code == 400
        assert register(http, "m", constant("new"), replace="true", synchronous="false").status_code == 400
        assert register(http, "m", constant("new")).status_code == 409
        assert asked(http, "m") == "old"
        assert register(http, "m", constant("new"), replace="true").status_code == 200
        assert asked(http, "m") == "new"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/audit?limit=x", "limit"),
        ("/audit?nme=m", "Did you mean name"),
        ("/audit?next_page_token=-1", "next_page_token"),
        ("/state?all=1", "Unknown parameter: all"),
    ],
)
def test_wrong_questions_are_refused_by_name(http, path, words):
    answer = http.get(path)
    assert answer.status_code == 400
    assert words in answer.json()["message"]


def test_history_comes_in_pages(http):
    for number in range(3):
        assert register(http, f"page{number}", constant("x")).status_code == 200
    first = http.get("/audit", params={"limit": 2}).json()
    second = http.get("/audit", params={"limit": 2, "next_page_token": first["nextPageToken"]}).json()
    names = [change["name"] for page in (first, second) for change in page["changes"]]
    assert names[:3] == ["page2", "page1", "page0"]
