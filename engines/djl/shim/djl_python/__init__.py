"""What a handler written for DJL Serving imports: flowyard's own, importable only in the worker of such a model (DJL §7.1)."""

from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.pair_list import PairList
from djl_python.session_manager import Session, SessionManager

__all__ = ["Input", "Output", "PairList", "Session", "SessionManager"]
