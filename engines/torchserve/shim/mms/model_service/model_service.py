"""The base classes of services of MMS 0.x."""

from ts.model_service.model_service import ModelService, SingleNodeService

__all__ = ["ModelService", "SingleNodeService"]
