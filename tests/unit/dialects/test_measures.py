"""TorchServe's metrics as text and as lines, and MMS's lines."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest

from flowyard.platform.http.mms.measures import MmsMeasures
from flowyard.platform.http.torchserve.descriptions import gpu_usage
from flowyard.platform.http.torchserve.entries import Model, Models
from flowyard.platform.http.torchserve.measures import MOST_DETECTED, Measures
from flowyard.platform.http.torchserve.meters import MOST_SERIES, Meter, java_number
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.records import Record
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.gpus import Gpus, GpuUse
from flowyard.platform.torchserve_metrics import Family
from flowyard.platform.workers.watchers import WorkerName
from flowyard.schemas.frames import Sample
from flowyard.schemas.models import ModelSpec

HOST = socket.gethostname()
WORKER = WorkerName(3, "noop", "2.0", "torchserve")
OF_MODEL = (("ModelName", "noop"), ("Level", "Model"))
RECORD = Record(name="noop", version="2.0", kind="model", url="noop.mar", digest="", spec=ModelSpec(), created="")
NOOP = Model(Entry(RECORD), "noop")


class Lines:
    def __init__(self) -> None:
        self.server: list[str] = []
        self.model: list[str] = []

    def server_metric(self, text: str) -> None:
        self.server.append(re.sub(r"timestamp:\d+$", "timestamp:T", text))

    def model_metric(self, text: str) -> None:
        self.model.append(re.sub(r"timestamp:\d+$", "timestamp:T", text))


def measures(lines: Lines | None = None, mode: str = "prometheus", **settings) -> Measures:
    return Measures(Models(Endpoints()), Settings(metrics_mode=mode, **settings), lines)


def told(measures: Measures, *names: str) -> list[str]:
    return [line for line in measures.text(names).decode().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1.0"),
        (0.0, "0.0"),
        (12.25, "12.25"),
        (9999999.5, "9999999.5"),
        (1e7, "1.0E7"),
        (12345678.9, "1.23456789E7"),
        (-2e9, "-2.0E9"),
        (0.001, "0.001"),
        (0.00025, "2.5E-4"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers_as_java_writes_them(number, text):
    assert java_number(number) == text


def test_what_handlers_measure_has_the_originals_names_and_labels():
    found = measures()
    found.measured(WORKER, [Sample("HandlerTime", "Milliseconds", "gauge", 82.93, OF_MODEL, "r")])
    found.measured(WORKER, [Sample("Seen", "Count", "counter", 2.0, OF_MODEL), Sample("Seen", "Count", "counter", 3.0, OF_MODEL)])
    assert found.text(["HandlerTime", "Seen"]).decode() == (
        "# HELP HandlerTime Torchserve prometheus gauge metric with unit: ms\n"
        "# TYPE HandlerTime gauge\n"
        f'HandlerTime{{ModelName="noop",Level="Model",Hostname="{HOST}",}} 82.93\n'
        "# HELP Seen Torchserve prometheus counter metric with unit: Count\n"
        "# TYPE Seen counter\n"
        f'Seen{{ModelName="noop",Level="Model",Hostname="{HOST}",}} 5.0\n'
    )


def test_a_histogram_has_the_buckets_of_the_java_client():
    found = measures()
    for value in (0.005, 0.3, 20.0):
        found.measured(WORKER, [Sample("Took", "s", "histogram", value, (("Level", "Model"),))])
    labels = f'Level="Model",Hostname="{HOST}",'
    lines = told(found, "Took")
    assert lines[0] == f'Took_bucket{{{labels}le="0.005",}} 1.0'
    assert lines[8] == f'Took_bucket{{{labels}le="0.75",}} 2.0'
    assert lines[13:] == [
        f'Took_bucket{{{labels}le="10.0",}} 2.0',
        f'Took_bucket{{{labels}le="+Inf",}} 3.0',
        f"Took_count{{{labels}}} 3.0",
        f"Took_sum{{{labels}}} 20.305",
    ]
    assert told(found, "Took_sum") == [f"Took_sum{{{labels}}} 20.305"]


DECLARED = """
ts_metrics:
  counter: [{name: Requests2XX, unit: Count, dimensions: [Where, Who]}]
model_metrics:
  counter: [{name: Seen, unit: count, dimensions: [Level, ModelName]}]
"""


def test_a_file_says_which_metrics_there_are(tmp_path):
    (tmp_path / "metrics.yaml").write_text(DECLARED)
    found = measures(metrics_config=str(tmp_path / "metrics.yaml"))
    found.answered(200)
    found.answered(404)
    found.predicted(NOOP, None, 0.5, 0.1)
    found.measured(
        WORKER, [Sample("Seen", "Count", "counter", 1.0, OF_MODEL), Sample("Other", "Count", "counter", 1.0, OF_MODEL)]
    )
    assert told(found) == [
        f'Requests2XX{{Where="Host",Who="{HOST}",}} 1.0',
        f'Seen{{Level="Model",ModelName="noop",Hostname="{HOST}",}} 1.0',
    ]


@pytest.mark.parametrize(("detect", "is_there"), [(None, True), (True, True), (False, False)])
def test_whether_undeclared_metrics_are_told(detect, is_there):
    found = measures(model_metrics_auto_detect=detect)
    found.measured(WORKER, [Sample("Seen", "Count", "counter", 1.0, OF_MODEL)])
    assert bool(told(found, "Seen")) is is_there


def test_detection_can_be_asked_for_beside_a_file(tmp_path):
    (tmp_path / "metrics.yaml").write_text(DECLARED)
    found = measures(metrics_config=str(tmp_path / "metrics.yaml"), model_metrics_auto_detect=True)
    found.measured(WORKER, [Sample("Other", "Count", "", 1.0)])
    assert told(found, "Other") == [f'Other{{Hostname="{HOST}",}} 1.0']


@pytest.mark.parametrize(
    "sample",
    [
        Sample("a b", "Count", "gauge", 1.0),
        Sample("", "Count", "gauge", 1.0),
        Sample("Requests2XX", "Count", "counter", 1.0, OF_MODEL),
        Sample("HandlerTime", "ms", "gauge", 1.0, (("Level", "Model"),)),
        Sample("Below", "Count", "counter", -1.0),
        Sample("Twice", "Count", "gauge", 1.0, (("a", "b"), ("a", "c"))),
        Sample("Twice", "Count", "gauge", 1.0, (("Hostname", "b"),)),
        Sample("Long", "Count", "gauge", 1.0, (("a", "b" * 1000),)),
    ],
)
def test_what_cannot_be_told_is_left_out(sample):
    found = measures(disable_system_metrics=True)
    found.measured(WORKER, [sample])
    assert told(found) == []


def test_handlers_cannot_fill_the_memory():
    found = measures(disable_system_metrics=True)
    found.measured(WORKER, [Sample(f"M{number}", "Count", "gauge", 1.0) for number in range(MOST_DETECTED + 5)])
    found.measured(WORKER, [Sample("M0", "Count", "gauge", 7.0)])
    assert len(told(found)) == MOST_DETECTED
    assert told(found, "M0") == [f'M0{{Hostname="{HOST}",}} 7.0']
    meter = Meter("X", Family("gauge", "Count", ("a",)))
    assert [meter.add((str(number),), 1.0) for number in range(MOST_SERIES + 1)][-2:] == [True, False]
    assert meter.add(("0",), 2.0)


def test_models_that_are_gone_make_room():
    found = measures()
    for number in range(MOST_SERIES + 1):
        model = Model(NOOP.entry, f"m{number}")
        found.predicted(model, None, 0.5, 0.1)
    assert told(found, "ts_inference_requests_total") == [
        f'ts_inference_requests_total{{model_name="m{MOST_SERIES}",model_version="default",hostname="{HOST}",}} 1.0'
    ]


def test_a_prediction():
    found = measures()
    found.predicted(NOOP, "2.0", 0.5, 0.125)
    labels = f'{{model_name="noop",model_version="2.0",hostname="{HOST}",}}'
    assert told(found, "ts_inference_latency_microseconds", "ts_queue_latency_microseconds", "QueueTime") == [
        f"ts_inference_latency_microseconds{labels} 500000.0",
        f"ts_queue_latency_microseconds{labels} 125000.0",
        f'QueueTime{{Level="Host",Hostname="{HOST}",}} 125.0',
    ]


def test_in_log_mode_there_are_lines_and_no_text():
    lines = Lines()
    found = measures(lines, "log")
    found.answered(200)
    found.predicted(NOOP, None, 0.5, 0.125)
    found.worker_ready(WORKER, 1.5)
    found.measured(WORKER, [Sample("HandlerTime", "Milliseconds", "gauge", 37.6, OF_MODEL, "r-1")])
    found.measured(WORKER, [Sample("Seen", "Count", "counter", 2.0, OF_MODEL)])
    assert found.text([]) == b""
    assert lines.server == [
        f"Requests2XX.Count:1.0|#Level:Host|#hostname:{HOST},timestamp:T",
        f"ts_inference_requests_total.Count:1.0|#model_name:noop,model_version:default|#hostname:{HOST},timestamp:T",
        f"ts_inference_latency_microseconds.Microseconds:500000.0|#model_name:noop,model_version:default|#hostname:{HOST},timestamp:T",
        f"ts_queue_latency_microseconds.Microseconds:125000.0|#model_name:noop,model_version:default|#hostname:{HOST},timestamp:T",
        f"QueueTime.Milliseconds:125.0|#Level:Host|#hostname:{HOST},timestamp:T",
        f"WorkerThreadTime.Milliseconds:375.0|#Level:Host|#hostname:{HOST},timestamp:T",
        f"WorkerLoadTime.Milliseconds:1500.0|#WorkerName:W-9002-noop_2.0,Level:Host|#hostname:{HOST},timestamp:T",
    ]
    assert lines.model[1:] == [
        f"HandlerTime.ms:37.6|#ModelName:noop,Level:Model|#hostname:{HOST},requestID:r-1,timestamp:T",
        f"Seen.Count:2.0|#ModelName:noop,Level:Model|#hostname:{HOST},requestID:null,timestamp:T",
    ]


def test_in_legacy_mode_three_are_text_and_the_others_lines():
    lines = Lines()
    found = measures(lines, "legacy")
    found.answered(500)
    found.predicted(NOOP, None, 0.5, 0.1)
    assert [line.partition("{")[0] for line in told(found)] == [
        "ts_inference_requests_total",
        "ts_inference_latency_microseconds",
        "ts_queue_latency_microseconds",
    ]
    assert [line.partition(".")[0] for line in lines.server] == ["Requests5XX", "QueueTime", "WorkerThreadTime"]


def test_in_prometheus_mode_there_are_no_lines():
    lines = Lines()
    found = measures(lines)
    found.answered(200)
    found.predicted(NOOP, None, 0.5, 0.1)
    found.worker_ready(WORKER, 1.0)
    found.watch_host()
    assert (lines.server, lines.model) == ([], [])


def test_the_machine_can_be_left_out():
    assert [line.partition("{")[0] for line in told(measures(), "MemoryUsed", "CPUUtilization")] == [
        "CPUUtilization",
        "MemoryUsed",
    ]
    assert told(measures(disable_system_metrics=True), "MemoryUsed") == []


def test_lines_about_the_machine():
    lines = Lines()

    async def watch() -> None:
        found = measures(lines, "log")
        found.watch_host()
        found.close()

    asyncio.run(watch())
    assert [line.partition(":")[0] for line in lines.server] == [
        "CPUUtilization.Percent",
        "MemoryUsed.Megabytes",
        "MemoryAvailable.Megabytes",
        "MemoryUtilization.Percent",
        "DiskUsage.Gigabytes",
        "DiskAvailable.Gigabytes",
        "DiskUtilization.Percent",
    ]


def test_mms_has_lines_alone():
    lines = Lines()
    found = MmsMeasures(Settings(), lines)
    found.answered(404)
    found.worker_ready(WORKER, 1.5)
    found.measured(WORKER, [Sample("PredictionTime", "Milliseconds", "gauge", 0.06, OF_MODEL, "r-1"), Sample("A", "b", "", 2.0)])
    assert lines.server == [
        f"Requests4XX.Count:1|#Level:Host|#hostname:{HOST},timestamp:T",
        f"W-noop-3.ms:1500|#Level:Host|#hostname:{HOST},timestamp:T",
    ]
    assert lines.model == [
        f"PredictionTime.Milliseconds:0.06|#ModelName:noop,Level:Model|#hostname:{HOST},requestID:r-1,timestamp:T",
        f"A.b:2|#|#hostname:{HOST},timestamp:T",
    ]


def gpus(*uses: GpuUse) -> Gpus:
    watched = Gpus(0)
    watched.latest = uses
    return watched


USES = (GpuUse(id=0, percent=97, memory_percent=41, memory_used_mb=70123), GpuUse(id=1, memory_used_mb=5))


def test_gpus_as_text():
    found = Measures(Models(Endpoints()), Settings(metrics_mode="prometheus"), None, watched := gpus(*USES))
    names = ("GPUMemoryUtilization", "GPUMemoryUsed", "GPUUtilization")
    assert told(found, *names) == [
        f'GPUMemoryUtilization{{Level="Host",DeviceId="0",Hostname="{HOST}",}} 41.0',
        f'GPUMemoryUsed{{Level="Host",DeviceId="0",Hostname="{HOST}",}} 70123.0',
        f'GPUMemoryUsed{{Level="Host",DeviceId="1",Hostname="{HOST}",}} 5.0',
        f'GPUUtilization{{Level="Host",DeviceId="0",Hostname="{HOST}",}} 97.0',
    ]
    watched.latest = ()
    assert told(found, *names) == []


def test_gpus_as_lines():
    async def run() -> list[str]:
        lines = Lines()
        found = Measures(Models(Endpoints()), Settings(metrics_mode="log"), lines, gpus(*USES))
        found.watch_host()
        found.close()
        return [line for line in lines.server if line.startswith("GPU")]

    behind = f"#hostname:{HOST},timestamp:T"
    assert asyncio.run(run()) == [
        f"GPUMemoryUtilization.Percent:41.0|#Level:Host,DeviceId:0|{behind}",
        f"GPUMemoryUsed.Megabytes:70123.0|#Level:Host,DeviceId:0|{behind}",
        f"GPUUtilization.Percent:97.0|#Level:Host,DeviceId:0|{behind}",
        f"GPUMemoryUsed.Megabytes:5.0|#Level:Host,DeviceId:1|{behind}",
    ]


def test_what_a_gpu_does_in_the_description_of_its_worker():
    assert gpu_usage(0, USES) == "gpuId::0 utilization.gpu [%]::97 % utilization.memory [%]::41 % memory.used [MiB]::70123 MiB"
    assert gpu_usage(1, USES) == "gpuId::1 utilization.gpu [%]::[N/A] utilization.memory [%]::[N/A] memory.used [MiB]::5 MiB"
    assert gpu_usage(2, USES) == "failed to obtained gpu usage"
