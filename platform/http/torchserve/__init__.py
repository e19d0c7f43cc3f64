"""TorchServe's API, version 0.12, as its clients know it; `mms/` is that of its ancestor, Multi Model Server."""
