"""Traffic recorded from TorchServe 0.12.0 and Multi Model Server 1.1.11, sent to `flowyard torchserve` and `flowyard mms`.

The answers must be the same, or the better ones that a case lists. How the servers were set up is in the header of a section.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.replay import Replay, file_server, read_sections, render, serving

HERE = Path(__file__).parent
SECTIONS = {
    f"{dialect}-{section.name}": section
    for dialect in ("torchserve", "mms")
    for section in read_sections(sorted((HERE / dialect).glob("*.jsonl")))
}
COMMAND = (
    f"{sys.executable} -m flowyard.platform.cli.main "
    "{DIALECT} --foreground --model-store {MODEL_STORE} --ts-config {CONFIG} --state-dir {STATE}"
)
START_S = 60.0


@pytest.mark.parametrize("name", SECTIONS)
def test_answers_are_as_recorded(name, tmp_path, monkeypatch):
    section = SECTIONS[name]
    # Nothing is recorded of it, and its ports are fixed.
    monkeypatch.setenv("FLOWYARD_ENABLE_GRPC_API", "false")
    (tmp_path / "fixtures").mkdir()
    places = render(HERE / section.dialect / "fixtures", tmp_path / "fixtures")
    with file_server(places), serving(COMMAND, section, places, START_S) as base_urls:
        problems = [
            f"{verdict.case.label}: {verdict.problem}"
            for verdict in Replay(section, base_urls, places).run()
            if verdict.problem is not None
        ]
    assert problems == []
