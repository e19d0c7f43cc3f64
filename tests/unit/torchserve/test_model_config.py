"""`model-config.yaml` of an archive that means harm."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise

import pytest

from flowyard.engines.torchserve.config import MAX_FILE_BYTES, ModelConfig, read_config
from flowyard.schemas.errors import InvalidModelError

LETTERS = "abcdefghij"


def powers(first, again):
    lines = [
        f"a: &a {first}",
        *(f"{now}: &{now} {again.format(*[f'*{before}'] * 9)}" for before, now in pairwise(LETTERS)),
    ]
    return "\n".join(lines) + "\nminWorkers: *j\n"


HARMFUL = {
    "lists of lists": powers("[x]", "[{}, {}, {}, {}, {}, {}, {}, {}, {}]"),
    "mappings merged": powers("{x: 1}", "{{<<: [{}, {}, {}, {}, {}, {}, {}, {}, {}]}}"),
    "a long text": f"a: &a {'x' * 100_000}\nminWorkers: [{'*a,' * 100_000}]\n",
    "deep lists": "minWorkers: " + "[" * 100_000,
    "deep mappings": "{a: " * 50_000,
    "itself": "minWorkers: &a [*a]\n",
    "a long list": "minWorkers: [" + "x," * 400_000 + "]",
}
NO_VALUES = ["!!timestamp x", "!!int ''", "!!float ''", "!!bool x", "2001-99-99", "1" * 10_000, "!!python/name:os.system x", "0b"]


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL)
def test_what_grows_is_not_loaded(tmp_path, caplog, text):
    assert len(text) < MAX_FILE_BYTES
    (tmp_path / "c.yaml").write_text(text)
    started = time.process_time()
    tracemalloc.start()
    try:
        assert read_config(tmp_path, "c.yaml") == ModelConfig("c.yaml")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 20
    assert "Failed to parse model config file c.yaml" in caplog.text
    assert len(caplog.text) < 1000


@pytest.mark.parametrize("value", NO_VALUES)
def test_values_that_are_none(tmp_path, value):
    (tmp_path / "c.yaml").write_text(f"a: {value}\n")
    assert read_config(tmp_path, "c.yaml") == ModelConfig("c.yaml")


def test_anchors_may_be_used(tmp_path):
    (tmp_path / "c.yaml").write_text("x: &x {minWorkers: 2, maxWorkers: 3}\n<<: *x\nhandler: [*x, *x]\n")
    assert read_config(tmp_path, "c.yaml").settings == {"minWorkers": 2, "maxWorkers": 3}


def test_a_file_that_is_too_large(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(InvalidModelError, match="more than"):
        read_config(tmp_path, "c.yaml")
