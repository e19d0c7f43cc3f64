"""Workers that a TorchServe's configuration counts over all devices together."""

from __future__ import annotations

import pytest
from support.archives import linear_onnx

from flowyard.platform.archives.names import LoadItem
from flowyard.platform.registry.planner import Planner
from flowyard.platform.registry.startup import AtStart, with_defaults
from flowyard.platform.settings import Settings
from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.plan import single_model_plan

GPUS = (Device("gpu", 0), Device("gpu", 1), Device("gpu", 2), Device("gpu", 3))
SAID = '{"m": {"1.0": {"minWorkers": 5, "maxWorkers": 8, "batchSize": 3}}}'


@pytest.mark.parametrize(("devices", "low", "high"), [((CPU,), 5, 8), ((CPU, *GPUS[:1]), 5, 8), ((CPU, *GPUS), 2, 2)])
def test_workers_are_shared_out_among_the_devices(tmp_path, devices, low, high):
    (tmp_path / "m.onnx").write_bytes(linear_onnx([[1.0]]))
    settings = Settings(dialects=("torchserve",), models=SAID)
    at_start = AtStart(settings, len(devices) - 1)
    spec = with_defaults(at_start.spec(LoadItem("m.onnx")), at_start.said("m", "1.0"))
    plan = single_model_plan("m", ModelSpec(url="m.onnx"))
    (pool,) = Planner(settings, devices).pool_specs("m", plan, tmp_path, spec, {}).values()
    assert (pool.min_workers, pool.max_workers, pool.spec.batch_size) == (low, high, 3)


def test_of_a_version_that_is_not_named_nothing_is_said():
    at_start = AtStart(Settings(models=SAID), 0)
    assert at_start.said("m", "2.0") is None
    assert at_start.said("n", "1.0") is None
