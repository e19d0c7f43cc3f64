"""Where in an archive its workflow is."""

import json
from pathlib import Path
from typing import Any

import pytest

from flowyard.platform.registry.layout import MAX_MANIFEST_BYTES, find_workflow
from flowyard.schemas.errors import InvalidArchiveError

GOOD = {"workflowName": "w", "specFile": "spec.yaml", "handler": "handler.py"}


def war(folder: Path, manifest: Any, *files: str) -> Path:
    (folder / "WAR-INF").mkdir()
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / "WAR-INF" / "MANIFEST.json").write_bytes(text)
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    return folder


def test_the_first_workflow_file_at_the_root_counts(tmp_path: Path) -> None:
    assert find_workflow(tmp_path) is None
    for name in ("workflow.json", "workflow.yml", "workflow.yaml"):
        (tmp_path / name).touch()
        place = find_workflow(tmp_path)
        assert place is not None
        assert (place.file.name, place.handler, place.name) == (name, None, "")


def test_the_manifest_of_a_war_names_everything(tmp_path: Path) -> None:
    manifest = {"createdOn": "x", "archiverVersion": "0.2", "workflow": GOOD | {"handler": "src/h.py"}}
    place = find_workflow(war(tmp_path, manifest, "spec.yaml", "src/h.py", "workflow.yaml"))
    assert place is not None
    assert (place.file, place.handler, place.name) == (tmp_path / "spec.yaml", "src/h.py", "w")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"", "WAR-INF/MANIFEST.json: "),
        (b"\xff", "WAR-INF/MANIFEST.json: "),
        (b"[]", "Expected `object`"),
        ({}, "Workflow name is not defined. (WAR-INF/MANIFEST.json)"),
        ({"workflow": {}}, "Workflow name is not defined."),
        ({"workflow": {"workflowName": "w"}}, 'no file "" in the archive'),
        ({"workflow": GOOD, "createdOn": "x"}, "Workflow archive version is not defined."),
        ({"workflow": GOOD, "archiverVersion": "0.2"}, "Workflow archive createdOn is not defined."),
        ({"workflow": GOOD | {"specFile": 3}}, "Expected `str | null`"),
        ({"workflow": GOOD | {"specFile": "none.yaml"}}, 'no file "none.yaml"'),
        ({"workflow": GOOD | {"specFile": ""}}, 'no file ""'),
        ({"workflow": GOOD | {"specFile": "../spec.yaml"}}, 'no file "../spec.yaml"'),
        ({"workflow": GOOD | {"handler": "/etc/passwd"}}, 'no file "/etc/passwd"'),
        ({"workflow": GOOD | {"handler": "a\0b"}}, "no file"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "has more than"),
    ],
)
def test_a_manifest_that_leads_nowhere_is_refused(tmp_path: Path, manifest: Any, words: str) -> None:
    (tmp_path / "spec.yaml").touch()
    folder = tmp_path / "war"
    folder.mkdir()
    with pytest.raises(InvalidArchiveError) as raised:
        find_workflow(war(folder, manifest, "spec.yaml", "handler.py"))
    assert words in raised.value.message
