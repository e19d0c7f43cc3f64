"""Comparisons of flowyard with floors and with other servers: `python -m benchmarks.run`."""
