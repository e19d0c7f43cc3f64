"""What handlers are told besides the data, and where they set status and headers of answers."""

from __future__ import annotations

from typing import Any

from ts.context import BaseContext, RequestProcessor

__all__ = ["Context", "RequestProcessor"]


class Context(BaseContext):
    """The context of MMS's handlers."""

    def __init__(
        self, model_name: str, model_dir: str, manifest: Any, batch_size: int, gpu: int | None, mms_version: str
    ) -> None:
        properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
        }
        super().__init__(model_name, manifest, properties)
