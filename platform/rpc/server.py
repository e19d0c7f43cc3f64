"""gRPC's side of the server: binds, serves, drains."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import msgspec

from flowyard.platform.addresses import Address
from flowyard.platform.http.protocol import HEAD_S
from flowyard.platform.http.torchserve.api import TorchServe
from flowyard.platform.listeners import Listener
from flowyard.platform.rpc.calls import Desk, Service, request_limit_s
from flowyard.platform.rpc.inference import Inference
from flowyard.platform.rpc.management import Management
from flowyard.platform.rpc.open_inference import OpenInference
from flowyard.platform.rpc.places import Place
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.traffic import Traffic
from flowyard.platform.tls import pem_pair
from flowyard.schemas.errors import InvalidRequestError

#: How often a client is asked whether it is still there while it waits for something.
KEEPALIVE_MS = 60_000


class RpcServer:
    """Serves one of the services at its address.

    Args:
        place: Which, and where.
        settings: The settings.

    Raises:
        InvalidRequestError: It cannot be listened on, or there is no certificate.

    Attributes:
        place: Which, and where, with the port that was given for 0.
    """

    def __init__(self, place: Place, settings: Settings) -> None:
        _check_free(place)
        self._settings = settings
        most = settings.max_connections
        options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", settings.max_request_size),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", most),
            ("grpc.max_allowed_incoming_connections", most),
            ("grpc.server_handshake_timeout_ms", round(HEAD_S * 1000)),
            # A client that is gone without a word is noticed within a minute and a half, not within two hours.
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            # Without this a second server would get half of the connections instead of an error.
            ("grpc.so_reuseport", 0),
        ]
        if place.max_age_ms is not None:
            options.append(("grpc.max_connection_age_ms", place.max_age_ms))
        if place.grace_ms is not None:
            options.append(("grpc.max_connection_age_grace_ms", place.grace_ms))
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=most)
        self._desk: Desk | None = None
        self.place = msgspec.structs.replace(place, address=self._bind(place.address))

    def _bind(self, address: Address) -> Address:
        target = str(address).removeprefix(f"{address.scheme}://")
        try:
            if address.scheme == "https":
                port = self._server.add_secure_port(target, grpc.ssl_server_credentials([pem_pair(self._settings)]))
            else:
                port = self._server.add_insecure_port(target)
        except RuntimeError:
            raise InvalidRequestError(f"cannot listen on {target} for gRPC") from None
        return msgspec.structs.replace(address, port=port)

    async def serve(self, api: TorchServe, traffic: Traffic) -> None:
        """Begins to answer.

        Args:
            api: What is behind it.
            traffic: Is told of every call.
        """
        self._desk = Desk(api, traffic, request_limit_s(self._settings.max_request_size))
        self._server.add_generic_rpc_handlers([self._desk.handlers(service) for service in self._services(api, traffic)])
        await self._server.start()

    def _services(self, api: TorchServe, traffic: Traffic) -> list[Service]:
        if self.place.part == "management":
            return [Management(api).service()]
        found = [Inference(api, traffic).service()]
        return [*found, OpenInference(api).service()] if api.inference.is_open_inference else found

    async def stop(self, drain_s: float) -> None:
        """Takes no more calls; those that run are finished.

        Args:
            drain_s: How long they get.
        """
        if self._desk is None:
            await self._server.stop(None)
            return
        self._desk.stop()
        await asyncio.gather(self._server.stop(drain_s), self._desk.finish(drain_s))


def _check_free(place: Place) -> None:
    """Listens for a moment: gRPC says of an address that cannot be had no more than that it cannot.

    Raises:
        InvalidRequestError: With the reason.
    """
    try:
        with Listener(place.address):
            pass
    except InvalidRequestError as error:
        settings = f"settings grpc_{place.part}_address, grpc_{place.part}_port"
        raise InvalidRequestError(f"{error.message} ({settings})") from None
