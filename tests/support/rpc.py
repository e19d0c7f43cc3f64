"""Clients of the gRPC services, made as TorchServe's users make theirs: protoc's Python for the .proto files."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from grpc_tools import protoc

from support.server import ROOT, ServerProcess

PROTOS = ROOT / "platform" / "rpc" / "protos"
FILES = ("inference.proto", "management.proto", "open_inference_grpc.proto", "google/rpc/status.proto")


def generate(folder: Path) -> None:
    """Generates the modules of all messages and stubs, and makes them importable."""
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}", *FILES]
    assert protoc.main(arguments) == 0
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    google = importlib.import_module("google")
    google.__path__.append(str(folder / "google"))


@dataclass
class Clients:
    """Stubs for one server, and the modules of their messages."""

    inference: Any
    management: Any
    open_inference: Any
    inference_pb2: ModuleType
    management_pb2: ModuleType
    open_inference_pb2: ModuleType
    channels: list[Any]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()

    def request(self, name: str, data: bytes | None = None, **fields: Any) -> Any:
        """A request for a prediction with the input `data`."""
        inputs = {"data": data} if data is not None else {}
        return self.inference_pb2.PredictionsRequest(model_name=name, input=inputs | fields.pop("input", {}), **fields)

    def predict(self, name: str, data: bytes | None = None, *, metadata: Any = None, **fields: Any) -> bytes:
        request = self.request(name, data, **fields)
        return self.inference.Predictions(request, metadata=metadata, timeout=60).prediction

    def manage(self, method: str, *, metadata: Any = None, **fields: Any) -> str:
        """Calls the management service."""
        request = getattr(self.management_pb2, f"{method}Request")(**fields)
        return getattr(self.management, method)(request, metadata=metadata, timeout=60).msg


def addresses(server: ServerProcess) -> list[str]:
    """Where the inference and the management service listen."""
    return [url.partition("://")[2] for url in server.urls if url.startswith("grpc")]


def clients(server: ServerProcess, root_certificates: bytes | None = None) -> Clients:
    """Clients of a server, encrypted where there is somebody to trust."""
    names = ("inference_pb2", "management_pb2", "open_inference_grpc_pb2")
    messages = [importlib.import_module(name) for name in names]
    stubs = [importlib.import_module(f"{name}_grpc") for name in names]
    inference, management = [
        grpc.secure_channel(address, grpc.ssl_channel_credentials(root_certificates))
        if root_certificates
        else grpc.insecure_channel(address)
        for address in addresses(server)
    ]
    return Clients(
        stubs[0].InferenceAPIsServiceStub(inference),
        stubs[1].ManagementAPIsServiceStub(management),
        stubs[2].GRPCInferenceServiceStub(inference),
        *messages,
        [inference, management],
    )
