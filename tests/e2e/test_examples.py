"""The other examples, the way their READMEs say: packed, uploaded, asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def register(http, tmp_path_factory):
    def pack_and_send(name):
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "flowyard.platform.cli.main", "pack", str(EXAMPLES / name)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{name}.zip: ")
        answer = http.post("/workflows", content=(folder / f"{name}.zip").read_bytes())
        assert (answer.status_code, answer.json()) == (200, {"status": f'Workflow "{name}" registered.'})

    return pack_and_send


@pytest.fixture(scope="module")
def sheet(http, register):
    register("sheet")
    return http


def test_every_example_has_a_short_readme():
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir()]
    assert {"digits", "sheet", "nearest"} <= {path.name for path in folders}
    for folder in folders:
        assert 8 <= len((folder / "README.md").read_text().splitlines()) <= 20, folder


def test_a_sheet_is_read_by_as_many_models_as_it_needs(sheet):
    readme = (EXAMPLES / "sheet" / "README.md").read_text()
    stated = {name: json.loads(answer) for name, answer in re.findall(r"`(\w+)\.pgm` .*: `(\{.*\})`", readme)}
    assert {name: answer["models"] for name, answer in stated.items()} == {"clear": 1, "hard": 2}
    for name, expected in stated.items():
        body = (EXAMPLES / "sheet" / "sheets" / f"{name}.pgm").read_bytes()
        answer = sheet.post(
            "/predictions/sheet",
            content=body,
            headers={"content-type": "image/x-portable-graymap", "x-flowyard-trace": "1"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json() == expected | {"confidence": pytest.approx(expected["confidence"], abs=0.001)}
        trace = json.loads(answer.headers["x-flowyard-trace"])
        if "url" in trace:
            trace = sheet.get(trace["url"]).json()
        status = {node["name"]: node["status"] for node in trace["nodes"]}
        assert status["careful"] == ("skipped" if expected["models"] == 1 else "done")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "binary PGM"),
        (b"P2 8 8 255\n", "binary PGM"),
        (b"P5 9 8 255\n" + b"\0" * 72, "9x8 pixels"),
        (b"P5 8 8 255\n\0", "1 pixels where 8x8"),
    ],
)
def test_what_is_no_sheet_is_refused_in_a_sentence(sheet, body, words):
    answer = sheet.post("/predictions/sheet", content=body, headers={"content-type": "application/x"})
    assert answer.status_code == 424
    assert words in answer.json()["message"]
    assert 'node "cells"' in answer.json()["message"]


def test_a_handler_of_djl_is_as_accurate_as_its_readme_says(http, register):
    register("nearest")
    stated = float(re.search(r"Accuracy .*: (0\.\d+)", (EXAMPLES / "nearest" / "README.md").read_text())[1])
    with np.load(EXAMPLES / "digits" / "heldout.npz", allow_pickle=False) as data:
        images, labels = data["images"][1::2], data["labels"][1::2]

    def label(image):
        answer = http.post("/predictions/nearest", json=image.reshape(64).tolist())
        assert answer.status_code == 200, answer.text
        return answer.json()["label"]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(label, images))
    assert np.mean(np.array(found) == labels) == pytest.approx(stated, abs=0.0001)
    assert http.post("/predictions/nearest", json=[1, 2]).status_code == 424
