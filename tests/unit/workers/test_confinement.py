"""The environment of workers and the limits of their command line."""

from __future__ import annotations

import pytest

from flowyard.platform.workers.confinement import Account, Confinement

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
