"""Where the gRPC services are, and what happens where they cannot be."""

from __future__ import annotations

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from flowyard.platform.doors import open_to_others
from flowyard.platform.rpc import binding, places
from flowyard.platform.rpc.binding import bind
from flowyard.platform.settings import Settings, settings_of
from flowyard.platform.sources import Given
from flowyard.schemas.errors import InvalidRequestError

TORCHSERVE = {"dialects": ("torchserve",), "native_api": False}


def found(**given: object) -> list[str]:
    return [str(place) for place in places.places(Settings(**TORCHSERVE | given))]


def test_places_are_the_originals_unless_somebody_says_otherwise():
    assert found() == ["grpc://127.0.0.1:7070", "grpc://127.0.0.1:7071"]
    assert found(grpc_inference_address="::1", grpc_management_port=0) == ["grpc://[::1]:7070", "grpc://127.0.0.1:0"]
    assert found(enable_grpc_ssl=True) == ["grpcs://127.0.0.1:7070", "grpcs://127.0.0.1:7071"]
    assert found(enable_grpc_api=False) == []
    assert found(dialects=("mms",)) == []
    assert found(dialects=()) == []


def test_a_place_that_others_can_reach_is_told_unless_tokens_are_asked_for():
    given = TORCHSERVE | {"grpc_management_address": "0.0.0.0"}
    assert open_to_others(Settings(**given)) == []
    assert open_to_others(Settings(**given, disable_token_authorization=True)) == ["grpc://0.0.0.0:7071"]


@pytest.mark.parametrize("host", ["", "http://127.0.0.1", "a b", "[::1", "x" * 300])
def test_what_is_no_host(host):
    given = [Given("grpc_inference_address", host, "here", "grpc_inference_address")]
    with pytest.raises(InvalidRequestError, match="allowed is a host name or IP address"):
        settings_of(given, {})


def test_without_grpc_nothing_is_served_and_a_port_that_is_named_is_refused(monkeypatch):
    monkeypatch.setattr(binding, "find_spec", lambda name: None)
    with capture_logs() as logs:
        assert bind(Settings(**TORCHSERVE)) == []
        assert bind(Settings(**TORCHSERVE, grpc_inference_address="0.0.0.0")) == []
    told = "gRPC needs the packages grpcio and protobuf: pip install 'flowyard[grpc]'"
    assert [line["reason"] for line in logs] == [told] * 2
    with pytest.raises(InvalidRequestError) as refused:
        bind(Settings(**TORCHSERVE, grpc_inference_port=0, grpc_management_port=7))
    assert refused.value.message == f"grpc_inference_port and grpc_management_port: {told}, or set enable_grpc_api=false"


def test_a_port_that_nobody_serves_is_told():
    with capture_logs() as logs:
        assert bind(Settings(dialects=("mms",), grpc_inference_port=1)) == []
        assert bind(Settings(enable_grpc_api=False, grpc_inference_port=1)) == []
    told = "grpc_inference_port is for the dialect torchserve, which is not served"
    assert [(line["log_level"], line["reason"]) for line in logs] == [("warning", told)]


async def _opened(settings: Settings) -> list[str]:
    opened = bind(settings)
    await asyncio.gather(*(one.stop(0) for one in opened))
    return [one.place.part for one in opened]


def test_a_taken_port_that_nobody_has_named_is_passed_over(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setitem(places.PORTS, "inference", taken.getsockname()[1])
        monkeypatch.setitem(places.PORTS, "management", 0)
        with capture_logs() as logs:
            assert asyncio.run(_opened(Settings(**TORCHSERVE))) == ["management"]
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = "settings grpc_inference_address, grpc_inference_port"
        told = f"cannot listen on {address}: Address already in use ({settings})"
        assert [(line["log_level"], line["reason"]) for line in logs] == [("warning", told)]


def test_encryption_needs_a_certificate():
    settings = Settings(**TORCHSERVE, enable_grpc_ssl=True)
    with pytest.raises(InvalidRequestError, match="enable_grpc_ssl is set and there is no certificate: set certificate_file"):
        bind(settings)
