"""What `model-config.yaml` says of models that several processes serve, and what is wrong about it."""

import asyncio
import json

import msgspec
import pytest
import yaml

from flowyard.engines.torchserve.folder import recognise
from flowyard.engines.torchserve.parallel import parallel_of
from flowyard.platform.registry.planner import Planner
from flowyard.platform.registry.scaling import Scaling
from flowyard.platform.settings import Settings
from flowyard.platform.workers.pool import ModelPool
from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.errors import InvalidModelError, InvalidRequestError
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.ranks import Ranks
from flowyard.workflows.plan import single_model_plan

MANIFEST = {"createdOn": "x", "archiverVersion": "0.12.0", "model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0"}}
GPUS = tuple(Device("gpu", number) for number in range(5))


def write(folder, config):
    """A model's folder."""
    (folder / "MAR-INF").mkdir(exist_ok=True)
    manifest = MANIFEST | {"model": MANIFEST["model"] | {"configFile": "model-config.yaml"}}
    (folder / "MAR-INF/MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "h.py").write_text("def handle(data, context): return data\n")
    (folder / "model-config.yaml").write_text(config)
    return folder


def planned(folder, config, *available, **said):
    """The pool of a model."""
    folder = write(folder, config)
    planner = Planner(Settings(**said), (CPU, *available))
    plan = single_model_plan("m", ModelSpec(url="."))
    (pool,) = planner.pool_specs("m", plan, folder, ModelSpec(), {}).values()
    return pool


@pytest.mark.parametrize(
    ("config", "ranks"),
    [
        ("batchSize: 2", None),
        ("parallelLevel: 0", None),
        ("parallelLevel: 3", None),
        ("torchrun: {nproc-per-node: 3}", None),
        ("parallelType: none\nparallelLevel: 3", None),
        ("parallelType:\nparallelLevel: 3", None),
        ("parallelType: custom", None),
        ("parallelType: custom\nparallelLevel: 1", None),
        ("parallelType: custom\nparallelLevel: 2", Ranks(devices=2)),
        ("parallelType: tp\nparallelLevel: 2", Ranks(launcher="torchrun", count=2, devices=2)),
        ("parallelType: TP\ntorchrun: {nproc-per-node: 4}", Ranks(launcher="torchrun", count=4, devices=4)),
        ("parallelType: pptp\nparallelLevel: 2\ntorchrun: {}", Ranks(launcher="torchrun", count=2, devices=2)),
        ("parallelType: tp\ntorchrun: {rdzv-backend: c10d, tee: '3'}", Ranks(launcher="torchrun")),
        ("parallelType: pp\nparallelLevel: 1", Ranks(launcher="torchrun", leads=True)),
        (
            "parallelType: pp\ntorchrun: {nproc-per-node: 2, nnodes: 1, node-rank: 0, OMP_NUMBER_THREADS: 3}",
            Ranks(launcher="torchrun", count=2, devices=2, leads=True, threads=3),
        ),
    ],
)
def test_the_processes_that_a_worker_is_made_of(config, ranks):
    assert parallel_of(yaml.safe_load(config)).ranks == ranks


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("parallelType: xx\nparallelLevel: 2", "parallelType: 'xx' is not known; expected pp, tp, pptp, custom, or none"),
        ("parallelType: 3", "parallelType: 3 is not known"),
        ("parallelType: [tp]", r"parallelType: \['tp'\] is not known"),
        ("parallelType: tp", "parallelType: 'tp' needs parallelLevel, or nproc-per-node under torchrun"),
        ("parallelType: tp\ntorchrun: 3", "parallelType: 'tp' needs parallelLevel"),
        ("parallelType: tp\nparallelLevel: 0", "parallelLevel: 0 is not allowed; expected a number from 1 to 64"),
        ("parallelType: custom\nparallelLevel: 0", "parallelLevel: 0 is not allowed"),
        ("parallelType: tp\nparallelLevel: -2", "parallelLevel: -2 is not allowed"),
        ("parallelLevel: -2", "parallelLevel: -2 is not allowed; expected a number from 0 to 64"),
        ("parallelType: tp\nparallelLevel: 65", "parallelLevel: 65 is not allowed"),
        ("parallelType: tp\nparallelLevel: two", "parallelLevel: 'two' is not allowed"),
        ("parallelLevel: two", "parallelLevel: 'two' is not allowed"),
        ("parallelType: tp\nparallelLevel: '2'", "parallelLevel: '2' is not allowed"),
        ("parallelType: tp\nparallelLevel: true", "parallelLevel: True is not allowed"),
        ("parallelType: tp\nparallelLevel: 2.0", "parallelLevel: 2.0 is not allowed"),
        (
            "parallelType: tp\nparallelLevel: 2\ntorchrun: {nproc-per-node: 4}",
            "parallelLevel: 2 is not 4, which nproc-per-node under torchrun says; leave one of them out",
        ),
        ("parallelType: tp\ntorchrun: {nproc-per-node: 0}", "torchrun: nproc-per-node: 0 is not allowed"),
        ("parallelType: tp\ntorchrun: {nproc-per-node: gpu}", "torchrun: nproc-per-node: 'gpu' is not allowed"),
        (
            "parallelType: tp\ntorchrun: {nproc-per-node: 2, nnodes: 2}",
            "torchrun: nnodes: 2 is not possible: all ranks of a worker",
        ),
        ("parallelType: tp\ntorchrun: {nproc-per-node: 2, nnodes: '1:2'}", "torchrun: nnodes: '1:2' is not allowed"),
        ("parallelType: tp\ntorchrun: {nproc-per-node: 2, node-rank: 1}", "torchrun: node-rank: 1 is not possible"),
        (
            "parallelType: tp\ntorchrun: {nproc-per-node: 2, OMP_NUMBER_THREADS: 0}",
            "torchrun: OMP_NUMBER_THREADS: 0 is not allowed",
        ),
        ("parallelType: pp\nparallelLevel: 2\nasyncCommunication: true", "asyncCommunication: not with parallelType 'pp'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, config, words):
    with pytest.raises(InvalidModelError, match=rf"^model-config\.yaml: {words}"):
        recognise(write(tmp_path, config))


@pytest.mark.parametrize("key", ["asyncCommunication", "continuousBatching"])
@pytest.mark.parametrize("parallel", ["parallelType: custom\nparallelLevel: 2", "parallelType: tp\nparallelLevel: 1"])
def test_one_process_may_call_handlers_in_any_way(tmp_path, key, parallel):
    assert recognise(write(tmp_path, f"{parallel}\n{key}: true\n")).is_asynchronous


def test_what_has_no_effect_is_logged(caplog):
    parallel_of({"parallelLevel": 2})
    assert "parallelLevel or torchrun without parallelType: one process serves the model, as in TorchServe" in caplog.text
    caplog.clear()
    parallel_of({"parallelType": "tp", "torchrun": {"nproc-per-node": 2, "nproc_per_node": 3}})
    assert "torchrun.nproc_per_node: unsupported parameter" in caplog.text


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ("parallelLevel: 3", {}),
        ("parallelType: custom", {"parallelType": "custom", "parallelLevel": 0}),
        ("parallelType: TP\ntorchrun: {nproc-per-node: 4}", {"parallelType": "tp", "parallelLevel": 4}),
    ],
)
def test_descriptions_tell_what_counts(tmp_path, config, shown):
    assert json.loads(recognise(write(tmp_path, config)).config.as_json()) == shown


@pytest.mark.parametrize(
    ("config", "gpus"),
    [
        ("", {0: (0, 1), 2: (2, 3)}),
        ("deviceIds: [3, 1, 0]", {3: (3, 1)}),
        ("deviceIds: [4, 2, 0, 1]", {4: (4, 2), 0: (0, 1)}),
        ("deviceIds: [0, 9]", {0: (0, 1), 2: (2, 3)}),
    ],
)
@pytest.mark.parametrize("kind", ["tp", "custom"])
def test_each_worker_takes_as_many_gpus_as_the_model_asks_for(tmp_path, config, gpus, kind):
    pool = planned(tmp_path, f"parallelType: {kind}\nparallelLevel: 2\nminWorkers: 1\n{config}", *GPUS)
    assert pool.devices == tuple(Device("gpu", first) for first in gpus)
    assert {device.id: pool.ranks_on(device).gpus for device in pool.devices} == gpus
    assert pool.processes == (2 if kind == "tp" else 1)


def test_on_the_cpu_the_ranks_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("flowyard.platform.registry.planner.cpu_count", lambda: 12)
    text = "parallelType: tp\nparallelLevel: 3\nminWorkers: 2\nmaxWorkers: 2\n"
    pool = planned(tmp_path, text, silent_limit_s=4.0)
    assert (pool.devices, pool.threads, pool.processes) == ((CPU,), 2, 3)
    expected = Ranks(launcher="torchrun", count=3, devices=3, name="m", silent_limit_s=4.0)
    assert pool.ranks_on(CPU) == expected
    own = planned(tmp_path, text.replace("parallelLevel: 3", "torchrun: {nproc-per-node: 3, OMP_NUMBER_THREADS: 5}"))
    assert (own.threads, own.ranks_on(CPU)) == (5, msgspec.structs.replace(expected, threads=5, silent_limit_s=10.0))
    cpu = planned(tmp_path, f"{text}deviceType: cpu\n", *GPUS)
    assert (cpu.devices, cpu.ranks_on(CPU).gpus) == ((CPU,), ())


@pytest.mark.parametrize("config", ["parallelLevel: 6", "parallelLevel: 3\ndeviceIds: [0, 1]"])
def test_fewer_gpus_than_a_worker_takes(tmp_path, config):
    with pytest.raises(InvalidModelError, match=r"^No enough gpu devices for model:m parallelLevel:[36] \(each worker takes"):
        planned(tmp_path, f"parallelType: tp\n{config}\n", *GPUS)


def djl(folder, properties, *available):
    (folder / "serving.properties").write_text(properties)
    (folder / "model.py").write_text("def handle(inputs): return None\n")
    planner = Planner(Settings(), (CPU, *available))
    (pool,) = planner.pool_specs("m", single_model_plan("m", ModelSpec(url=".")), folder, ModelSpec(), {}).values()
    return pool


@pytest.mark.parametrize(
    ("properties", "available", "gpus", "processes"),
    [
        ("engine=Python", GPUS, {}, 1),
        ("engine=Python\noption.tensor_parallel_degree=1", GPUS, {}, 1),
        ("engine=Python\noption.tensor_parallel_degree=2", GPUS, {0: (0, 1), 2: (2, 3)}, 1),
        ("engine=Python\noption.tensor_parallel_degree=max", GPUS, {0: (0, 1, 2, 3, 4)}, 1),
        ("engine=Python\noption.mpi_mode=true\noption.tensor_parallel_degree=2", GPUS, {0: (0, 1), 2: (2, 3)}, 2),
        ("engine=MPI\noption.tensor_parallel_degree=2\noption.pipeline_parallel_degree=2", GPUS, {0: (0, 1, 2, 3)}, 4),
        ("engine=MPI", GPUS, {0: (0, 1, 2, 3, 4)}, 5),
        ("engine=MPI\noption.tensor_parallel_degree=2", (), {-1: ()}, 2),
        ("engine=MPI", (), {-1: ()}, 1),
    ],
)
def test_what_djl_s_degrees_ask_for(tmp_path, properties, available, gpus, processes):
    pool = djl(tmp_path, properties, *available)
    assert {device.id: several for device, several in pool.gpus.items()} == gpus
    assert pool.processes == processes
    if gpus:
        assert pool.devices == tuple(pool.gpus)


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ("engine=MPI\noption.tensor_parallel_degree=0", "option.tensor_parallel_degree: '0' is not allowed; expected a number"),
        ("engine=Python\noption.tensor_parallel_degree=two", "option.tensor_parallel_degree: 'two' is not allowed"),
        ("engine=Python\noption.pipeline_parallel_degree=-1", "option.pipeline_parallel_degree: '-1' is not allowed"),
        ("engine=MPI\noption.tensor_parallel_degree=64\noption.pipeline_parallel_degree=2", "128 processes are more than 64"),
        ("engine=MPI\noption.async_mode=true\noption.tensor_parallel_degree=2", "async_mode: not with several processes"),
    ],
)
def test_wrong_degrees(tmp_path, properties, words):
    with pytest.raises(InvalidModelError, match=rf"^serving\.properties:.*{words}"):
        djl(tmp_path, properties)


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        ("parallelType: tp\nparallelLevel: 2", {CPU, GPUS[0], GPUS[2]}),
        ("parallelType: custom\nparallelLevel: 3", {CPU, GPUS[0]}),
        ("parallelType: tp\nparallelLevel: 1", {CPU, *GPUS}),
        ("", {CPU, *GPUS}),
    ],
)
def test_where_workers_may_be_added(tmp_path, config, allowed):
    pool = planned(tmp_path, f"minWorkers: 1\n{config}\n", *GPUS)
    assert {device for device in (CPU, *GPUS) if pool.may_run_on(device)} == allowed
    if pool.ranks is not None and pool.ranks.devices == 1:
        assert pool.ranks_on(Device("gpu", 7)).gpus == (7,)


def test_scaling_on_a_gpu_that_is_not_a_worker_s_first_one(tmp_path):
    spec = planned(tmp_path, "parallelType: tp\nparallelLevel: 2\nminWorkers: 1\n", *GPUS)

    async def scale():
        pool = ModelPool(spec)
        assert Scaling(2, 2, GPUS[2]).apply(pool, GPUS[2]) == (2, 2)
        with pytest.raises(InvalidRequestError, match="Parameter device: a worker of m takes several GPUs: expected gpu0, gpu2"):
            Scaling(1, 1, GPUS[1]).apply(pool, GPUS[1])

    asyncio.run(scale())
