"""Which version a rollback goes back to: pure data."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flowyard.platform.registry.records import Record
from flowyard.platform.registry.traffic import DEFAULT, Traffic
from flowyard.schemas.errors import ConflictError, ModelNotFoundError


class Choice(msgspec.Struct, frozen=True):
    """What a rollback goes back to.

    Attributes:
        record: The registration.
        former: Whether it has ended, and has to be brought up again.
    """

    record: Record
    former: bool


def choose(name: str, registered: Sequence[Record], traffic: Traffic, former: Sequence[Record], version: str | None) -> Choice:
    """Chooses where to go back to.

    What answers now is the default version, else the one that was registered last. A rollback goes to the one that was registered
    before it, whether it still is registered or was unregistered or replaced since; or to the version that is named.

    Args:
        name: The name.
        registered: Its versions that can answer.
        traffic: What is said about them.
        former: Its versions that have ended.
        version: Where to go, `None` for the one before.

    Returns:
        The choice.

    Raises:
        ModelNotFoundError: There is nothing to go back to.
        ConflictError: The named version is the one that answers now, and has no predecessor.
    """
    answering = [record for record in registered if record.version not in traffic.shadows]
    default = next((record for record in answering if record.version == traffic.default), None)
    current = default or max(answering, key=lambda record: record.created, default=None)
    choices = [Choice(record, former=False) for record in answering if record is not current]
    known = {(record.version, record.created) for record in registered}
    choices += [Choice(record, former=True) for record in former if (record.version, record.created) not in known]
    if version is not None:
        exact = "" if version == DEFAULT else version
        choices = [choice for choice in choices if choice.record.version == exact]
    elif current is not None:
        choices = [choice for choice in choices if choice.record.created < current.created]
    if choices:
        return max(choices, key=lambda choice: choice.record.created)
    if version is not None and current is not None and current.version == version:
        raise ConflictError(f"Version {version} of {name} answers already, and nothing is kept of an earlier one.")
    if version is not None:
        raise ModelNotFoundError(f"No version {version} of {name} is registered or kept for a rollback.")
    raise ModelNotFoundError(f"Nothing to roll back to: no earlier version of {name} is registered or kept.")
