import asyncio

import pytest

from flowyard.platform.http.cors import CrossOrigin

ORIGIN, OTHER = "https://a.example", "https://b.example"


def ask(cors: CrossOrigin, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bool]:
    """Status and headers of an answer, and whether the application gave it."""
    sent, asked = [], []

    async def app(scope, receive, send):
        asked.append(scope)
        await send({"type": "http.response.start", "status": 404, "headers": [(b"x-request-id", b"1")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    cors.app = app
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(cors({"type": "http", "method": method, "path": "/", "headers": given}, None, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, bool(asked)


def allowed(origin: str, **more: str) -> dict[str, str]:
    return {"access-control-allow-origin": origin} | {f"access-control-allow-{name}": value for name, value in more.items()}


@pytest.mark.parametrize(
    ("configured", "origin", "expected"),
    [
        ("*", {"origin": ORIGIN}, allowed("*", methods="GET, PUT", headers="X-A")),
        ("*", {}, allowed("*", methods="GET, PUT", headers="X-A")),
        (ORIGIN, {"origin": ORIGIN}, allowed(ORIGIN, methods="GET, PUT", headers="X-A") | {"vary": "Origin"}),
        (ORIGIN, {}, allowed(ORIGIN, methods="GET, PUT", headers="X-A") | {"vary": "Origin"}),
        (ORIGIN, {"origin": OTHER}, {"vary": "Origin"}),
        (f"{ORIGIN}, {OTHER}", {"origin": OTHER}, allowed(OTHER, methods="GET, PUT", headers="X-A") | {"vary": "Origin"}),
        (f"{ORIGIN}, {OTHER}", {}, {"vary": "Origin"}),
    ],
)
def test_every_answer_has_the_headers_of_an_allowed_origin(configured, origin, expected):
    cors = CrossOrigin(None, configured, "GET, PUT", "X-A", "x-request-id")
    assert ask(cors, **origin) == (404, {"x-request-id": "1"} | expected, True)
    preflight = ask(cors, "OPTIONS", access_control_request_method="PUT", x_request_id="mine", **origin)
    assert preflight == ((204, {"x-request-id": "mine"} | expected, False) if origin else ask(cors, "OPTIONS", **origin))


def test_what_is_not_configured_is_not_sent():
    cors = CrossOrigin(None, "*", None, None, "x-id")
    assert ask(cors, origin=ORIGIN)[1] == {"x-request-id": "1"} | allowed("*")
    assert ask(cors, "OPTIONS", origin=ORIGIN, access_control_request_method="PUT", x_id="7")[1] == {
        "x-request-id": "7"
    } | allowed("*")


def test_options_that_are_no_preflight_reach_the_application():
    assert ask(CrossOrigin(None, "*", None, None, "x-request-id"), "OPTIONS", origin=ORIGIN)[2]
