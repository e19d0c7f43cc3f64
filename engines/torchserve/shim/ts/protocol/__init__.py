"""What handlers import of the worker's protocol."""
