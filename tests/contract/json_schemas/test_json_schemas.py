"""The committed JSON Schemas: they are current, accept what is right and refuse what they can see to be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from contract.workflows.casefile import read_cases

from flowyard.platform.cli.schemas import NAMES, schema_text, write_schemas
from flowyard.platform.desired import documents
from flowyard.schemas.errors import InvalidRequestError
from flowyard.workflows import source
from flowyard.workflows.problems import Problems

ROOT = Path(__file__).resolve().parents[3]
FENCED = re.compile(r"^```(yaml|json)[^\n]*\n((?:(?!^```).)*)^```$(?!\n+```text)", re.M | re.S)


def schema(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())


def validator(name: str) -> jsonschema.protocols.Validator:
    found = schema(name)
    return jsonschema.validators.validator_for(found)(found)


def value_of(text: str, filename: str = "w.yaml") -> Any:
    problems = Problems(filename)
    node = source.read(text.encode(), filename, problems)
    assert node is not None and not problems.failed, problems.all()
    return source.to_value(node)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_current(name: str) -> None:
    assert (ROOT / "schemas" / f"{name}.schema.json").read_text() == schema_text(name), "make schemas"


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one(name: str) -> None:
    found = schema(name)
    jsonschema.validators.validator_for(found).check_schema(found)


def good_files() -> list[Any]:
    files = []
    for case in read_cases():
        if not case.is_bad:
            files += [
                pytest.param(text, name, id=case.name) for name, text in case.files.items() if name.endswith(("yaml", "yml"))
            ]
            files += [pytest.param(text, name, id=case.name) for name, text in case.files.items() if name == "workflow.json"]
    for path in sorted((ROOT / "examples").glob("*/workflow.*")):
        files.append(pytest.param(path.read_text(), path.name, id=str(path.relative_to(ROOT))))
    page = (ROOT / "docs" / "workflows.md").read_text()
    for found in FENCED.finditer(page):
        line = page.count("\n", 0, found.start()) + 1
        if re.search(r'^(name|models):|^\s*"name"', found[2], re.M):
            files.append(pytest.param(found[2], f"w.{found[1]}", id=f"docs/workflows.md:{line}"))
    return files


@pytest.mark.parametrize(("text", "name"), good_files())
def test_a_good_file_is_accepted(text: str, name: str) -> None:
    value = value_of(text, name)
    validator("torchserve-workflow" if "dag" in value else "workflow").validate(value)


def test_there_are_good_files_of_all_kinds() -> None:
    ids = [str(param.id) for param in good_files()]
    assert len(ids) >= 20
    assert any(one.startswith("docs") for one in ids)
    assert any(one.startswith("examples") for one in ids)


HEAD = "name: w\nmodels: {m: m.pt}\nfunctions: {f: s:f}\n"
NODES = "workflow: {out: [m, in]}\n"
BAD = [
    "[]",
    "name: w",
    "name: 'a b'\n" + NODES,
    "name: w\nworkflow: {}",
    "name: w\nworkflow: {in: [id, in], out: [id, in]}",
    "name: w\nmodles: {}\n" + NODES,
    "name: w\ntimeout: soon\n" + NODES,
    "name: w\ntimeout: 0\n" + NODES,
    "name: w\non_error: ignore\n" + NODES,
    "name: w\nfunctions: {f: steps.f}\n" + NODES,
    "name: w\nmodels: [m]\n" + NODES,
    "name: w\nmodels: {m: 3}\n" + NODES,
    "name: w\nmodels: {m: {batch_size: 3}}\n" + NODES,
    "name: w\nmodels: {m: {url: m.pt, batch_size: 0}}\n" + NODES,
    "name: w\nmodels: {m: {url: m.pt, batchsize: 3}}\n" + NODES,
    "name: w\nmodels: {m: {url: m.pt, batching: slow}}\n" + NODES,
    "name: w\nmodels: {m: {url: m.pt, translator: ai.djl.T}}\n" + NODES,
    "name: w\nmodels: {m: {url: m.pt, inputs: [{name: x, dtype: floats}]}}\n" + NODES,
    "name: w\nmodels: {m: {url: m.pt, outputs: [{dtype: int8}]}}\n" + NODES,
    "name: w\nmodels: {m: {workflow: 'a b'}}\n" + NODES,
    "name: w\nmodels: {'a/b': m.pt}\n" + NODES,
    HEAD + "workflow: {out: []}",
    HEAD + "workflow: {out: [3, in]}",
    HEAD + "workflow: {out: [[m, in], in]}",
    HEAD + "workflow: {out: [m, {a: in}]}",
    HEAD + "workflow: {out: [id, in, in]}",
    HEAD + "workflow: {out: [map, m]}",
    HEAD + "workflow: {out: [map, [m], in]}",
    HEAD + "workflow: {out: [pick, in, path]}",
    HEAD + "workflow: {out: [pick, in, {value: 3}]}",
    HEAD + "workflow: {out: [switch, in, in]}",
    HEAD + "workflow: {out: [switch, in, {}]}",
    HEAD + "workflow: {out: [functionsApply, m, in]}",
    HEAD + "workflow: {out: {when: x}}",
    HEAD + "workflow: {out: {call: [m, in], retry: 1}}",
    HEAD + "workflow: {out: {call: [m, in], retries: 11}}",
    HEAD + "workflow: {out: {call: [m, in], cache: soon}}",
    HEAD + "workflow: {out: {call: [m, in], cache: {tll: 1s}}}",
    HEAD + "workflow: {out: {call: [m, in], timeout: -1}}",
    HEAD + "workflow: {out: {call: [m, in], when: 3}}",
    "models: {min-worker: 1}\ndag: {a: [b]}",
    "models: {m: {batch-size: 1}}\ndag: {m: []}",
    "models: {m: {url: m.mar}}\ndag: {m: n}",
    "models: {m: {url: m.mar, retry-attempts: 99}}\ndag: {m: []}",
    "models: {m: {url: m.mar}}\ndag: {}",
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_refused(text: str) -> None:
    value = value_of(text)
    checker = validator("torchserve-workflow" if isinstance(value, dict) and "dag" in value else "workflow")
    assert not checker.is_valid(value)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("port: 8080\nmodel_store: /models\nload: [a=b.pt]\nallowed_paths: /a:/b\nlog_level: debug\n", True),
        ("port:\n", True),
        ("prot: 8080\n", False),
        ("port: 70000\n", False),
        ("log_level: loud\n", False),
        ("default_timeout_s: 0\n", False),
    ],
)
def test_settings(text: str, valid: bool) -> None:
    assert validator("settings").is_valid(value_of(text)) == valid


def apply_documents() -> list[Any]:
    page = (ROOT / "docs" / "registry.md").read_text()
    return [yaml.safe_load(found[2]) for found in FENCED.finditer(page) if "versions:" in found[2]]


VERSION = {"version": "v1", "url": "a.zip", "engine": "Python", "min_worker": 0, "trusted": True, "timeout": 0.5}
GOOD_VERSIONS = [
    VERSION,
    {"file": "a.onnx", "sha256": "0" * 64, "workers": {"m": {"cpu": [1, 2]}}},
    {"url": "a", "adapters": {"m": [{"name": "a", "src": "s", "alias": "b", "options": {"a": 1, "b": "x", "c": True}}], "n": []}},
]
BAD_VERSIONS = [
    {"version": "v1"},
    {"url": "a", "file": "b"},
    {"url": ""},
    {"url": "a", "size": 3},
    {"url": "a", "version": "a/b"},
    {"url": "a", "batch_size": 0},
    {"url": "a", "batching": "slow"},
    {"url": "a", "sha256": "x"},
    {"url": "a", "timeout": 0},
    {"url": "a", "trusted": "yes"},
    {"url": "a", "min_worker": 1, "workers": {"m": {"cpu": [1, 2]}}},
    {"url": "a", "workers": {"m": {"cpu": [1]}}},
    {"url": "a", "workers": {"m": {"cpu": [1, 2, 3]}}},
    {"url": "a", "workers": {"m": {"cpu": ["1", 2]}}},
    {"url": "a", "adapters": {"m": {"name": "a", "src": "s"}}},
    {"url": "a", "adapters": {"m": [{"name": "a"}]}},
    {"url": "a", "adapters": {"m": [{"name": "a", "src": "s", "rank": 8}]}},
    {"url": "a", "adapters": {"m": [{"name": "a", "src": "s", "options": {"a": [1]}}]}},
]
BAD_DOCUMENTS = [
    [],
    {"name": "m"},
    {"versions": [VERSION]},
    {"name": "m", "versions": []},
    {"name": "a b", "versions": [VERSION]},
    {"name": "m", "versions": [VERSION], "traffic": {}},
    {"name": "m", "versions": [VERSION], "weights": {"v1": 1001}},
    {"name": "m", "versions": [VERSION], "shadows": "v1"},
]
DOCUMENTS = [
    *((document, True) for document in apply_documents()),
    *(({"name": "m", "versions": [version]}, True) for version in GOOD_VERSIONS),
    *(({"name": "m", "versions": [version]}, False) for version in BAD_VERSIONS),
    *((document, False) for document in BAD_DOCUMENTS),
]


@pytest.mark.parametrize(("document", "valid"), DOCUMENTS)
def test_documents_of_apply_are_judged_as_apply_judges_them(tmp_path: Path, document: Any, valid: bool) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(document))
    try:
        documents.read(tmp_path)
    except InvalidRequestError:
        assert not valid
    else:
        assert valid
    assert validator("apply").is_valid(document) == valid


def test_the_page_shows_a_document_of_apply() -> None:
    assert apply_documents()


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("ErrorBody", {"code": 404, "type": "ModelNotFoundException", "message": "x"}, True),
        ("ErrorBody", {"code": "404", "type": "ModelNotFoundException", "message": "x"}, False),
        ("RegisterModel", {"url": "x", "batch_size": 2}, True),
        ("RegisterModel", {"url": "x", "batchsize": 2}, False),
        ("Scale", {"min_worker": -1}, False),
        ("Trace", {}, False),
    ],
)
def test_bodies_of_the_api(name: str, value: Any, valid: bool) -> None:
    found = schema("api")
    checker = jsonschema.validators.validator_for(found)(found | {"$ref": f"#/$defs/{name}"})
    assert checker.is_valid(value) == valid


def test_examples_name_the_schema_for_editors() -> None:
    for path in sorted((ROOT / "examples").glob("*/workflow.yaml")):
        first = path.read_text().splitlines()[0]
        named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
        assert named, path
        assert (path.parent / named[1]).resolve() == ROOT / "schemas" / "workflow.schema.json"


def test_schemas_cannot_be_written_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="No such file"):
        write_schemas(tmp_path / "nowhere")
