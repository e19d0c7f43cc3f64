"""MLServer's model: adaptive batching hands over requests that are already concatenated."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceResponse
from pipelines import environment_pipeline, rows_of


class Bench(MLModel):
    """Runs the workload of the environment."""

    async def load(self) -> bool:
        """Loads the models."""
        self._predict = environment_pipeline()
        return True

    async def predict(self, payload: Any) -> Any:
        """Answers a batch."""
        given = payload.inputs[0]
        if given.datatype == "BYTES":
            rows = np.concatenate([rows_of(body) for body in Base64Codec.decode_input(given)])
        else:
            rows = NumpyCodec.decode_input(given)
        output = NumpyCodec.encode_output("y", self._predict(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
