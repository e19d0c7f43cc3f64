"""The native API, shaped like DJL Serving's."""
