"""The messages and services of `protos/`, as `make protos` compiles them into `protos.binpb`.

They are in a pool of their own: whatever else is in this process may bring its own `google.rpc`, and code that protoc generates
would insist on a version of protobuf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClassesForFiles

#: A message; what its fields are is only known at run time.
Message: TypeAlias = Any

INFERENCE = "org.pytorch.serve.grpc.inference"
MANAGEMENT = "org.pytorch.serve.grpc.management"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference"

_COMPILED = Path(__file__).with_name("protos.binpb")


def _load() -> tuple[DescriptorPool, dict[str, Any]]:
    pool = DescriptorPool()
    files = FileDescriptorSet.FromString(_COMPILED.read_bytes()).file
    for file in files:
        pool.Add(file)
    return pool, GetMessageClassesForFiles([file.name for file in files], pool)


POOL, _classes = _load()

PredictionResponse = _classes[f"{INFERENCE}.PredictionResponse"]
TorchServeHealthResponse = _classes[f"{INFERENCE}.TorchServeHealthResponse"]
ManagementResponse = _classes[f"{MANAGEMENT}.ManagementResponse"]
Status = _classes["google.rpc.Status"]
ErrorInfo = _classes["google.rpc.ErrorInfo"]


def message_class(name: str) -> Any:
    """The class of a message, by its full name."""
    return _classes[name]
