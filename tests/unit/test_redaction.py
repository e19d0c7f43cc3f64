"""Places on the server's disk in what others are told."""

from __future__ import annotations

import sys

import pytest

from flowyard.schemas.redaction import MAX_MESSAGE_CHARS, without_host_paths

DIGEST, RANDOM = "0123456789abcdef" * 4, "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("nothing to hide", "nothing to hide"),
        (f"no file '/var/lib/state/archives/sha256/{DIGEST}/a/b.txt'", "no file 'a/b.txt'"),
        (f"/s/archives/sha256/{DIGEST}/steps.py:1: bad", "steps.py:1: bad"),
        (f"in /s/archives/sha256/{DIGEST}", "in ."),
        (f"/archives/sha256/{DIGEST}/x and /s/archives/sha256/{DIGEST}/y", "x and y"),
        (f"No space: '/s/archives/tmp/{RANDOM}/model.pt'", "No space: 'model.pt'"),
        (f"/s/requirements/{DIGEST}-cpython-311/numpy/x.py", "numpy/x.py"),
        (f"/s/requirements/tmp/{RANDOM}/x.py", "x.py"),
        (f"No such file: '/s/workplaces/{RANDOM}/missing.txt'", "No such file: 'missing.txt'"),
        (f"{sys.prefix}/lib/x.py", "lib/x.py"),
        ("file:/models/sha256/x.pt", "file:/models/sha256/x.pt"),
        ("x" * 10**6, "x" * MAX_MESSAGE_CHARS),
    ],
)
def test_what_is_told(message, told):
    assert without_host_paths(message) == told


@pytest.mark.timeout(10)
@pytest.mark.parametrize("message", ["/" * 10**6, "/a" * 10**6, "/archives/" * 10**5, ("/x" * 50 + " ") * 10**4])
def test_strange_messages_take_no_time(message):
    without_host_paths(message)
