"""What workers get and may, seen from inside."""

from __future__ import annotations

import grp
import os
import pwd
import stat

import pytest
from support.accounts import STRANGER, open_folder, python_of_others
from support.archives import zipped
from support.server import ServerProcess, running

from flowyard.platform.access.keyring import TokenFile
from flowyard.platform.access.tokens import now_utc

FLOW = "name: look\nfunctions: {look: steps:look, burn: steps:burn, fill: steps:fill}\nworkflow:\n  out: [look, in]\n"
STEPS = """
import os, resource
def look(x):
    lines = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("CORE", "NOFILE", "AS", "CPU")}
    umask = os.umask(0o077); os.umask(umask)
    ids = [os.getuid(), os.getgid(), os.getgroups()]
    group = os.getpgid(0) == os.getpid() == os.getsid(0)
    fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return {"privs": lines["NoNewPrivs"], "limits": limits, "umask": umask, "ids": ids, "own": group, "env": dict(os.environ),
            "fds": [os.readlink(fd) for fd in fds if os.path.lexists(fd)]}
def burn(x):
    while True: pass
def fill(x): return len(bytearray(int(x)))
"""
SECRETS = {
    "FLOWYARD_TOKEN": "s3cret",
    "FLOWYARD_KEYSTORE_PASS": "s3cret",
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "AWS_SESSION_TOKEN": "s3cret",
    "GOOGLE_APPLICATION_CREDENTIALS": "s3cret",
    "AZURE_STORAGE_KEY": "s3cret",
    "HF_TOKEN": "s3cret",
    "HF_HUB_TOKEN": "s3cret",
    "TORCH_AUTH": "s3cret",
    "DATABASE_URL": "s3cret",
    "HTTPS_PROXY": "s3cret",
    "SSH_AUTH_SOCK": "s3cret",
}


def look(server, flow=FLOW):
    assert server.client.post("/workflows", content=zipped({"workflow.yaml": flow, "steps.py": STEPS})).status_code == 200
    answer = server.client.post("/predictions/look", json=1)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_workers_have_no_secrets_and_no_more_rights_than_they_need(tmp_path):
    with running(tmp_path, env=SECRETS | {"HF_HOME": "/hf", "OMP_PROC_BIND": "true", "HF_HUB_OFFLINE": "1"}) as server:
        seen = look(server)
        assert seen["privs"] == "1"
        assert seen["limits"]["CORE"] == [0, 0]
        assert seen["limits"]["NOFILE"][1] <= 65_536
        assert seen["limits"]["AS"] == seen["limits"]["CPU"] == [-1, -1]
        assert seen["umask"] == 0o077
        assert seen["own"]
        assert "s3cret" not in seen["env"].values()
        assert (seen["env"]["HF_HOME"], seen["env"]["OMP_PROC_BIND"], seen["env"]["HF_HUB_OFFLINE"]) == ("/hf", "true", "1")
        assert not [name for name in seen["env"] if name.startswith(("FLOWYARD", "AWS", "SERVING"))]
        # Nothing of the server's own is open in a worker: no database, no lock, no listener.
        assert not [path for path in seen["fds"] if str(tmp_path / "state") in path and "archives" not in path]


def test_what_workers_get_besides_is_said(tmp_path):
    with running(tmp_path, env=SECRETS | {"FLOWYARD_WORKER_ENV": "HF_TOKEN, DATABASE_URL"}) as server:
        seen = look(server)
        assert {name for name, value in seen["env"].items() if value == "s3cret"} == {"HF_TOKEN", "DATABASE_URL"}


def test_limits_of_the_settings(tmp_path):
    limits = {"WORKER_OPEN_FILES": "128", "WORKER_CPU_S": "100", "WORKER_ADDRESS_SPACE_BYTES": str(64 << 30)}
    with running(tmp_path, env={f"FLOWYARD_{name}": value for name, value in limits.items()}) as server:
        seen = look(server)
        assert seen["limits"]["NOFILE"] == [128, 128]
        assert seen["limits"]["CPU"] == [100, 100]
        assert seen["limits"]["AS"] == [64 << 30, 64 << 30]


def test_a_worker_that_takes_more_memory_than_it_may(tmp_path):
    with running(tmp_path, env={"FLOWYARD_WORKER_ADDRESS_SPACE_BYTES": str(8 << 30)}) as server:
        flow = FLOW.replace("out: [look, in]", "out: [fill, in]")
        assert server.client.post("/workflows", content=zipped({"workflow.yaml": flow, "steps.py": STEPS})).status_code == 200
        answer = server.client.post("/predictions/look", json=16 << 30)
        assert answer.status_code == 507, answer.text
        assert server.client.post("/predictions/look", json=16).json() == 16


def test_a_worker_that_computes_longer_than_it_may(tmp_path):
    with running(tmp_path, env={"FLOWYARD_WORKER_CPU_S": "4"}) as server:
        flow = FLOW.replace("out: [look, in]", "out: [burn, in]")
        assert server.client.post("/workflows", content=zipped({"workflow.yaml": flow, "steps.py": STEPS})).status_code == 200
        answer = server.client.post("/predictions/look", json=1)
        assert answer.status_code == 503, answer.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_group(tmp_path):
    gid = grp.getgrnam("nogroup").gr_gid
    with running(tmp_path, env={"FLOWYARD_WORKER_USER": "root:nogroup"}) as server:
        assert look(server)["ids"] == [0, gid, []]
        for folder in ("", "archives", "archives/sha256"):
            found = (server.state_dir / folder).stat()
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o710, gid), folder
        for name in ("registry.sqlite", "lock"):
            assert stat.S_IMODE((server.state_dir / name).stat().st_mode) == 0o600


PRYING = """
import os
def tried(what):
    try:
        return what()
    except PermissionError:
        return "refused"
def touch(path):
    with open(path, "w"): return path
def look(state):
    own, archives = os.path.dirname(__file__), os.path.join(state, "archives", "sha256")
    return {
        "ids": [list(os.getresuid()), list(os.getresgid()), os.getgroups()],
        "home": [os.environ["HOME"], os.environ["USER"]],
        "listed": tried(lambda: os.listdir(state)) + tried(lambda: os.listdir(archives)),
        "database": tried(lambda: open(os.path.join(state, "registry.sqlite"), "rb").read(1)),
        "tokens": tried(lambda: open(os.path.join(state, "tokens.json"), "rb").read(1)),
        "written": [tried(lambda: touch(os.path.join(folder, "x"))) for folder in (own, archives, state)],
        "server": [tried(lambda: open(f"/proc/{os.getppid()}/environ").read()), tried(lambda: os.kill(os.getppid(), 0))],
        "root": tried(lambda: os.setuid(0)),
        "group": tried(lambda: os.setgroups([0])),
    }
"""
NOBODY = pwd.getpwnam("nobody")


def a_token(tokens):
    after, _, text = tokens.create(["management", "inference"], now_utc())
    return after, text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("user", "uid", "gid", "home"),
    [
        ("nobody", NOBODY.pw_uid, NOBODY.pw_gid, [NOBODY.pw_dir, "nobody"]),
        (f"nobody:{STRANGER}", NOBODY.pw_uid, STRANGER, [NOBODY.pw_dir, "nobody"]),
        (f"{STRANGER}:{STRANGER}", STRANGER, STRANGER, ["/", str(STRANGER)]),
    ],
)
def test_another_user(user, uid, gid, home):
    with open_folder() as folder:
        found = python_of_others(folder)
        if found is None:
            pytest.skip("no Python here that another user may start")
        server = ServerProcess(folder, env={"FLOWYARD_WORKER_USER": user, **found[1]})
        server.python = found[0]
        token = TokenFile(server.state_dir).change(a_token)
        groups = os.getgroups()
        os.setgroups([0, 4, 20])
        try:
            server.start()
        finally:
            os.setgroups(groups)
        server.client.headers["authorization"] = f"Bearer {token}"
        try:
            text = "name: look\nfunctions: {look: steps:look}\nworkflow:\n  out: [look, in]\n"
            flow = zipped({"workflow.yaml": text, "steps.py": PRYING})
            assert server.client.post("/workflows", content=flow).status_code == 200, server.log.read_text()
            seen = server.client.post("/predictions/look", json=str(server.state_dir)).json()
        finally:
            assert server.stop() == 0
    assert seen["ids"] == [[uid] * 3, [gid] * 3, []]
    assert seen["home"] == home
    left = {key: value for key, value in seen.items() if key not in ("ids", "home")}
    assert left == {
        "listed": "refused" * 2,
        "database": "refused",
        "tokens": "refused",
        "written": ["refused"] * 3,
        "server": ["refused"] * 2,
        "root": "refused",
        "group": "refused",
    }


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("no-such-user", "there is no such user"),
        ("root:no-such-group", "there is no such group"),
        ("999999", "say 999999:GROUP"),
        (":x", "USER or USER:GROUP is expected"),
        ("4294967295:0", "over the largest number"),
    ],
)
def test_nobody_of_that_name(tmp_path, user, words):
    server = ServerProcess(tmp_path, env={"FLOWYARD_WORKER_USER": user})
    with pytest.raises(AssertionError, match=words):
        server.start()
    assert server.status == 1


def test_the_state_is_the_servers_own(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    with running(tmp_path) as server:
        assert stat.S_IMODE(server.state_dir.stat().st_mode) == 0o700
        look(server)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.state_dir.iterdir() if path.is_file()}
        assert set(modes.values()) == {0o600}, modes


def test_a_folder_of_others_is_left_as_it_is(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state" / "something").write_text("of somebody else")
    with running(tmp_path) as server:
        assert stat.S_IMODE(server.state_dir.stat().st_mode) == 0o755
        assert stat.S_IMODE((server.state_dir / "registry.sqlite").stat().st_mode) == 0o600
