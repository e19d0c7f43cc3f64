"""The version that handlers are told."""

__version__ = "0.12.0"
