"""The version that handlers are told."""

__version__ = "1.1.11"
