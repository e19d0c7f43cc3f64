"""Which API is served at which address."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from flowyard.platform.addresses import Address, parse_address
from flowyard.platform.rpc.places import places
from flowyard.platform.settings import Settings, listening
from flowyard.schemas.errors import InvalidRequestError

Dialect: TypeAlias = Literal["native", "torchserve", "mms"]
Part: TypeAlias = Literal["inference", "management", "metrics"]

DIALECTS: tuple[Dialect, ...] = ("torchserve", "mms")


class Door(msgspec.Struct, frozen=True):
    """One address.

    Attributes:
        address: Where to listen.
        dialect: Whose API is there.
        parts: Which parts of it.
    """

    address: Address
    dialect: Dialect
    parts: frozenset[Part]


def doors(settings: Settings) -> list[Door]:
    """Lists the addresses of a server; the first one is its inference address.

    Args:
        settings: The settings.

    Raises:
        InvalidRequestError: There is no such dialect, or two APIs want the same address.
    """
    found: list[Door] = []
    for name in dict.fromkeys(settings.dialects):
        dialect = next((known for known in DIALECTS if known == name.lower()), None)
        if dialect is None:
            raise InvalidRequestError(f"dialect: {name[:50]!r} is not allowed, allowed is {' or '.join(DIALECTS)}")
        found += _grouped(dialect, _places(dialect, settings))
    if settings.native_api:
        where = listening(settings)
        found += _grouped("native", {"inference": where.inference, "management": where.management})
    _check_apart(found)
    return found


def _places(dialect: Dialect, settings: Settings) -> dict[Part, Address]:
    if dialect == "mms":
        return {
            "inference": parse_address(settings.mms_inference_address),
            "management": parse_address(settings.mms_management_address),
        }
    places: dict[Part, Address] = {
        "inference": parse_address(settings.torchserve_inference_address),
        "management": parse_address(settings.torchserve_management_address),
    }
    if settings.enable_metrics_api:
        places["metrics"] = parse_address(settings.torchserve_metrics_address)
    return places


def _grouped(dialect: Dialect, places: dict[Part, Address]) -> list[Door]:
    """Parts that share an address share a door."""
    return [
        Door(address, dialect, frozenset(part for part, place in places.items() if place == address))
        for address in dict.fromkeys(places.values())
    ]


def _check_apart(found: list[Door]) -> None:
    taken: dict[Address, Door] = {}
    for door in found:
        other = taken.get(door.address)
        if other is not None and door.address.port:
            raise InvalidRequestError(
                f"{door.address}: both {other.dialect} and {door.dialect} are to be served there; "
                f"give one of them addresses of its own (settings {door.dialect}_inference_address and so on)"
            )
        taken[door.address] = door


def open_to_others(settings: Settings, *, has_tokens: bool = False) -> list[str]:
    """The addresses that other machines can reach, and where nobody is asked for a token. Metrics ask nobody anyway.

    Args:
        settings: The settings.
        has_tokens: Whether the native API asks for tokens.
    """
    asking = {"native": has_tokens, "torchserve": not settings.disable_token_authorization, "mms": False}
    found = [door for door in doors(settings) if not door.address.is_local and door.parts != {"metrics"}]
    served = [str(door.address) for door in found if not asking[door.dialect]]
    if not asking["torchserve"]:
        served += [str(place) for place in places(settings) if not place.address.is_local]
    return list(dict.fromkeys(served))
