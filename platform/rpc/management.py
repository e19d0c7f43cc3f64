"""TorchServe's management service (TorchServe reference §2.6): the sentences and JSON of its HTTP API, as text."""

from __future__ import annotations

from flowyard.platform.http.torchserve.answers import to_json
from flowyard.platform.http.torchserve.api import TorchServe
from flowyard.platform.http.torchserve.errors import ModelApiOffError
from flowyard.platform.http.torchserve.parameters import Parameters
from flowyard.platform.rpc.calls import Call, Service
from flowyard.platform.rpc.messages import MANAGEMENT, ManagementResponse, Message
from flowyard.schemas.errors import InvalidRequestError


class Management:
    """Answers the management service.

    Args:
        api: What is behind it.
    """

    def __init__(self, api: TorchServe) -> None:
        self._management = api.management

    def service(self) -> Service:
        """The service."""
        acts = {
            "DescribeModel": self.describe,
            "ListModels": self.list_models,
            "RegisterModel": self.register,
            "ScaleWorker": self.scale,
            "SetDefault": self.set_default,
            "UnregisterModel": self.unregister,
        }
        return Service(name=f"{MANAGEMENT}.ManagementAPIsService", key="management", acts=acts, finishes=True)

    async def describe(self, request: Message, call: Call) -> Message:
        """One version of a model, or all."""
        del call
        customized = request.customized and request.model_version != "all"
        name, version = request.model_name, request.model_version or None
        _, described = await self._management.description(name, version, customized=customized)
        return _json(described)

    async def list_models(self, request: Message, call: Call) -> Message:
        """A page of models."""
        del call
        return _json(self._management.page(parameters_of(request)))

    async def register(self, request: Message, call: Call) -> Message:
        """Registers a model."""
        del call
        self._check_may_change()
        return ManagementResponse(msg=(await self._management.register(parameters_of(request))).text)

    async def scale(self, request: Message, call: Call) -> Message:
        """Changes the number of workers of a model."""
        del call
        name, version = request.model_name, request.model_version or None
        return ManagementResponse(msg=(await self._management.change_workers(name, version, parameters_of(request))).text)

    async def set_default(self, request: Message, call: Call) -> Message:
        """Makes a version the default one."""
        del call
        return ManagementResponse(msg=await self._management.set_default(request.model_name, request.model_version))

    async def unregister(self, request: Message, call: Call) -> Message:
        """Unregisters a model."""
        del call
        self._check_may_change()
        if not request.model_name:
            raise InvalidRequestError("Parameter model_name is required.")
        name, version = request.model_name, request.model_version or None
        return ManagementResponse(msg=await self._management.remove(name, version, parameters_of(request)))

    def _check_may_change(self) -> None:
        if not self._management.may_change:
            raise ModelApiOffError("Model API disabled")


def parameters_of(request: Message) -> Parameters:
    """The parameters of a request: what is empty, 0 or negative is not given, and `synchronous` is false unless it is said."""
    values: dict[str, str] = {}
    for field in request.DESCRIPTOR.fields:
        value = getattr(request, field.name)
        if isinstance(value, bool):
            values[field.name] = str(value).lower()
        elif isinstance(value, str) and value:
            values[field.name] = value
        elif isinstance(value, int) and value > 0:
            values[field.name] = str(value)
    return Parameters(values, strict=True)


def _json(body: object) -> Message:
    return ManagementResponse(msg=to_json(body).decode().rstrip("\n"))
