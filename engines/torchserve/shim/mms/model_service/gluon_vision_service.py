"""The service of Gluon models of images."""

from mms.model_service.mxnet_model_service import GluonImperativeBaseService


class GluonVisionService(GluonImperativeBaseService):
    """Would classify images."""
