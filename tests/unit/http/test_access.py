"""What each route of the application needs, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta

import msgspec
import pytest

from flowyard.platform.access.keyring import Keyring, TokenFile
from flowyard.platform.access.tokens import SCOPES, Tokens, now_utc
from flowyard.platform.app import build_app
from flowyard.platform.http.access import need_of
from flowyard.platform.registry.registry import Registry
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.logs import Logs, render_json
from flowyard.platform.telemetry.traffic import Traffic

#: Litestar warns of its next version when an application is made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

#: Every route of the application, and what it needs. A new route has to be decided about here.
NEEDS = {
    "/": "any",
    "/adapters": "management",
    "/adapters/{adapter}": "management",
    "/adapters/{adapter}/update": "management",
    "/audit": "management",
    "/metrics": "metrics",
    "/models/{name}/adapters": "management",
    "/models/{name}/adapters/{adapter}": "management",
    "/models/{name}/adapters/{adapter}/update": "management",
    "/models/{name}/rollback": "management",
    "/models/{name}/{version}/adapters": "management",
    "/models/{name}/{version}/set-default": "management",
    "/openapi/{name}": "inference",
    "/openapi/{name}/{version}": "inference",
    "/server/logging": "management",
    "/server/metrics": "metrics",
    "/state": "management",
    "/traces/{trace_id}": "inference",
    "/workflows/{name}/rollback": "management",
    "/workflows/{name}/{version}/set-default": "management",
    "/models": "management",
    "/models/{name}": "management",
    "/models/{name}/{version}": "management",
    "/ping": "none",
    "/ping/{rest}": "none",
    "/predictions": "inference",
    "/schema": "any",
    "/schema/openapi.json": "any",
    "/schema/{path}": "any",
    "/workflows": "management",
    "/workflows/{name}": "management",
    "/workflows/{name}/{version}": "management",
}
#: What is answered before the router, or is served by it under another name.
FURTHER = {
    "/predictions/x": "inference",
    "/predictions/x/1": "inference",
    "/predictions/": "inference",
    "/invocations": "inference",
    "/invocations/": "inference",
    "/v1/chat/completions": "inference",
    "/models/x/invoke": "inference",
    "/v2": "inference",
    "/v2/": "inference",
    "/v2/models/x": "inference",
    "/v2/models/x/infer": "inference",
    "/v2/models/x/ready": "inference",
    "/v2/models/x/versions/1/infer": "inference",
    "/v2/health/live": "none",
    "/v2/health/ready": "none",
    "/v2/health": "inference",
    "/v2/repository/index": "management",
    "/v2/repository/models/x/load": "management",
    "/metrics/": "metrics",
    "/models/x/adapters": "management",
    "/models/x/1/adapters/y": "management",
    "/schema/openapi.json": "any",
    "/nowhere": "management",
    "": "management",
    "//models": "management",
    "/pingx": "management",
    "/v2x": "management",
    "/metricsx": "management",
    "/predictionsx": "management",
    "/PING": "management",
    "/ping/../models": "none",
    "/v2/health/ready/../../models/x/infer": "none",
}
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")


class Lines:
    """A log that nobody reads."""

    dropped = 0

    def write(self, lines):
        del lines


class App:
    """The application with a token of each scope and one that has expired, on nothing registered."""

    def __init__(self, folder, *, with_tokens=True, **settings):
        self.settings = Settings(state_dir=str(folder / "state"), **settings)
        file = TokenFile(folder / "state")
        self.texts = {}
        if with_tokens:
            file.change(self._make)
        self.registry = Registry(self.settings)
        logs = Logs(Lines(), render_json)
        self.front = build_app(self.registry, Traffic(logs, access_log=False), logs, Keyring(file))

    def _make(self, tokens):
        now = now_utc()
        for scope in SCOPES:
            tokens, _, self.texts[scope] = tokens.create([scope], now)
        tokens, made, self.texts["expired"] = tokens.create(SCOPES, now, lifetime=timedelta(days=1))
        past = msgspec.structs.replace(made, expires=now - timedelta(days=1))
        return Tokens((*tokens.tokens[:-1], past)), None

    def routes(self):
        for route in self.front.app.routes:
            path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
            yield path, sorted(getattr(route, "methods", METHODS))

    def call(self, method, path, *headers):
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        sent = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        asyncio.run(self.front(scope, receive, send))
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, body

    def bearer(self, which):
        return ("authorization", f"Bearer {self.texts[which]}")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return App(tmp_path_factory.mktemp("app"))


def test_every_route_is_decided_about(app):
    assert {path for path, _ in app.routes()} == set(NEEDS)


def places():
    for path, need in NEEDS.items():
        yield re.sub(r"\{\w+\}", "x", path), need
    yield from FURTHER.items()


@pytest.mark.parametrize(("path", "need"), list(places()))
def test_each_route_wants_the_scope_it_needs(app, path, need):
    for method in METHODS:
        wanted = "management" if path == "/" and method != "OPTIONS" else need
        assert need_of(path, method) == wanted
        if path == "":
            continue
        status, headers, body = app.call(method, path)
        assert (status == 401) == (wanted != "none"), method
        if status == 401:
            assert headers["www-authenticate"] == "Bearer"
            assert "x-request-id" in headers
            told = json.loads(body)
            assert "Authorization: Bearer" in (
                told["error"] if path.startswith("/v2") and "code" not in told else told["message"]
            )
        for scope in SCOPES:
            status, headers, body = app.call(method, path, app.bearer(scope))
            allowed = wanted in ("none", "any", scope)
            assert (status not in (401, 403)) == allowed, (method, scope, status)
            if not allowed:
                assert status == 403
                assert headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{wanted}"'
                assert wanted in body.decode()
        status, headers, body = app.call(method, path, app.bearer("expired"))
        assert (status == 401) == (wanted != "none")
        if status == 401:
            assert "expired" in headers["www-authenticate"]
            assert "expired" in body.decode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer fyd_00000000_x",
        "Bearer\t{}",
        "{}",
        "Token {}",
        "Bearer {}x",
        "Bearer {} x",
        "Bearer \xff",
    ],
)
def test_what_is_no_good_token(app, value):
    status, headers, body = app.call("GET", "/models", ("authorization", value.format(app.texts["management"])))
    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer")
    assert app.texts["management"] not in body.decode() + str(headers)


def test_two_headers_are_none(app):
    assert app.call("GET", "/models", app.bearer("management"), app.bearer("management"))[0] == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_as_one_likes(app, scheme):
    assert app.call("GET", "/models", ("authorization", f"{scheme} {app.texts['management']}"))[0] == 200


def test_without_tokens_nothing_is_asked_for(tmp_path):
    app = App(tmp_path, with_tokens=False)
    assert app.call("GET", "/models")[0] == 200
    assert app.call("POST", "/predictions/x")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/models", 405),
        ("POST", "/workflows", 405),
        ("DELETE", "/models/x", 405),
        ("DELETE", "/models/x/1", 405),
        ("DELETE", "/workflows/x", 405),
        ("DELETE", "/workflows/x/1", 405),
        ("POST", "/models/x/adapters", 405),
        ("DELETE", "/adapters/x", 405),
        ("PUT", "/models/x/1/set-default", 404),
        ("DELETE", "/models/x/1/set-default", 404),
        ("PUT", "/models/x", 404),
        ("GET", "/models", 200),
        ("GET", "/workflows/x", 404),
        ("POST", "/predictions/x", 404),
        ("POST", "/models/x/invoke", 404),
        ("DELETE", "/ping", 200),
    ],
)
def test_registration_and_deletion_can_be_switched_off(tmp_path, method, path, status):
    app = App(tmp_path, with_tokens=False, enable_model_api=False)
    found, headers, body = app.call(method, path)
    assert found == status
    if status == 405:
        assert "enable_model_api" in body.decode()
        assert {"POST", "DELETE"}.isdisjoint(headers["allow"].split(", "))
        assert "GET" in headers["allow"]
        assert json.loads(body)["type"] == "MethodNotAllowedException"


@pytest.mark.parametrize(
    ("origin", "host", "method", "path", "settings", "passes"),
    [
        (None, "localhost:8080", "DELETE", "/models/x", {}, True),
        ("http://evil.example", "127.0.0.1:8080", "DELETE", "/models/x", {}, False),
        ("http://evil.example", "127.0.0.1:8080", "POST", "/models", {}, False),
        ("http://evil.example", "127.0.0.1:8080", "PUT", "/workflows/x", {}, False),
        ("http://evil.example", "127.0.0.1:8080", "GET", "/models/x", {}, True),
        ("http://evil.example", "127.0.0.1:8080", "POST", "/predictions/x", {}, True),
        ("null", "127.0.0.1:8080", "DELETE", "/models/x", {}, False),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "DELETE", "/models/x", {}, True),
        ("http://localhost:8080", "localhost:8080", "DELETE", "/models/x", {}, True),
        ("http://[::1]:8080", "[::1]:8080", "DELETE", "/models/x", {}, True),
        ("http://localhost:9090", "localhost:8080", "DELETE", "/models/x", {}, False),
        # A name of the attacker's that leads here: the page and the server look alike to the browser.
        ("http://evil.example:8080", "evil.example:8080", "DELETE", "/models/x", {}, False),
        ("http://flow.example:8080", "flow.example:8080", "DELETE", "/models/x", {"host": "0.0.0.0"}, True),
        ("http://evil.example", "127.0.0.1:8080", "DELETE", "/models/x", {"cors_allowed_origin": "*"}, True),
        ("http://a.example", "127.0.0.1:8080", "DELETE", "/models/x", {"cors_allowed_origin": "http://a.example"}, True),
        ("http://b.example", "127.0.0.1:8080", "DELETE", "/models/x", {"cors_allowed_origin": "http://a.example"}, False),
        ("http://a", "", "DELETE", "/models/x", {}, False),
        ("[", "[", "DELETE", "/models/x", {}, False),
    ],
)
def test_pages_in_a_browser_may_not_change_what_is_served(tmp_path, origin, host, method, path, settings, passes):
    app = App(tmp_path, with_tokens=False, **settings)
    headers = [("host", host), *([("origin", origin)] if origin is not None else [])]
    status, _, body = app.call(method, path, *headers)
    assert (status != 403) == passes
    assert passes or "cors_allowed_origin" in body.decode()
