"""The service of MXNet models of images."""

from mms.model_service.mxnet_model_service import MXNetBaseService


class MXNetVisionService(MXNetBaseService):
    """Would classify images."""
