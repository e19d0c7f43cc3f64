"""The default handlers of TorchServe."""
