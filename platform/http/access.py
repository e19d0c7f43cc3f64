"""Which route needs which scope, and what is refused before anything else is looked at."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from flowyard.platform.access.keyring import BEARER, NEVER, Keyring, is_over
from flowyard.platform.access.tokens import Scope
from flowyard.platform.http.native.errors import error_body, to_json
from flowyard.platform.http.native.predictions import request_id_of
from flowyard.platform.http.native.targets import is_prediction
from flowyard.platform.memo import remembered
from flowyard.platform.settings import Settings, listening
from flowyard.schemas.errors import FlowyardError, ForbiddenError, MethodNotAllowedError, UnauthorizedError

Headers: TypeAlias = list[tuple[bytes, bytes]]
#: Key of the scope of a request: what its token is called, for the history.
CALLED = "flowyard.called"
#: `none` needs no token, `any` any valid one.
Need: TypeAlias = Scope | Literal["none", "any"]

#: The whole table: the first row that a path is under decides. What runs something (`is_prediction`) needs `inference`; what is
#: in no row `management`, also where nothing is there: who may not manage need not learn what there is.
ROUTES: tuple[tuple[str, Need], ...] = (
    ("/ping", "none"),
    ("/v2/health/live", "none"),
    ("/v2/health/ready", "none"),
    ("/v2/repository", "management"),
    ("/v2", "inference"),
    ("/metrics", "metrics"),
    ("/server/metrics", "metrics"),
    ("/traces", "inference"),
    ("/openapi", "inference"),
    ("/schema", "any"),
)
#: Methods that register or remove, where the setting `enable_model_api` switches that off; PUT scales, and stays, but for
#: the adapters of a version.
SWITCHED_OFF = ("POST", "DELETE", "PATCH")
_CHANGES = ("POST", "PUT", "DELETE", "PATCH")
_REGISTERED = ("/models", "/workflows", "/adapters")


@remembered(4096)
def need_of(path: str, method: str) -> Need:
    """What a request needs.

    Args:
        path: Its path, decoded.
        method: Its method.
    """
    if is_prediction(path):
        return "inference"
    if path == "/" and method == "OPTIONS":
        return "any"
    return next((need for root, need in ROUTES if _is_under(path, root)), "management")


def _is_under(path: str, root: str) -> bool:
    return path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")


def is_switched_off(path: str, method: str) -> bool:
    """Whether the setting `enable_model_api` can keep a request from going on."""
    return need_of(path, method) == "management" and _registers(path, method)


def _registers(path: str, method: str) -> bool:
    """Whether something is registered or removed; what is the default is neither."""
    place = path.rstrip("/")
    if not any(_is_under(path, root) for root in _REGISTERED) or place.endswith("/set-default"):
        return False
    return method in SWITCHED_OFF or (method == "PUT" and place.endswith("/adapters"))


class Refusal(msgspec.Struct, frozen=True):
    """An answer that ends a request: the error and further headers."""

    error: FlowyardError
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Access:
    """Decides whether a request may go on.

    Args:
        settings: The settings.
        keyring: The tokens.
    """

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        self._id_header = settings.request_id_header_key.lower()
        self._model_api = settings.enable_model_api
        where = listening(settings)
        self._is_local = where.inference.is_local and where.management.is_local
        self._origins = tuple(origin.strip() for origin in (settings.cors_allowed_origin or "").split(","))

    @property
    def keyring(self) -> Keyring:
        """The tokens."""
        return self._keyring

    def refusal(self, scope: Any) -> Refusal | None:
        """Why a request may not go on for want of a token, `None` where it may."""
        need = need_of(scope["path"], scope["method"])
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        # Every request with a token comes here, so the usual case is told at once.
        if len(given) == 1 and (known := self._keyring.good.get(given[0])) is not None:
            _, expires, scopes, called = known
            if need in scopes and (expires is NEVER or expires > time.time()):
                scope[CALLED] = called
                return None
        if need == "none" or not self._keyring.is_required:
            return None
        if len(given) != 1:
            what = "several Authorization headers" if given else "this server wants a token"
            return _unauthorized(f"{what}: send Authorization: Bearer TOKEN, one made by `flowyard tokens create`")
        if given[0][: len(BEARER)].lower() != BEARER.lower():
            return _unauthorized("the Authorization header has another scheme: send Authorization: Bearer TOKEN")
        known = self._keyring.find(given[0][len(BEARER) :].strip())
        if known is None:
            return _unauthorized("the token is not known here, or has been revoked", "the token is not known")
        if is_over(known):
            return _unauthorized("the token has expired: make a new one with `flowyard tokens rotate`", "the token has expired")
        if need != "any" and need not in known.scopes:
            has = ", ".join(sorted(known.scopes))
            challenge = f'Bearer error="insufficient_scope", scope="{need}"'.encode()
            error = ForbiddenError(f"this needs a token of scope {need}; the scope of this one is {has}")
            return Refusal(error, ((b"www-authenticate", challenge),))
        scope[CALLED] = known.name
        return None

    def change_refusal(self, scope: Any) -> Refusal | None:
        """Why a request that is no prediction may not go on for what it would change, `None` where it may."""
        path, method = scope["path"], scope["method"]
        if method not in _CHANGES or need_of(path, method) != "management":
            return None
        if not self._model_api and is_switched_off(path, method):
            error = MethodNotAllowedError(
                "Registration and deletion are switched off here; the setting enable_model_api permits them."
            )
            return Refusal(error)
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        # A page that has a token has been given it; without tokens any page that a browser shows could change what is served.
        if not origin or self._keyring.is_required or self._is_allowed(origin, headers.get(b"host", b"").decode("latin-1")):
            return None
        return Refusal(
            ForbiddenError(f"a page of {origin[:200]} may not change what is served; the setting cors_allowed_origin permits it")
        )

    def _is_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        return urlsplit(origin).netloc == host and (not self._is_local or _is_this_machine(host))

    async def answer(self, refusal: Refusal, scope: Any, send: Any) -> str:
        """Sends a refusal; gives the id of the request."""
        body = error_body(refusal.error)
        is_kserve = _is_under(scope["path"], "/v2")
        content = msgspec.json.encode({"error": body.message}) if is_kserve else to_json(body)
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = request_id_of(given, self._id_header)
        start: Sequence[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"x-request-id", request_id.encode("latin-1")),
            *refusal.headers,
        ]
        await send({"type": "http.response.start", "status": body.code, "headers": start})
        await send({"type": "http.response.body", "body": content})
        return request_id


def _unauthorized(message: str, described: str = "") -> Refusal:
    challenge = f'Bearer error="invalid_token", error_description="{described}"' if described else "Bearer"
    return Refusal(UnauthorizedError(message), ((b"www-authenticate", challenge.encode()),))


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine by number or as localhost: a name that somebody points here does not count."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
