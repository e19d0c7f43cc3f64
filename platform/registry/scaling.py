"""Changes of the number of workers: pure data."""

from __future__ import annotations

import msgspec

from flowyard.platform.workers.pool import ModelPool
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import InvalidRequestError


class Scaling(msgspec.Struct, frozen=True):
    """A change of the number of workers; `None` leaves a number as it is.

    Attributes:
        min_worker: Least number of workers per device.
        max_worker: Most workers per device; raised to the minimum where only that is given.
        device: The device meant, all of the model's when `None`. The model is loaded there if it is not yet.
        model: The local name of the model meant, all of the workflow's when `None`.
    """

    min_worker: int | None = None
    max_worker: int | None = None
    device: Device | None = None
    model: str | None = None

    def on(self, pool: ModelPool) -> list[Device]:
        """The devices of a model that the change is for."""
        return [group.device for group in pool.groups] if self.device is None else [self.device]

    def apply(self, pool: ModelPool, device: Device) -> tuple[int, int]:
        """Minimum and maximum on a device, after the change.

        Raises:
            InvalidRequestError: The minimum would be over the maximum, or the model's workers are not on such a device.
        """
        if not pool.spec.may_run_on(device):
            firsts = ", ".join(map(str, pool.spec.gpus))
            raise InvalidRequestError(f"Parameter device: a worker of {pool.spec.name} takes several GPUs: expected {firsts}.")
        group = next((group for group in pool.groups if group.device == device), None)
        low = self.min_worker if self.min_worker is not None else (group.min if group else 1)
        high = self.max_worker if self.max_worker is not None else max(low, group.max if group else 1)
        if low > high:
            if self.min_worker is not None:
                raise InvalidRequestError(f"Parameter min_worker: {low} is over max_worker: {high}.")
            low = high
        return low, high
