"""Opens the addresses of the gRPC services, where gRPC is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from flowyard.platform.rpc.places import places
from flowyard.platform.settings import Settings
from flowyard.platform.tls import pem_pair
from flowyard.schemas.errors import InvalidRequestError

if TYPE_CHECKING:
    from flowyard.platform.rpc.server import RpcServer

log = structlog.stdlib.get_logger(__name__)

LACKING = "gRPC needs the packages grpcio and protobuf: pip install 'flowyard[grpc]'"


def bind(settings: Settings) -> list[RpcServer]:
    """Opens the addresses of the services.

    A port that the operator names is listened on, or the server does not start. One that nobody has named is passed over where
    it is taken, and so are all of them where gRPC is not installed.

    Args:
        settings: The settings.

    Returns:
        What listens; it answers nothing yet.

    Raises:
        InvalidRequestError: A port that was named cannot be had, or there is no certificate, or no gRPC.
    """
    wanted = places(settings)
    said = _said(settings)
    if not wanted and said and settings.enable_grpc_api:
        log.warning("gRPC is not served", reason=f"{said} is for the dialect torchserve, which is not served")
    if not wanted or not _is_installed(said):
        return []
    # An extra, which takes 0.15 s to import.
    from flowyard.platform.rpc.server import RpcServer  # noqa: PLC0415

    if settings.enable_grpc_ssl:
        pem_pair(settings)
    opened: list[RpcServer] = []
    for place in wanted:
        try:
            opened.append(RpcServer(place, settings))
        except InvalidRequestError as error:
            if place.is_said:
                raise
            log.warning("gRPC is not served", service=place.part, reason=error.message)
    return opened


def _said(settings: Settings) -> str:
    """The ports that the operator has named."""
    ports = {"grpc_inference_port": settings.grpc_inference_port, "grpc_management_port": settings.grpc_management_port}
    return " and ".join(name for name, port in ports.items() if port is not None)


def _is_installed(said: str) -> bool:
    if all(find_spec(name) is not None for name in ("grpc", "google", "google.protobuf")):
        return True
    if said:
        raise InvalidRequestError(f"{said}: {LACKING}, or set enable_grpc_api=false")
    log.info("gRPC is not served", reason=LACKING)
    return False
