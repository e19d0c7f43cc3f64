"""How workers are shared out among devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.http.torchserve.placement import CPU, spread, with_gpus
from flowyard.schemas.devices import Device

GPUS = [Device("gpu", number) for number in range(4)]
COUNTS = st.integers(0, 50)


@given(COUNTS, COUNTS, st.integers(1, 4))
def test_no_worker_is_lost_and_no_device_has_two_more_than_another(low, more, devices):
    shares = spread(low, low + more, GPUS[:devices])
    assert sum(share[0] for share in shares.values()) == low
    assert sum(share[1] for share in shares.values()) == low + more
    lows = [share[0] for share in shares.values()]
    assert max(lows) - min(lows) <= 1


@pytest.mark.parametrize(
    ("number", "low", "gpus", "on_cpu", "on_gpus"),
    [(2, 3, 4, 1, 2), (5, 3, 4, 0, 3), (5, 6, 2, 4, 2), (0, 3, 4, 3, 0), (2, 3, 0, 3, 0)],
)
def test_number_gpu_puts_workers_on_gpus_and_the_rest_on_the_cpu(number, low, gpus, on_cpu, on_gpus):
    shares = with_gpus(number, low, low, GPUS[:gpus])
    assert shares[CPU] == (on_cpu, on_cpu)
    assert sum(share[0] for device, share in shares.items() if device != CPU) == on_gpus
