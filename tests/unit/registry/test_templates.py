"""The templates of `POST /workflows`."""

from __future__ import annotations

import json

import pytest

from flowyard.platform.registry.templates import MAX_BYTES, Templates
from flowyard.schemas.errors import InvalidRequestError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "chain.yaml").write_text('name: "{name}"\nmodels: {m: "{model_dir}/{url}"}\nworkflow: {out: [m, in]}\n')
    (tmp_path / "readme.md").write_text("no template")
    (tmp_path / "folder.yaml").mkdir()
    return tmp_path


def test_the_built_in_one_is_djls():
    template = Templates(None).find("adapter")
    assert template.places == {"adapter", "model", "url"}
    filled = json.loads(template.fill({"adapter": "a", "model": "m.pt", "url": "src"}))
    assert (filled["name"], filled["models"], filled["configs"]["adapters"]["a"]["src"]) == ("a", {"adapted": "m.pt"}, "src")


def test_those_of_a_folder_are_looked_at_whenever_they_are_asked_for(folder):
    templates = Templates(folder)
    template = templates.find("chain")
    assert (template.filename, template.places) == ("chain.yaml", {"name", "url"})
    assert b'name: "w"' in template.fill({"name": "w", "url": "m.onnx"})
    assert b'"{model_dir}/m.onnx"' in template.fill({"name": "w", "url": "m.onnx"})
    (folder / "later.json").write_text("{}")
    assert templates.find("later").text == b"{}"
    (folder / "adapter.json").write_text("{}")
    assert templates.find("adapter").text == b"{}"


@pytest.mark.parametrize("name", ["nope", "readme", "folder", "../chain", "chain.yaml", ""])
def test_one_that_is_not_there_is_told_with_those_that_are(folder, name):
    with pytest.raises(InvalidRequestError, match="known are adapter, chain"):
        Templates(folder).find(name)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "w"}, "Parameter url is required; chain.yaml takes name, url."),
        ({"name": "w", "url": "m", "model": "x"}, "Parameter model: the template has no {model}"),
        ({"name": 'w"', "url": "m"}, "Parameter name: a value may not have quotes"),
        ({"name": "{url}", "url": "m"}, "Parameter name: a value may not have quotes, backslashes, braces"),
    ],
)
def test_values_that_do_not_fit(folder, values, says):
    with pytest.raises(InvalidRequestError) as refused:
        Templates(folder).find("chain").fill(values)
    assert says in refused.value.message


def test_a_template_has_a_limit(folder):
    (folder / "huge.json").write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(InvalidRequestError, match="huge is larger than"):
        Templates(folder).find("huge")


def test_a_folder_that_is_not_there_is_told_at_the_start(tmp_path):
    with pytest.raises(InvalidRequestError, match="workflow_templates: there is no folder"):
        Templates(tmp_path / "nothing")
