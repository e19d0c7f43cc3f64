"""How many workers go to which device: TorchServe counts them over all devices, the registry per device. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from flowyard.schemas.devices import Device

CPU = Device("cpu")


def spread(low: int, high: int, devices: Sequence[Device]) -> dict[Device, tuple[int, int]]:
    """Shares workers out among devices as evenly as possible, the first ones first.

    Args:
        low: Least number of workers.
        high: Most workers.
        devices: Where they may be; at least one.

    Returns:
        Least and most workers of each device.
    """
    count = len(devices)
    return {device: (_share(low, count, at), _share(high, count, at)) for at, device in enumerate(devices)}


def with_gpus(number_gpu: int, low: int, high: int, gpus: Sequence[Device]) -> dict[Device, tuple[int, int]]:
    """Puts a number of workers on GPUs, and the rest on the CPU (TorchServe's early documents, `number_gpu`).

    Args:
        number_gpu: How many workers want a GPU; one each, as far as there are GPUs.
        low: Least number of workers.
        high: Most workers.
        gpus: The GPUs that there are.

    Returns:
        Least and most workers of each device.
    """
    on_gpus = min(max(number_gpu, 0), low, len(gpus))
    shares = {gpu: (1, 1) if at < on_gpus else (0, 0) for at, gpu in enumerate(gpus)}
    return {CPU: (low - on_gpus, high - on_gpus), **shares}


def _share(total: int, count: int, at: int) -> int:
    return total // count + (at < total % count)
