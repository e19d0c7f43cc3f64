"""Base classes of services that compute with MXNet, which cannot run here; others are derived from `SingleNodeService`."""

from __future__ import annotations

from typing import Any

from mms.model_service.model_service import SingleNodeService
from mms.utils.mxnet import refuse

__all__ = ["GluonImperativeBaseService", "MXNetBaseService", "SingleNodeService"]


class MXNetBaseService(SingleNodeService):
    """Would load a model of MXNet's."""

    def __init__(self, *_: Any, **__: Any) -> None:
        refuse(type(self).__name__)


class GluonImperativeBaseService(SingleNodeService):
    """Would load a network of Gluon's."""

    def __init__(self, *_: Any, **__: Any) -> None:
        refuse(type(self).__name__)
