"""The Open Inference Protocol as TorchServe serves it over gRPC, where the setting says so (TorchServe reference §2.6)."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from flowyard.platform.http.kserve.tensors import STRINGS, read_binary
from flowyard.platform.http.torchserve.api import TorchServe
from flowyard.platform.http.torchserve.inference import EXTENSIONS, NAME, VERSION
from flowyard.platform.http.torchserve.inputs import BODY
from flowyard.platform.http.torchserve.routes import Call as Asked
from flowyard.platform.rpc.calls import Call, Service
from flowyard.platform.rpc.inference import Predictor, Source
from flowyard.platform.rpc.messages import OPEN_INFERENCE, Message, message_class
from flowyard.schemas.errors import InternalError, InvalidInputError, InvalidRequestError

JSON = "application/json"
#: Datatype -> where the elements of its tensors are; those that are not here, such as FP16, have only bytes.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    STRINGS: "bytes_contents",
}
_LENGTH = struct.Struct("<I")


class Output(msgspec.Struct, frozen=True):
    """One tensor of an answer, as handlers give it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class Answer(msgspec.Struct, frozen=True):
    """An answer, as handlers give it."""

    outputs: tuple[Output, ...]
    id: str = ""
    model_name: str = ""
    model_version: str = ""


class OpenInference:
    """Answers the service.

    Args:
        api: What is behind it.
    """

    def __init__(self, api: TorchServe) -> None:
        self._inference = api.inference
        self._predictor = Predictor(api)

    def service(self) -> Service:
        """The service."""
        acts = {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.about,
            "ModelMetadata": self.about_model,
            "ModelInfer": self.infer,
        }
        name = f"{OPEN_INFERENCE}.GRPCInferenceService"
        return Service(name=name, key="inference", acts=acts, predicts=frozenset(("ModelInfer",)))

    async def live(self, request: Message, call: Call) -> Message:
        """The server lives."""
        del request, call
        return _message("ServerLiveResponse", live=True)

    async def ready(self, request: Message, call: Call) -> Message:
        """The server is ready."""
        del request, call
        return _message("ServerReadyResponse", ready=True)

    async def model_ready(self, request: Message, call: Call) -> Message:
        """Whether a model has its workers."""
        del call
        model = self._inference.found(*_asked(request))
        return _message("ModelReadyResponse", ready=model.pool is not None and self._inference.is_healthy(model))

    async def about(self, request: Message, call: Call) -> Message:
        """What the server is."""
        del request, call
        return _message("ServerMetadataResponse", name=NAME, version=VERSION, extensions=EXTENSIONS)

    async def about_model(self, request: Message, call: Call) -> Message:
        """Which versions of a model there are; handlers do not say what they take."""
        del call
        self._inference.found(*_asked(request))
        versions = self._inference.versions_of(request.name)
        return _message("ModelMetadataResponse", name=request.name, versions=versions)

    async def infer(self, request: Message, call: Call) -> Message:
        """Runs a model: its handler gets the request as JSON, and answers with JSON."""
        body = msgspec.json.encode({"id": request.id, "model_name": request.model_name, "inputs": inputs_of(request)})
        source = Source(
            name=request.model_name,
            version=request.model_version,
            inputs=[(BODY, body, JSON)],
            headers={**call.headers, "content-type": JSON},
            body=body,
        )
        return answer_of(await self._predictor.whole(source, call))


def _asked(request: Message) -> tuple[Asked, str]:
    if not request.name:
        raise InvalidRequestError("Parameter name is required.")
    return Asked(request.name, request.version or None), request.name


def _message(name: str, /, **fields: Any) -> Message:
    return message_class(f"{OPEN_INFERENCE}.{name}")(**fields)


def inputs_of(request: Message) -> list[dict[str, Any]]:
    """The inputs of a request as JSON has them; bytes are in base64, as in the original.

    Raises:
        InvalidInputError: A tensor that cannot be read.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInputError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    found = []
    for place, tensor in enumerate(request.inputs):
        data = _of_bytes(tensor, raw[place]) if raw else _of_contents(tensor)
        found.append({"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype, "data": data})
    return found


def _of_contents(tensor: Message) -> list[Any]:
    if tensor.datatype not in CONTENTS:
        allowed = ", ".join(CONTENTS)
        raise InvalidInputError(f"input {tensor.name!r}: datatype {tensor.datatype!r} has no contents; allowed are {allowed}")
    elements = getattr(tensor.contents, CONTENTS[tensor.datatype])
    return [base64.b64encode(one).decode() for one in elements] if tensor.datatype == STRINGS else list(elements)


def _of_bytes(tensor: Message, content: bytes) -> list[Any]:
    if tensor.datatype != STRINGS:
        array = read_binary(tensor.name, tensor.datatype, tuple(tensor.shape), memoryview(content))
        flat: list[Any] = array.ravel().tolist()
        return flat
    found, at = [], 0
    while at < len(content):
        end = at + _LENGTH.size
        length = _LENGTH.unpack_from(content, at)[0] if end <= len(content) else len(content)
        if end + length > len(content):
            raise InvalidInputError(f"input {tensor.name!r}: a string reaches past the end of the content")
        found.append(base64.b64encode(content[end : end + length]).decode())
        at = end + length
    return found


def answer_of(body: bytes) -> Message:
    """A handler's answer as a message.

    Raises:
        InternalError: It is no answer of the protocol.
    """
    try:
        answer = msgspec.json.decode(body, type=Answer)
        outputs = [_output(output) for output in answer.outputs]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AttributeError, TypeError, ValueError) as error:
        raise InternalError(f"the model's answer is none of the Open Inference Protocol: {error}") from None
    return _message(
        "ModelInferResponse",
        id=answer.id,
        model_name=answer.model_name,
        model_version=answer.model_version,
        outputs=outputs,
    )


def _output(output: Output) -> Message:
    if output.datatype not in CONTENTS:
        raise ValueError(f"datatype {output.datatype!r} has no contents")
    data = [one.encode() for one in output.data] if output.datatype == STRINGS else output.data
    contents = _message("InferTensorContents", **{CONTENTS[output.datatype]: data})
    kind = message_class(f"{OPEN_INFERENCE}.ModelInferResponse").InferOutputTensor
    return kind(name=output.name, datatype=output.datatype, shape=output.shape, contents=contents)
