"""Functions on MXNet's arrays, which cannot run here."""

from mms.utils.mxnet import refuse

refuse(__name__)
