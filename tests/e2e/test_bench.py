"""`flowyard bench` against a real server. Nothing here says how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.archives import linear_onnx

SHORT = ("--duration", "1s", "--warmup", "100ms")


def bench(*arguments: str, module: str = "flowyard.platform.cli.main", stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    words = ("bench", *arguments) if module.endswith("main") else arguments
    return subprocess.run([sys.executable, "-m", module, *words], input=stdin, capture_output=True, check=False)


@pytest.fixture(scope="module")
def url(http):
    model = linear_onnx([[1.0, 2.0], [3.0, 4.0]])
    assert http.post("/models", params={"model_name": "tiny"}, content=model).status_code == 200
    return str(http.base_url).rstrip("/")


def test_a_closed_loop_with_a_random_body(url):
    done = bench("tiny", "--url", url, "--connections", "1,4", *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [result["connections"] for result in results] == [1, 4]
    for result in results:
        assert list(result["statuses"]) == ["200"]
        assert result["errors"] == {}
        assert result["requests"] == result["statuses"]["200"] > 0


def test_an_open_loop_with_a_given_body(url):
    arguments = ("tiny", "--url", url, "--body", "-", "--content-type", "application/json", "--rate", "50", *SHORT)
    done = bench(*arguments, "--json", stdin=b"[[1, 2]]")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["loop"], result["rate_per_s"], result["errors"]) == ("open", 50, {})


@pytest.mark.parametrize("module", ["flowyard.platform.cli.main", "flowyard.platform.bench"])
def test_a_table_for_people_bounded_by_count(url, module):
    done = bench("tiny", "--url", url, "--connections", "2", "--requests", "50", "--warmup", "0s", module=module)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "2 connections" in text
    assert "p99.9 ms" in text
    assert " 50 " in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("unknown",), b'no model "unknown"'),
        (("tiny", "--path", "/nowhere"), b"answers 404"),
        (("tiny", "--body", "no-such-file"), b"--body no-such-file"),
        (("tiny", "--connections", "0"), b"--connections 0"),
        (("tiny", "--duration", "soon"), b"--duration soon"),
        (("tiny", "--rate", "0"), b"--rate 0"),
        (("tiny", "--requests", "0"), b"--requests 0"),
        (("tiny", "--content-type", "text/plain"), b"--content-type"),
    ],
)
def test_mistakes_are_plain_messages(url, arguments, words):
    done = bench(*arguments, "--url", url)
    assert done.returncode == 1
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_nobody_there():
    done = bench("tiny", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith(b"flowyard: no answer from http://127.0.0.1:1")
