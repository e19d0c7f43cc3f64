"""MMS's inference API (TorchServe reference §2.7)."""

from __future__ import annotations

from flowyard.platform.http.torchserve import openapi
from flowyard.platform.http.torchserve.answers import Answer, json_answer, status_answer
from flowyard.platform.http.torchserve.inference import Inference, Prediction
from flowyard.platform.http.torchserve.inputs import Input
from flowyard.platform.http.torchserve.requests import HttpRequest
from flowyard.platform.http.torchserve.routes import Call, mms_call
from flowyard.schemas.errors import UnavailableError


class MmsInference(Inference):
    """Answers the inference API: no versions, no explanations."""

    def call_of(self, segments: tuple[str, ...]) -> Call | None:
        """What is to be predicted at a path, `None` for nothing."""
        return mms_call(segments)

    async def answer(self, request: HttpRequest) -> Answer | None:
        """Answers `/ping`, always with 200; `None` for anything else."""
        if request.segments[:1] != ("ping",):
            return None
        pools = [pool for model in self._models.default_models() if (pool := model.pool) is not None]
        if all(pool.healthy for pool in pools):
            return status_answer("Healthy")
        if any(pool.healthy for pool in pools) or not any(pool.failing for pool in pools):
            return status_answer("Partial Healthy")
        return status_answer("Unhealthy")

    def described(self, call: Call, request: HttpRequest) -> Answer:
        """The document of how to run a model."""
        return json_answer(openapi.mms_model(self.find(call, request).name))

    def named_in_form(self, inputs: list[Input]) -> str | None:
        """A form names no model here."""
        del inputs
        return None

    def no_worker(self, asked: Prediction) -> UnavailableError:
        """Nobody can answer now: no worker, or a full queue."""
        return UnavailableError(
            f"No worker is available to serve request for model: {asked.model.name}. Consider increasing job queue size."
        )
