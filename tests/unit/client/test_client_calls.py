"""What each method sends, and what it makes of the answer; both clients the same."""

from __future__ import annotations

import asyncio
import inspect
import json

import httpx2
import pytest

from flowyard.platform.client import (
    Adapter,
    AdapterSpec,
    AsyncClient,
    Client,
    ClientError,
    Health,
    InvalidArgumentError,
    Job,
    ModelNotFoundError,
    Progress,
    RegistrationFailedError,
    Status,
    TimedOutError,
    UnexpectedAnswerError,
    WorkflowItem,
)

DONE = {"status": "done"}


class Asked:
    """Answers what it is told to, in order, and keeps the requests; the last answer is for all that follow."""

    def __init__(self, *answers: httpx2.Response | object) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, httpx2.Response):
            return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx2.Response(200, json=answer)

    @property
    def targets(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]


def run(kind, asked, call):
    """The result of a call of either client; an iterator as a list."""

    async def go():
        async with AsyncClient("http://server", transport=httpx2.MockTransport(asked)) as client:
            result = call(client)
            if inspect.isasyncgen(result):
                return [item async for item in result]
            return await result

    if kind == "async":
        return asyncio.run(go())
    with Client("http://server", transport=httpx2.MockTransport(asked)) as client:
        result = call(client)
        return list(result) if inspect.isgenerator(result) else result


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


CALLS = [
    (lambda c: c.register_model("m.onnx"), "POST /models?url=m.onnx"),
    (
        lambda c: c.register_model("a b", model_name="m", batch_size=4, trusted=True, engine=None),
        "POST /models?url=a%20b&model_name=m&batch_size=4&trusted=true",
    ),
    (lambda c: c.register_model("m", synchronous=False), "POST /models?url=m&synchronous=false"),
    (lambda c: c.register_workflow("w.zip", min_worker=0, device="cpu"), "POST /workflows?url=w.zip&min_worker=0&device=cpu"),
    (lambda c: c.scale("m", min_worker=1, max_worker=2), "PUT /models/m?min_worker=1&max_worker=2"),
    (
        lambda c: c.scale("m", "v1", min_worker=0, device="gpu0", synchronous=False, kind="workflows"),
        "PUT /workflows/m/v1?min_worker=0&device=gpu0&synchronous=false",
    ),
    (lambda c: c.unregister("m"), "DELETE /models/m"),
    (lambda c: c.unregister("a/b", "v 1"), "DELETE /models/a%2Fb/v%201"),
    (lambda c: c.set_weights("m", {"v1": 90, "v2": 10}), "PUT /models/m?weights=v1%3A90%2Cv2%3A10"),
    (lambda c: c.set_default("m", "v1"), "PUT /models/m/v1/set-default"),
    (lambda c: c.set_shadow("m", "v2"), "PUT /models/m/v2?shadow=true"),
    (lambda c: c.set_shadow("m", "v2", shadow=False, kind="workflows"), "PUT /workflows/m/v2?shadow=false"),
    (lambda c: c.clear_weights("m", kind="workflows"), "PUT /workflows/m?weights=none"),
    (lambda c: c.clear_default("m", "v1"), "DELETE /models/m/v1/set-default"),
    (lambda c: c.rollback("m"), "POST /models/m/rollback"),
    (lambda c: c.rollback("m", "v1"), "POST /models/m/rollback?version=v1"),
    (
        lambda c: c.register_adapter("m", "a b", "/x", options={"pin": True, "rank": 8}),
        "POST /models/m/adapters?pin=true&rank=8&name=a%20b&src=%2Fx",
    ),
    (lambda c: c.update_adapter("m", "a", options={"pin": False}), "POST /models/m/adapters/a/update?pin=false"),
    (lambda c: c.update_adapter("m", "a", "y"), "POST /models/m/adapters/a/update?src=y"),
    (lambda c: c.unregister_adapter("m", "a/b"), "DELETE /models/m/adapters/a%2Fb"),
    (lambda c: c.set_adapters("a/b", "v 1", []), "PUT /models/a%2Fb/v%201/adapters"),
    (lambda c: c.cancel(Job("m", "t")), "DELETE /predictions/m"),
]


@pytest.mark.parametrize(("call", "target"), CALLS, ids=[target for _, target in CALLS])
def test_changes(kind, call, target):
    asked = Asked(DONE)
    assert run(kind, asked, call) == Status(status="done")
    assert [part.replace("+", "%20") for part in asked.targets] == [target]


def test_all_pages_are_listed(kind):
    pages = [
        {"workflows": [{"workflowName": "a", "version": "1", "status": "READY"}], "nextPageToken": "1", "new field": 1},
        {"workflows": [{"workflowName": "b"}]},
    ]
    asked = Asked(*pages)
    found = run(kind, asked, lambda client: client.list_workflows(1))
    assert found == [
        WorkflowItem(workflow_name="a", version="1", status="READY"),
        WorkflowItem(workflow_name="b", status="READY"),
    ]
    assert asked.targets == ["GET /workflows?limit=1", "GET /workflows?limit=1&next_page_token=1"]


def test_adapters_of_all_pages(kind):
    first = {"name": "a", "src": "/a", "preload": True, "pin": False}
    asked = Asked({"adapters": [first], "nextPageToken": "1"}, {"adapters": [{**first, "name": "b", "pin": True}]}, first)
    found = run(kind, asked, lambda client: client.list_adapters("m", 1))
    assert found == [Adapter(name="a", src="/a"), Adapter(name="b", src="/a", pin=True)]
    assert asked.targets == ["GET /models/m/adapters?limit=1", "GET /models/m/adapters?limit=1&next_page_token=1"]
    assert run(kind, asked, lambda client: client.describe_adapter("m", "a")) == found[0]


def test_what_an_adapter_is_called(kind):
    asked = Asked(DONE)
    run(kind, asked, lambda client: client.register_adapter("m", "a", "/x", alias="other"))
    assert asked.requests[0].headers["x-amzn-sagemaker-adapter-alias"] == "other"


def test_what_adapters_a_version_is_to_have(kind):
    asked = Asked(DONE)
    wanted = [AdapterSpec(name="a", src="/a"), AdapterSpec(name="b", src="/b", options={"rank": 8, "pin": True}, alias="c")]
    run(kind, asked, lambda client: client.set_adapters("flow", "v1", wanted, model="m"))
    assert asked.requests[0].headers["content-type"] == "application/json"
    assert json.loads(asked.requests[0].content) == {
        "model": "m",
        "adapters": [{"name": "a", "src": "/a"}, {"name": "b", "src": "/b", "options": {"rank": 8, "pin": True}, "alias": "c"}],
    }


def test_nothing_is_listed_before_it_is_asked_for():
    asked = Asked({"models": [{"modelName": "a"}], "nextPageToken": "1"}, {"models": []})
    with Client("http://server", transport=httpx2.MockTransport(asked)) as client:
        assert next(client.list_models()).model_name == "a"
        assert asked.targets == ["GET /models"]


def test_health_is_an_answer_even_when_it_is_bad(kind):
    asked = Asked(httpx2.Response(500, json={"m": {"status": "FAILED"}}))
    assert run(kind, asked, lambda client: client.ping()) == Health(healthy=False, models={"m": "FAILED"})


def test_metrics_are_text(kind):
    assert run(kind, Asked(httpx2.Response(200, text="up 1\n")), lambda client: client.metrics()) == "up 1\n"


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize("call", [lambda c, n: c.predict(n, 1), lambda c, n: c.unregister(n), lambda c, n: c.describe("m", n)])
def test_names_that_would_lead_elsewhere(kind, name, call):
    asked = Asked(DONE)
    with pytest.raises(InvalidArgumentError):
        run(kind, asked, lambda client: call(client, name))
    assert asked.requests == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": 10}, "priority 10"),
        ({"priority": -1}, "priority -1"),
        ({"timeout_s": 0}, "timeout 0"),
        ({"timeout_s": float("nan")}, "timeout nan"),
        ({"headers": {"x": "a\r\nb: c"}}, "header x"),
        ({"headers": {"a b": "c"}}, "header 'a b'"),
        ({"headers": {"": "c"}}, "header ''"),
        ({"accept": "ü"}, "header accept"),
        ({"request_id": "a\nb"}, "x-request-id"),
        ({"content_type": "tensor/npy"}, "holds arrays"),
        ({"content_type": "image/png"}, "give bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused_before(kind, options, words):
    asked = Asked(DONE)
    with pytest.raises(InvalidArgumentError) as caught:
        run(kind, asked, lambda client: client.predict("m", 1, **options))
    assert words in caught.value.message
    assert asked.requests == []


@pytest.mark.parametrize("weights", [{}, {"v1": -1}])
def test_weights_that_are_none(kind, weights):
    with pytest.raises(InvalidArgumentError):
        run(kind, Asked(DONE), lambda client: client.set_weights("m", weights))


def test_what_a_prediction_sends(kind):
    asked = Asked(httpx2.Response(200, json=[1], headers={"x-request-id": "r", "server-timing": "a;dur=1.5, b;start=1;dur=2"}))
    options = {"version": "v1", "accept": "application/json", "priority": 0, "timeout_s": 0.25, "request_id": "r"}
    result = run(kind, asked, lambda client: client.predict("m", [1], headers={"X-Extra": "e"}, **options))
    assert (result.value, result.body, result.status, result.request_id) == ([1], b"[1]", 200, "r")
    assert [(span.name, span.duration_ms, span.start_ms) for span in result.timing] == [("a", 1.5, None), ("b", 2.0, 1.0)]
    (request,) = asked.requests
    assert asked.targets == ["POST /predictions/m/v1"]
    sent = {"accept": "application/json", "x-priority": "0", "x-request-timeout": "250ms", "x-request-id": "r", "x-extra": "e"}
    assert {name: request.headers[name] for name in sent} == sent
    assert request.content == b"[1]"


def pending(status, **more):
    return [{"workflowName": "m", "status": status, "models": [], **more}]


def test_waiting_for_what_is_registered(kind):
    progress = {"fetchedBytes": 5, "totalBytes": 10, "workersReady": 1, "workersWanted": 2}
    asked = Asked(pending("PENDING", progress=progress), pending("READY"))
    seen = []
    found = run(kind, asked, lambda client: client.wait_until_ready("m", on_progress=seen.append))
    assert found[0].status == "READY"
    assert seen == [Progress(fetched_bytes=5, total_bytes=10, workers_ready=1, workers_wanted=2), Progress()]


def test_waiting_for_what_fails(kind):
    asked = Asked(pending("PENDING"), pending("FAILED", reason="no such module", version="v2"))
    with pytest.raises(RegistrationFailedError, match="m:v2 could not be started: no such module"):
        run(kind, asked, lambda client: client.wait_until_ready("m"))


def test_waiting_has_an_end(kind):
    with pytest.raises(TimedOutError, match="still pending after 0 s"):
        run(kind, Asked(pending("PENDING")), lambda client: client.wait_until_ready("m", timeout_s=0))


def test_waiting_for_what_is_not_there(kind):
    body = {"code": 404, "type": "ModelNotFoundException", "message": "Model or workflow not found: m"}
    with pytest.raises(ModelNotFoundError):
        run(kind, Asked(httpx2.Response(404, json=body)), lambda client: client.wait_until_ready("m"))


def token(status, following, content=b""):
    headers = {"content-type": "application/x-ndjson"} | ({"x-next-token": following} if following else {})
    return httpx2.Response(status, headers=headers, content=content)


def test_a_result_that_is_fetched_later(kind):
    """DJL §2.9: 202 until something is there, then parts, the last without a further token."""
    asked = Asked(token(200, "t"), token(202, "t"), token(200, "t1", b"1\n"), token(200, "", b"2\n"))
    job = run(kind, asked, lambda client: client.submit("m", 5))
    assert job == Job("m", "t")
    assert asked.requests[0].headers["x-synchronous"] == "false"
    assert run(kind, asked, lambda client: client.result(job)).value == [1, 2]
    assert [request.headers["x-starting-token"] for request in asked.requests[1:]] == ["t", "t", "t1"]


def test_pieces_of_a_result_that_come_later(kind):
    asked = Asked(token(202, "t"), token(200, "t1", b"1\n"), token(200, "t1"), token(200, "t3", b"2\n3"), token(200, "", b"4\n"))
    job = Job("m", "t")
    assert run(kind, asked, lambda client: client.pieces(job, max_items=2)) == [1, 2, 34]
    assert [request.headers["x-starting-token"] for request in asked.requests] == ["t", "t", "t1", "t1", "t3"]
    assert {request.headers["x-max-items"] for request in asked.requests} == {"2"}


def test_events_of_a_result_that_come_later(kind):
    def events(following, content):
        headers = {"content-type": "text/event-stream"} | ({"x-next-token": following} if following else {})
        return httpx2.Response(200, headers=headers, content=content)

    failed = b'event: error\ndata: {"code": 424, "type": "x", "message": "half way"}\n\n'
    asked = Asked(events("t1", b"data: 1\n\n"), events("t2", b"data: 2\n\ndata: 3\n\n"), events("", failed))
    seen = []

    async def each(client):
        async for event in client.pieces(Job("m", "t")):
            seen.append(event.data)  # noqa: PERF401 - the last one raises

    def all_of(client):
        return each(client) if isinstance(client, AsyncClient) else seen.extend(e.data for e in client.pieces(Job("m", "t")))

    with pytest.raises(ClientError, match="half way"):
        run(kind, asked, all_of)
    assert seen == ["1", "2", "3"]


def test_what_there_is_of_a_result_so_far(kind):
    part = run(kind, Asked(token(200, "t2", b"1\n2\n")), lambda client: client.fetch(Job("m", "t"), 2))
    assert (part.reply.body, part.next) == (b"1\n2\n", Job("m", "t2"))


def test_pieces_that_do_not_come(kind):
    with pytest.raises(TimedOutError, match="not complete"):
        run(kind, Asked(token(202, "")), lambda client: client.pieces(Job("m", "t"), timeout_s=0))


def test_a_server_that_keeps_no_results(kind):
    with pytest.raises(UnexpectedAnswerError, match="does not keep results"):
        run(kind, Asked([1]), lambda client: client.submit("m", 5))


def test_a_result_that_does_not_come(kind):
    with pytest.raises(TimedOutError, match="not complete"):
        run(kind, Asked(token(202, "")), lambda client: client.result(Job("m", "t"), timeout_s=0))


def test_a_token_that_leads_nowhere(kind):
    body = {"code": 400, "type": "BadRequestException", "message": "Invalid x-starting-token: t"}
    with pytest.raises(ClientError, match="Invalid x-starting-token"):
        run(kind, Asked(httpx2.Response(400, json=body)), lambda client: client.result(Job("m", "t")))


def test_both_clients_have_the_same_methods():
    def public(cls):
        return {
            name: [(p.name, p.default, p.kind) for p in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)
    assert {"predict", "result", "list_models", "stream", "call"} <= set(public(Client))


def test_methods_tell_what_they_do(kind):
    client = Client if kind == "sync" else AsyncClient
    for name, member in inspect.getmembers(client, inspect.isfunction):
        assert name.startswith("_") or member.__doc__, name
