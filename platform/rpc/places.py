"""Where TorchServe's gRPC services are. Needs no gRPC."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from flowyard.platform.addresses import Address
from flowyard.platform.settings import Settings

Part: TypeAlias = Literal["inference", "management"]

#: The originals' ports.
PORTS: dict[Part, int] = {"inference": 7070, "management": 7071}
DEFAULT_HOST = "127.0.0.1"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One address.

    Attributes:
        part: The service that is there.
        address: Where to listen; `https` where it is to be encrypted.
        is_said: Whether the operator has named the port: then it is there, or the server does not start.
        max_age_ms: How long a connection may last, `None` for ever.
        grace_ms: How long its calls may go on after that.
    """

    part: Part
    address: Address
    is_said: bool
    max_age_ms: int | None = None
    grace_ms: int | None = None

    def __str__(self) -> str:
        """As a URL."""
        scheme = "grpcs" if self.address.scheme == "https" else "grpc"
        return f"{scheme}{str(self.address).removeprefix(self.address.scheme)}"


def places(settings: Settings) -> list[Place]:
    """Lists the addresses of the services: those of TorchServe, where its API is served, unless they are switched off."""
    if not settings.enable_grpc_api or "torchserve" not in {name.lower() for name in settings.dialects}:
        return []
    return [
        _place(
            "inference",
            settings.grpc_inference_address,
            settings.grpc_inference_port,
            settings.grpc_inference_max_connection_age_ms,
            settings.grpc_inference_max_connection_age_grace_ms,
            encrypted=settings.enable_grpc_ssl,
        ),
        _place(
            "management",
            settings.grpc_management_address,
            settings.grpc_management_port,
            settings.grpc_management_max_connection_age_ms,
            settings.grpc_management_max_connection_age_grace_ms,
            encrypted=settings.enable_grpc_ssl,
        ),
    ]


def _place(part: Part, host: str, port: int | None, age_ms: int | None, grace_ms: int | None, *, encrypted: bool) -> Place:
    address = Address("https" if encrypted else "http", host.strip("[]").lower(), PORTS[part] if port is None else port)
    return Place(part=part, address=address, is_said=port is not None, max_age_ms=age_ms, grace_ms=grace_ms)
