"""The OpenAPI document, the methods that paths take, and answers that are as the document says."""

from __future__ import annotations

import pytest
from support.server import wait_until

from flowyard.platform.http.access import need_of


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


#: What may become of a prediction, whoever is asked for it.
FATES = {"400", "404", "406", "413", "424", "500", "503", "504", "507"}


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/{name}",
        "/predictions/{name}/{version}",
        "/models/{name}/invoke",
        "/invocations",
        "/v1/chat/completions",
        "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{version}/infer",
    ],
)
def test_the_document_says_what_may_become_of_a_prediction(http, path):
    assert set(http.get("/schema").json()["paths"][path]["post"]["responses"]) >= FATES


def test_the_document_says_who_is_refused(http):
    document = http.get("/schema").json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            need = need_of(path, method.upper())
            refused = {"401", "403"} & set(operation["responses"])
            assert refused == {"none": set(), "any": {"401"}}.get(need, {"401", "403"}), (method, path)
            assert ("security" in operation) == (need != "none")
    operations = document["paths"]
    assert "405" in operations["/models"]["post"]["responses"]
    assert "405" not in operations["/models/{name}"]["put"]["responses"]
    error = operations["/v2/models/{name}/infer"]["post"]["responses"]["401"]["content"]["application/json"]["schema"]
    assert error["required"] == ["error"]


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


@pytest.mark.parametrize(("path", "status"), [("/models", 200), ("/workflows", 200), ("/workflows", 202)])
def test_what_is_registered_can_be_found_by_the_links_of_its_answer(http, path, status):
    document = http.get("/schema").json()
    operation = document["paths"][path]["post"]
    example = document["paths"]["/workflows"]["post"]["requestBody"]["content"]["application/json"]["example"]
    registered = http.post(path, json=example, params={"synchronous": "false"} if status == 202 else {})
    assert registered.status_code == status, registered.text
    by_id = {told["operationId"]: (method, place) for place, item in document["paths"].items() for method, told in item.items()}
    links = operation["responses"][str(status)]["links"]
    assert {link["operationId"] for link in links.values()} == set(links)
    kind = path.removeprefix("/").removesuffix("s").title()
    assert set(links) == {f"describe{kind}", f"scale{kind}", f"unregister{kind}", "predict"}
    wait_until(lambda: http.get(f"{path}/relay").json()[0]["status"] == "READY")
    for name in (f"describe{kind}", "predict", f"unregister{kind}"):
        (parameter, expression), *others = links[name]["parameters"].items()
        assert others == []
        header = expression.removeprefix("$response.header.")
        assert header in operation["responses"][str(status)]["headers"]
        method, place = by_id[name]
        answer = http.request(method, place.replace(f"{{{parameter}}}", registered.headers[header]), json={})
        assert answer.status_code == 200, answer.text
