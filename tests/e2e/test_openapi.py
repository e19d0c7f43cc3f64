"""The OpenAPI document, the methods that paths take, and answers that are as the document says."""

from __future__ import annotations

import pytest


def test_every_path_of_the_api_is_in_the_document(http):
    document = http.get("/schema").json()
    assert document["openapi"].startswith("3.1")
    paths = set(document["paths"])
    assert paths >= {
        "/models",
        "/models/{name}",
        "/models/{name}/{version}",
        "/models/{name}/{version}/set-default",
        "/models/{name}/invoke",
        "/models/{name}/adapters",
        "/workflows",
        "/predictions/{name}",
        "/predictions/{name}/{version}",
        "/invocations",
        "/v1/chat/completions",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{version}/infer",
        "/ping",
        "/metrics",
        "/server/metrics",
        "/server/logging",
    }
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["responses"] for operation in operations)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/models", "GET, OPTIONS, POST"),
        ("/models/", "GET, OPTIONS, POST"),
        ("/workflows", "GET, OPTIONS, POST"),
        ("/models/m", "DELETE, GET, OPTIONS, PUT"),
        ("/models/m/1", "DELETE, GET, OPTIONS, PUT"),
        ("/models/m/adapters", "GET, OPTIONS, POST"),
        ("/predictions/m", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ("/v2/models/m/infer", "POST"),
        ("/v2/models/m", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_take(http, path, allowed):
    answer = http.request("TRACE", path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed


def test_answers_of_the_management_api_are_not_kept(http):
    headers = http.get("/models").headers
    assert headers["pragma"] == "no-cache"
    assert headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"


def test_options_tell_all_methods(http):
    answer = http.request("OPTIONS", "/models")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, OPTIONS, POST")
