"""Multi Model Server's API, version 1.1.11: what TorchServe came from. What both have is in `torchserve/`."""
