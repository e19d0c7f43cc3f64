"""Traffic recorded from other servers, sent to ours: the answers must be the same, or the better ones that are listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.replay import Replay, Section, fill, read_sections, render
from support.server import running

HERE = Path(__file__).parent
SECTIONS = {section.name: section for section in read_sections(sorted((HERE / "djl").glob("*.jsonl")))}


def flags(section: Section, places: dict[str, str]) -> list[str]:
    """What the operator loads at the start."""
    return [flag for name, url in section.load.items() for flag in ("--load", f"{name}={fill(url, places)}")]


@pytest.mark.parametrize("name", SECTIONS)
def test_answers_are_as_recorded(name, tmp_path):
    section = SECTIONS[name]
    (tmp_path / "fixtures").mkdir()
    places = render(HERE / "djl" / "fixtures", tmp_path / "fixtures")
    settings = {f"FLOWYARD_{key.upper()}": fill(str(value), places) for key, value in section.settings.items()}
    with running(tmp_path, *flags(section, places), env=settings) as server:
        base_url = str(server.client.base_url).rstrip("/")
        problems = [
            f"{verdict.case.label}: {verdict.problem}"
            for verdict in Replay(section, {"": base_url}, places).run()
            if verdict.problem is not None
        ]
    assert problems == []
