"""What handlers are told besides the data, and where they set status and headers of answers."""

from __future__ import annotations

import os
from typing import Any


class RequestProcessor:
    """Headers of one request; status and headers of its answer."""

    def __init__(self, request_header: dict[str, Any]) -> None:
        self._request_header = request_header
        self._status_code = 200
        self._reason_phrase: str | None = None
        self._response_header: dict[str, str] = {}

    def get_request_property(self, key: str) -> Any:
        """A header in the case that it is asked for; the server hands all of them over in lower case."""
        if key in self._request_header:
            return self._request_header[key]
        wanted = key.lower()
        return next((value for name, value in self._request_header.items() if name.lower() == wanted), None)

    def get_request_properties(self) -> dict[str, Any]:
        """All headers, and the content type of each parameter under its name."""
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Sets the status of the answer."""
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        """The status of the answer."""
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        """What the handler says of the status."""
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Sets a header of the answer."""
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        """One header of the answer."""
        return self._response_header.get(key)


class BaseContext:
    """What the contexts of TorchServe and MMS have in common."""

    def __init__(self, model_name: str, manifest: Any, system_properties: dict[str, Any]) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties = system_properties
        self.request_ids: dict[int, str] | None = None
        self.request_processor: Any = None
        self.metrics: Any = None
        #: Takes pieces of answers, where the original has a socket.
        self.cl_socket: Any = None

    @property
    def system_properties(self) -> dict[str, Any]:
        """`model_dir`, `gpu_id`, `batch_size`, `server_name`, `server_version`."""
        return self._system_properties

    def get_request_id(self, idx: int = 0) -> str | None:
        """The id of a request."""
        return (self.request_ids or {}).get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """A header of a request."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """All headers of a request."""
        headers: dict[str, Any] = self.request_processor[idx].get_request_properties()
        return headers

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Sets the content type of an answer."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """The content type of an answer."""
        return self.get_response_headers(idx).get("content-type")

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Status and phrase of an answer."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Sets the status of an answer."""
        if self.request_processor is not None and self.request_processor[idx] is not None:
            self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Sets the status of all answers."""
        for processor in self.request_processor:
            processor.report_status(code, reason_phrase=phrase)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """The headers of an answer."""
        headers: dict[str, str] = self.request_processor[idx].get_response_headers()
        return headers

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Sets a header of an answer."""
        self.request_processor[idx].add_response_property(key, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    __hash__ = object.__hash__


class Context(BaseContext):
    """The context of TorchServe's handlers."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: Any,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        super().__init__(model_name, manifest, properties)
        self.metrics = metrics
        self.model_yaml_config = model_yaml_config
        self.stopping_criteria: Any = None
        #: Whether the default handlers may read files that can run code (pickle).
        self.trusted = False
        self.header_key_sequence_id = os.getenv("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = os.getenv("TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start")
        self.header_key_sequence_end = os.getenv("TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end")

    def get_sequence_id(self, idx: int) -> str:
        """The sequence that a request belongs to, empty for none."""
        return self.get_request_header(idx, self.header_key_sequence_id) or ""
