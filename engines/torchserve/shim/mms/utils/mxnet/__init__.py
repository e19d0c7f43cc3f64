"""What works on MXNet's arrays. MXNet is retired, and has no release for the Pythons that run this server."""


def refuse(name: str) -> None:
    """Says so, where a handler imports one of these modules.

    Raises:
        ImportError: Always.
    """
    raise ImportError(f"{name} needs MXNet, which is retired and cannot run here; export the model to ONNX and load that instead")
