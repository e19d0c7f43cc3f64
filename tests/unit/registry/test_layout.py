"""Where `{model_dir}` is."""

from __future__ import annotations

import pytest

from flowyard.platform.registry.layout import locate_model_dir

INSIDE = b'"{model_dir}/m.onnx"'
UPWARDS = b'"{model_dir}/../m.onnx"'


@pytest.mark.parametrize(
    ("url", "upwards"),
    [
        ("/w/a", b'"file:/w/a/../m.onnx"'),
        ("/w/a/", b'"file:/w/a/../m.onnx"'),
        ("/w/a/workflow.yaml", b'"file:/w/a/../m.onnx"'),
        ("file:/w/a/workflow.json", b'"file:/w/a/../m.onnx"'),
        ("file:///w/a%20b", b'"file:/w/a%20b/../m.onnx"'),
        ("/w/a b", b'"file:/w/a%20b/../m.onnx"'),
        ("/w/a\\1", b'"file:/w/a%5C1/../m.onnx"'),
        ("/w/a.zip", UPWARDS),
        ("w/a", UPWARDS),
        ("upload:sha256:0", UPWARDS),
        ("https://host/a/workflow.json", UPWARDS),
    ],
)
def test_of_a_folder_only_what_leads_out_of_it_is_looked_for_where_it_was(url, upwards):
    assert locate_model_dir(UPWARDS, url, alone=False) == upwards
    assert locate_model_dir(INSIDE, url, alone=False) == INSIDE


@pytest.mark.parametrize("prefix", [b"", b"file:", b"file://"])
def test_of_a_file_alone_everything_is(prefix):
    text = b'"' + prefix + b'{model_dir}/m.onnx"'
    assert locate_model_dir(text, "file:/w/ens.json", alone=True) == b'"file:/w/m.onnx"'
