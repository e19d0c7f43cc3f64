"""The OpenAPI documents: paths and operation ids of the originals, and nothing that is no OpenAPI."""

from __future__ import annotations

import json

import pytest

from flowyard.platform.http.torchserve import openapi

DOCUMENTS = [
    *(openapi.torchserve_document(part, "0.12.0") for part in ("inference", "management", "metrics", "all")),
    openapi.torchserve_model("noop"),
    openapi.torchserve_model_management("noop"),
    *(openapi.mms_document(part, "1.1.11") for part in ("inference", "management", "all")),
    openapi.mms_model("noop"),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_operation_has_an_id_and_answers(document):
    json.dumps(document)
    assert document["openapi"] == "3.0.1"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["operationId"]
            assert operation["responses"]
            named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert named <= {part.partition("}")[0] for part in path.split("{")[1:]}


def test_one_port_has_the_paths_of_both():
    together = openapi.torchserve_document("all", "0.12.0")["paths"]
    assert {"/predictions/{model_name}", "/models", "/metrics"} <= together.keys()


def test_only_torchserve_has_versions():
    assert "/models/{model_name}/{model_version}" in openapi.torchserve_document("management", "1")["paths"]
    assert "/models/{model_name}/{model_version}" not in openapi.mms_document("management", "1")["paths"]
    partial = openapi.mms_document("management", "1")["paths"]["/models"]["post"]["responses"]
    assert "210" in partial
