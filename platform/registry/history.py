"""What was changed, when, and by whom."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, datetime

import msgspec

from flowyard.platform.registry.records import Record

#: Who asks for what happens now: the address or the token of a request; the server itself outside of one.
CALLER: ContextVar[str] = ContextVar("caller", default="server")


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of the registry.

    Attributes:
        time: ISO 8601, UTC.
        who: Who asked for it.
        action: `register`, `replace`, `unregister`, `scale`, `weights`, `set-default`, `clear-default`, `shadow`, `rollback`.
        name: Of the model or workflow.
        version: Its version, empty for none or for all.
        detail: What else there is to say.
    """

    time: str
    who: str
    action: str
    name: str
    version: str = ""
    detail: dict[str, str] = {}


def change(action: str, name: str, version: str = "", **detail: str) -> Change:
    """A change that is made now, by whoever asks for it.

    Args:
        action: What is done.
        name: Of the model or workflow.
        version: Its version.
        **detail: What else there is to say; empty texts are left out.
    """
    said = {key: value for key, value in detail.items() if value}
    return Change(time=now(), who=CALLER.get(), action=action, name=name, version=version, detail=said)


def registered(record: Record) -> Change:
    """The change that a registration is."""
    return change("register", record.name, record.version, url=record.url, digest=record.digest)


def now() -> str:
    """The time, as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
