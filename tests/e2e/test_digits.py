"""The example, the way a user runs it: the archive uploaded, real images sent."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(DIGITS))
    try:
        spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(str(DIGITS))
    return loaded


@pytest.fixture(scope="module")
def digits(http, tmp_path_factory):
    archive = tmp_path_factory.mktemp("digits") / "digits.zip"
    module("archive").build_archive(archive)
    answer = http.post("/workflows", content=archive.read_bytes(), headers={"content-type": "application/zip"})
    assert (answer.status_code, answer.json()) == (200, {"status": 'Workflow "digits" registered.'})
    return http


@pytest.mark.parametrize("digit", range(10))
def test_recognises_the_images_of_the_readme(digits, digit):
    png = (DIGITS / "images" / f"{digit}.png").read_bytes()
    answer = digits.post("/predictions/digits", content=png, headers={"content-type": "image/png"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["label"] == digit
    assert set(body["models"]) == {"cnn", "mlp"}
    assert sum(body["scores"].values()) == pytest.approx(1, abs=1e-4)
    timing = answer.headers["server-timing"]
    assert all(f"{node};dur=" in timing for node in ("image", "a", "b", "out"))


def test_the_ensemble_is_right_on_97_of_100_held_out_images(digits):
    demo = module("demo")

    def hit(item):
        pixels, digit = item
        answer = digits.post("/predictions/digits", content=demo.encode_png(pixels, 8))
        assert answer.status_code == 200, answer.text
        return answer.json()["label"] == digit

    with ThreadPoolExecutor(8) as threads:
        hits = list(threads.map(hit, demo.read_heldout()))
    assert len(hits) >= 300
    assert sum(hits) / len(hits) >= 0.97


def test_describe_shows_both_engines_and_their_workers(digits):
    (info,) = digits.get("/workflows/digits").json()
    assert {model["modelName"]: model["engine"] for model in info["models"]} == {"cnn": "PyTorch", "mlp": "OnnxRuntime"}
    assert info["version"] == "1.0"
    assert all(model["status"] == "Healthy" for model in info["models"])
    assert all(len(group["workers"]) == 1 for model in info["models"] for group in model["workerGroups"])


def test_a_body_that_is_no_image_is_a_4xx_that_names_the_node(digits):
    answer = digits.post("/predictions/digits", content=b"no image")
    assert answer.status_code == 424
    assert answer.json()["code"] == 424
    assert 'node "image"' in answer.json()["message"]
    assert "PNG" in answer.json()["message"]
    assert digits.post("/predictions/digits", content=(DIGITS / "images" / "3.png").read_bytes()).json()["label"] == 3


def test_a_json_body_is_refused_the_same_way(digits):
    answer = digits.post("/predictions/digits", json={"image": "x"})
    assert 400 <= answer.status_code < 500
    assert 'node "image"' in answer.json()["message"]
