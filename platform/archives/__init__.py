"""Archives and model files: where a URL leads, what the bytes are, and unpacking them without trusting them."""
