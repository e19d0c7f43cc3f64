"""The environment of workers and the limits of their command line."""

from __future__ import annotations

import os
import sys

import pytest

from flowyard.platform.settings import Settings
from flowyard.platform.workers.confinement import Account, Confinement, check_can_work
from flowyard.schemas.errors import InvalidRequestError

USUAL = {"PATH": "/bin", "HOME": "/root", "LANG": "C", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "9", "HF_HOME": "/hf"}


@pytest.mark.parametrize(
    "name",
    [
        "FLOWYARD_TOKEN", "FLOWYARD_STATE_DIR", "SERVING_KEYSTORE_PASS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
        "AZURE_CLIENT_SECRET", "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN", "HF_API_KEY", "HF_HUB_PASSWORD",
        "TORCH_SECRET", "NVIDIA_API_KEY", "PIP_INDEX_URL",
        "HTTP_PROXY", "SSH_AUTH_SOCK", "LD_PRELOAD", "PYTHONSTARTUP", "KUBERNETES_SERVICE_HOST",
    ],
)  # fmt: skip
def test_what_is_not_passed_on_unless_it_is_said(name):
    environ = USUAL | {name: "value"}
    assert name not in Confinement().environment(environ, 2)
    assert Confinement(env=(name,)).environment(environ, 2)[name] == "value"


def test_what_is_passed_on():
    found = Confinement().environment(USUAL, 2)
    assert {name: found[name] for name in USUAL} == USUAL
    assert (found["MKL_NUM_THREADS"], found["PYTHONUNBUFFERED"]) == ("2", "1")


def test_another_user_has_a_home_of_its_own():
    found = Confinement(account=Account("nobody", 65534, 65534, "/nonexistent")).environment(USUAL, 1)
    assert (found["HOME"], found["USER"]) == ("/nonexistent", "nobody")


def test_limits():
    assert Confinement().arguments() == []
    assert Confinement(open_files=64, cpu_s=5).arguments() == ["--open-files", "64", "--cpu-s", "5"]


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def account(text):
    return Confinement.of(Settings(worker_user=text)).account


@ROOT
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root", Account("root", 0, 0, "/root")),
        ("0", Account("root", 0, 0, "/root")),
        ("root:54321", Account("root", 0, 54321, "/root")),
        ("54321:0", Account("54321", 54321, 0, "/")),
        ("4294967294:4294967294", Account("4294967294", 2**32 - 2, 2**32 - 2, "/")),
    ],
)
def test_whom_workers_run_as(text, expected):
    assert account(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no-such-user", "there is no such user: no-such-user"),
        ("root:no-such-group", "there is no such group: no-such-group"),
        ("54321", "uid 54321 has no name, and no group of its own: say 54321:GROUP"),
        (":", "USER or USER:GROUP is expected"),
        (":root", "USER or USER:GROUP is expected"),
        ("root:", "USER or USER:GROUP is expected"),
        ("root:root:root", "there is no such group: root:root"),
        ("-1", "there is no such user: -1"),
        ("0x0", "there is no such user: 0x0"),
        (" root", "there is no such user:  root"),
        ("\u0660", "there is no such user: \u0660"),
        ("4294967295:0", "4294967295 is over the largest number of a user or group, 4294967294"),
        ("0:4294967295", "4294967295 is over the largest number of a user or group"),
        ("9" * 5000 + ":0", "is over the largest number of a user or group"),
    ],
)
def test_who_nobody_is(text, words):
    with pytest.raises(InvalidRequestError) as refused:
        account(text)
    assert words in refused.value.message
    assert len(refused.value.message) < 400


def test_only_root_can_start_workers_as_somebody_else(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getegid", lambda: 54322)
    assert account("54321:54322") is None
    for text in ("root", "54321:54323", "54323:54322"):
        with pytest.raises(InvalidRequestError, match="only a server that runs as root"):
            account(text)


@ROOT
def test_an_account_that_cannot_run_workers_is_refused(tmp_path, monkeypatch):
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    nobody = Account("54321", 54321, 54321, "/")
    with pytest.raises(InvalidRequestError, match=r"54321 \(uid 54321, gid 54321\) cannot start a worker.*Permission|No such"):
        check_can_work(nobody)
    program.write_text("#!/bin/sh\necho first >&2\necho no module >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(InvalidRequestError, match=r"cannot start a worker.*: no module$"):
        check_can_work(Account("root", 0, 0, "/root"))
