"""What handlers import from the server's own loop."""

from mms.context import Context, RequestProcessor
from ts.service import emit_metrics
from ts.utils.util import PredictionException

__all__ = ["Context", "PredictionException", "RequestProcessor", "emit_metrics"]
