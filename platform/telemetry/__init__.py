"""What the server tells about itself: logs (and, later, metrics and traces)."""
