"""The example of a TorchServe workflow, as its README says: packed by TorchServe's archivers, served as it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

REVIEWS = Path(__file__).resolve().parents[2] / "examples" / "reviews"


def test_the_example_answers_as_its_readme_says(http, server):
    subprocess.run([sys.executable, str(REVIEWS / "pack.py"), str(server.model_store)], check=True)
    assert {file.name for file in server.model_store.iterdir()} >= {"sentiment.mar", "topics.mar", "reviews.war"}
    readme = (REVIEWS / "README.md").read_text()
    (url,) = re.findall(r"workflows\?url=(\S+)'", readme)
    (review,) = re.findall(r"-d '(.*)'", readme)
    (answer,) = re.findall(r"^    (\{.*\})$", readme, re.MULTILINE)
    assert http.post("/workflows", params={"url": url}).json() == {"status": 'Workflow "reviews" registered.'}
    told = http.post("/predictions/reviews", content=review.encode(), headers={"content-type": "text/plain"})
    assert told.json() == json.loads(answer)
    calm = http.post("/predictions/reviews", content=b"Great screen, I love it").json()
    assert calm == {"sentiment": {"label": "positive", "score": 4}, "topics": ["screen"], "queue": "positive"}


def test_check_and_graph_know_what_is_in_a_war(tmp_path):
    subprocess.run([sys.executable, str(REVIEWS / "pack.py"), str(tmp_path)], check=True)
    command = [sys.executable, "-m", "flowyard.platform.cli.main"]
    check = [*command, "check", "reviews.war", "--model-store", "."]
    checked = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert checked.stdout == "reviews.war: workflow reviews is valid\n"
    graph = subprocess.run([*command, "graph", "reviews.war"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(node in graph.stdout for node in ("clean", "sentiment", "topics", "verdict"))
