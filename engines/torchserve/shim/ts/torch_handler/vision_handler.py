"""What the default handlers of images have in common."""

from __future__ import annotations

import base64
import io
from abc import ABC
from typing import Any

import torch
from PIL import Image

from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler


class VisionHandler(BaseHandler, ABC):
    """Makes tensors of images; derived classes say how in `image_processing`."""

    def initialize(self, context: Any) -> None:
        """Loads the model."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None

    @property
    def ig(self) -> Any:
        """Integrated gradients of the model; captum is only needed for explanations."""
        from captum.attr import IntegratedGradients

        return IntegratedGradients(self.model)

    @timed
    def preprocess(self, data: Any) -> Any:
        """Reads the images of a batch: bytes of a file, Base64 text, or a nested list of numbers."""
        return torch.stack([self._image(row.get("data") or row.get("body")) for row in data]).to(self.device)

    def _image(self, given: Any) -> Any:
        if isinstance(given, str):
            given = base64.b64decode(given)
        if not isinstance(given, bytes | bytearray):
            return torch.FloatTensor(given)
        return self.image_processing(Image.open(io.BytesIO(given)))  # type: ignore[attr-defined]

    def get_insights(self, tensor_data: Any, _: Any, target: int = 0) -> Any:
        """How much each input value matters for a class."""
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()
