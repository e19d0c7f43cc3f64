"""The other servers: how each is started as its documentation advises, and what it wants to be sent."""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.pipelines import BATCH_DELAY_MS
from benchmarks.processes import Process, free_port
from benchmarks.servers import PEERS, Place, Server, environment
from benchmarks.workloads import Workload
from flowyard.platform.bench.bodies import BYTES, JSON
from flowyard.platform.bench.target import Target

_TYPES = {"float32": "FP32", "uint8": "UINT8"}


def _v2_input(workload: Workload, **more: Any) -> dict[str, Any]:
    dtype = "uint8" if workload.kind == BYTES else "float32"
    return {"name": "x", "shape": list(workload.rows.shape), "datatype": _TYPES[dtype], **more}


def _v2_json(workload: Workload) -> bytes:
    """The same numbers in the envelope of the Open Inference Protocol."""
    rows = workload.rows.round(6) if workload.kind == JSON else workload.rows
    return json.dumps({"inputs": [_v2_input(workload, data=rows.reshape(-1).tolist())]}, separators=(",", ":")).encode()


def _v2_base64(workload: Workload) -> bytes:
    """A binary body in base64: MLServer's protocol is JSON, and numbers as text take it several times longer."""
    text = base64.b64encode(workload.body()).decode()
    given = {"name": "x", "shape": [1], "datatype": "BYTES", "data": [text], "parameters": {"content_type": "base64"}}
    return json.dumps({"inputs": [given]}, separators=(",", ":")).encode()


class TorchServe(Server):
    """TorchServe 0.12 on Java 17."""

    name = "torchserve"
    requirements = (
        "torchserve==0.12.0",
        "torch==2.13.0",
        "setuptools",
        "pyyaml",
        "psutil",
        "packaging",
        "numpy",
        "onnxruntime==1.31.1",
    )
    package = "torchserve"

    def missing(self) -> str:
        return super().missing() or ("" if shutil.which("java") else "no Java here")

    def start(self, workload: Workload, place: Place) -> Process:
        store = place.folder / "store"
        store.mkdir(parents=True, exist_ok=True)
        base = workload.load.split("=")[0]
        model = {"minWorkers": 1, "maxWorkers": 1, "batchSize": workload.batch_size, "maxBatchDelay": BATCH_DELAY_MS}
        model |= {"marName": "bench.mar", "responseTimeout": 120, "defaultVersion": True}
        self._configure(place, store, free_port(), {"models": json.dumps({base: {"1.0": model}})})
        self._archive(store, "bench.mar", base, "torchserve_handler.py")
        return self._process([*self._command(place, store), "--models", f"{base}=bench.mar"], workload, place)

    def _configure(self, place: Place, store: Path, management_port: int, more: dict[str, str]) -> None:
        settings = {
            "inference_address": f"http://127.0.0.1:{place.target.port}",
            "management_address": f"http://127.0.0.1:{management_port}",
            "metrics_address": f"http://127.0.0.1:{free_port()}",
            "grpc_inference_port": str(free_port()),
            "grpc_management_port": str(free_port()),
            "model_store": str(store),
            "disable_token_authorization": "true",
            "disable_system_metrics": "true",
            "install_py_dep_per_model": "false",
            **more,
        }
        (place.folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def _command(self, place: Place, store: Path) -> list[str]:
        argv = [str(place.venv / "bin" / "torchserve"), "--start", "--foreground", "--ncs", "--ts-config", "config.properties"]
        return [*argv, "--log-config", str(PEERS / "log4j2.xml"), "--model-store", str(store)]

    def _process(self, argv: list[str], workload: Workload, place: Place) -> Process:
        path = f"{place.venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        logs = str(place.folder / "logs")
        # It keeps the number of its process there, and takes that of another one for its own.
        more = {"PATH": path, "LOG_LOCATION": logs, "METRICS_LOCATION": logs, "TMPDIR": str(place.folder)}
        return Process(argv, place.folder, {**environment(workload, place), **more})

    def _archive(self, store: Path, file: str, name: str, handler: str) -> None:
        """A model archive by hand: a zip with a manifest, the handler, and what it imports."""
        model = {"modelName": name, "handler": f"{handler}:handle", "modelVersion": "1.0"}
        manifest = {"createdOn": "01/01/2026", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
        texts = {"MAR-INF/MANIFEST.json": json.dumps(manifest)}
        _zip(store / file, texts | {one: (PEERS / one).read_text() for one in (handler, "pipelines.py")})


class TorchServeWorkflow(TorchServe):
    """TorchServe's own workflow: each node a model with a worker of its own. It loses requests now and then."""

    name = "torchserve-war"
    only = "dag"
    shares = "torchserve"
    answer_limit_s = 10.0

    def start(self, workload: Workload, place: Place) -> Process:
        store = place.folder / "store"
        store.mkdir(parents=True, exist_ok=True)
        management_port = free_port()
        self._configure(place, store, management_port, {"workflow_store": str(store)})
        for name in ("a", "b"):
            self._archive(store, f"{name}.mar", name, "torchserve_model.py")
        _zip(store / "bench.war", self._workflow(workload))
        command = [str(PEERS / "torchserve_workflow.py"), str(management_port), "bench.war", *self._command(place, store)]
        return self._process([place.python, *command, "--workflow-store", str(store)], workload, place)

    def _workflow(self, workload: Workload) -> dict[str, str]:
        nodes = {"min-workers": 1, "max-workers": 1, "batch-size": workload.batch_size, "max-batch-delay": BATCH_DELAY_MS}
        models = nodes | {"retry-attempts": 1, "timeout-ms": 10_000, "a": {"url": "a.mar"}, "b": {"url": "b.mar"}}
        graph = {"prepare": ["a", "b"], "a": ["merge"], "b": ["merge"]}
        manifest = {
            "createdOn": "01/01/2026",
            "workflow": {"workflowName": "bench", "specFile": "spec.yaml", "handler": "torchserve_functions.py"},
            "archiverVersion": "0.2.15",
        }
        return {
            "WAR-INF/MANIFEST.json": json.dumps(manifest),
            # JSON is YAML.
            "spec.yaml": json.dumps({"models": models, "dag": graph}),
            "torchserve_functions.py": (PEERS / "torchserve_functions.py").read_text(),
        }

    def request(self, workload: Workload, target: Target) -> bytes:
        return target.request("POST", "/wfpredict/bench", workload.body(), BYTES)


def _zip(file: Path, texts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)


class MLServer(Server):
    """MLServer: the model in the server's own process, which is faster on one core, and adaptive batching."""

    name = "mlserver"
    requirements = ("mlserver==1.7.1", "numpy", "onnxruntime==1.31.1")
    package = "mlserver"

    def lacks(self, workload: Workload) -> str:
        return "no PyTorch in its environment" if workload.name == "resnet-torch" else ""

    def start(self, workload: Workload, place: Place) -> Process:
        place.folder.mkdir(parents=True, exist_ok=True)
        settings = {"debug": False, "host": "127.0.0.1", "http_port": place.target.port, "grpc_port": free_port()}
        settings |= {"metrics_endpoint": None, "parallel_workers": 0, "gzip_enabled": False, "use_structured_logging": False}
        model = {"name": "bench", "implementation": "mlserver_model.Bench"}
        model |= {"max_batch_size": workload.batch_size, "max_batch_time": BATCH_DELAY_MS / 1000}
        (place.folder / "settings.json").write_text(json.dumps(settings))
        (place.folder / "model-settings.json").write_text(json.dumps(model))
        return Process([str(place.venv / "bin" / "mlserver"), "start", "."], place.folder, environment(workload, place))

    def request(self, workload: Workload, target: Target) -> bytes:
        body = _v2_json(workload) if workload.kind == JSON else _v2_base64(workload)
        return target.request("POST", "/v2/models/bench/infer", body, JSON)

    def answer(self, body: bytes, head: bytes) -> Any:
        return np.asarray(json.loads(body)["outputs"][0]["data"], np.float64)


class LitServe(Server):
    """LitServe with one API server and one worker."""

    name = "litserve"
    requirements = ("litserve==0.2.19", "python-multipart", "numpy", "onnxruntime==1.31.1")
    package = "litserve"

    def lacks(self, workload: Workload) -> str:
        return "no PyTorch in its environment" if workload.name == "resnet-torch" else ""

    def start(self, workload: Workload, place: Place) -> Process:
        return Process([place.python, str(PEERS / "lit_server.py")], place.folder, environment(workload, place))

    def request(self, workload: Workload, target: Target) -> bytes:
        if workload.kind == JSON:
            return target.request("POST", "/predict", workload.body(), JSON)
        mark = "fy-"
        head = f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="body"\r\nContent-Type: {BYTES}\r\n\r\n'
        form = head.encode() + workload.body() + f"\r\n--{mark}--\r\n".encode()
        return target.request("POST", "/predict", form, f"multipart/form-data; boundary={mark}")


class Triton(Server):
    """The Triton server that the nvidia-pytriton wheel carries, run directly, with its Python backend.

    Attributes:
        batching: What its dynamic batcher is told.
    """

    name = "triton"
    batching = ""
    requirements = ("nvidia-pytriton==0.7.0", "numpy", "onnxruntime==1.31.1")
    package = "nvidia-pytriton"

    def lacks(self, workload: Workload) -> str:
        return "no PyTorch in its environment" if workload.name == "resnet-torch" else ""

    def start(self, workload: Workload, place: Place) -> Process:
        (site,) = (place.venv / "lib").glob("python3.*/site-packages")
        triton, version = site / "pytriton" / "tritonserver", site.parent.name.removeprefix("python")
        backends = place.folder / "backends"
        shutil.copytree(triton / "backends", backends, dirs_exist_ok=True)
        stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy2(stub, backends / "python")
        self._write_models(workload, place.folder / "models")
        argv = [str(triton / "bin" / "tritonserver"), f"--model-repository={place.folder / 'models'}"]
        argv += [f"--backend-directory={backends}", f"--http-port={place.target.port}", "--http-address=127.0.0.1"]
        argv += ["--allow-grpc=false", "--allow-metrics=false", "--log-info=false"]
        env = dict(environment(workload, place))
        env["PYTHONPATH"] += f":{site}"
        env["LD_LIBRARY_PATH"] = ":".join(map(str, (*site.glob("nvidia_pytriton.libs"), _libpython(place))))
        return Process(argv, place.folder, env)

    def _write_models(self, workload: Workload, folder: Path) -> None:
        """Writes the model repository."""
        dims_in = ", ".join(map(str, workload.rows.shape[1:]))
        dims_out = {"large": 1, "resnet-onnx": 1000}.get(workload.name, 10)
        kind = _TYPES["uint8" if workload.kind == BYTES else "float32"]
        config = _triton_config("bench", workload.batch_size, {"x": (kind, dims_in)}, str(dims_out), self.batching)
        _write_triton_model(folder / "bench", config, "triton_model.py")

    def request(self, workload: Workload, target: Target) -> bytes:
        path = "/v2/models/bench/infer"
        if workload.kind == JSON:
            return target.request("POST", path, _v2_json(workload), JSON)
        content = workload.rows.tobytes()
        described = {"inputs": [_v2_input(workload, parameters={"binary_data_size": len(content)})]}
        described |= {"parameters": {"binary_data_output": True}}
        head = json.dumps(described, separators=(",", ":")).encode()
        return target.request("POST", path, head + content, BYTES, (f"Inference-Header-Content-Length: {len(head)}",))

    def answer(self, body: bytes, head: bytes) -> Any:
        lowered = head.lower()
        mark = b"inference-header-content-length:"
        if mark not in lowered:
            return np.asarray(json.loads(body)["outputs"][0]["data"], np.float64)
        length = int(lowered.split(mark)[1].split(b"\r\n")[0])
        return np.frombuffer(body[length:], np.float32)


def _libpython(place: Place) -> Path:
    """Folder of the shared library of the environment's interpreter."""
    return Path(place.python).resolve().parents[1] / "lib"


class TritonTimer(Triton):
    """Triton as it waits for its batches, for as long as those that cannot batch without waiting."""

    name = "triton-timer"
    batching = f"max_queue_delay_microseconds: {BATCH_DELAY_MS * 1000}"
    only = "mlp-npy"
    shares = "triton"


class TritonEnsemble(Triton):
    """Triton's own ensemble: each step a model of its Python backend with an interpreter of its own."""

    name = "triton-ensemble"
    only = "dag"
    shares = "triton"

    def _write_models(self, workload: Workload, folder: Path) -> None:
        size = workload.batch_size
        inputs = {
            "prepare": {"x": ("UINT8", "784")},
            "a": {"x": ("FP32", "784")},
            "b": {"x": ("FP32", "784")},
            "merge": {"left": ("FP32", "10"), "right": ("FP32", "10")},
        }
        for name, given in inputs.items():
            dims_out = "784" if name == "prepare" else "10"
            _write_triton_model(folder / name, _triton_config(name, size, given, dims_out), "triton_step.py")
        steps = (
            ("prepare", {"x": "x"}, "pixels"),
            ("a", {"x": "pixels"}, "of_a"),
            ("b", {"x": "pixels"}, "of_b"),
            ("merge", {"left": "of_a", "right": "of_b"}, "y"),
        )
        _write_triton_model(folder / "bench", _ensemble_config(size, steps), "")


def _write_triton_model(folder: Path, config: str, code: str) -> None:
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    if code:
        shutil.copy(PEERS / code, folder / "1" / "model.py")


def _triton_config(name: str, batch_size: int, inputs: Mapping[str, tuple[str, str]], dims_out: str, batching: str = "") -> str:
    """A model of the Python backend: its inputs by name, each with type and sizes, and its output `y`."""
    given = ", ".join(f'{{ name: "{key}", data_type: TYPE_{kind}, dims: [{dims}] }}' for key, (kind, dims) in inputs.items())
    return (
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: {batch_size}\ninput [{given}]\n'
        f'output [{{ name: "y", data_type: TYPE_FP32, dims: [{dims_out}] }}]\n'
        f"instance_group [{{ count: 1, kind: KIND_CPU }}]\ndynamic_batching {{ {batching} }}\n"
    )


def _ensemble_config(batch_size: int, steps: Sequence[tuple[str, Mapping[str, str], str]]) -> str:
    """The ensemble of the workload `dag`: of each step the model, what its inputs are, and what its output is called."""

    def mapped(kind: str, pairs: Mapping[str, str]) -> str:
        return " ".join(f'{kind}_map {{ key: "{key}" value: "{value}" }}' for key, value in pairs.items())

    told = ", ".join(
        f'{{ model_name: "{model}" model_version: -1 {mapped("input", given)} {mapped("output", {"y": output})} }}'
        for model, given, output in steps
    )
    return (
        f'name: "bench"\nplatform: "ensemble"\nmax_batch_size: {batch_size}\n'
        'input [{ name: "x", data_type: TYPE_UINT8, dims: [784] }]\n'
        'output [{ name: "y", data_type: TYPE_FP32, dims: [10] }]\n'
        f"ensemble_scheduling {{ step [{told}] }}\n"
    )


class RayServe(Server):
    """Ray Serve with one replica.

    Attributes:
        arguments: Those of its server program.
    """

    name = "ray"
    requirements = ("ray[serve]==2.60.0", "numpy", "onnxruntime==1.31.1")
    package = "ray"
    arguments: tuple[str, ...] = ()

    def lacks(self, workload: Workload) -> str:
        return "no PyTorch in its environment" if workload.name == "resnet-torch" else ""

    def start(self, workload: Workload, place: Place) -> Process:
        env = {**environment(workload, place), "BENCH_TEMP": str(place.folder / "ray"), "RAY_USAGE_STATS_ENABLED": "0"}
        return Process([place.python, str(PEERS / "ray_server.py"), *self.arguments], place.folder, env)

    def request(self, workload: Workload, target: Target) -> bytes:
        return target.request("POST", "/", workload.body(), workload.kind)


class RayGraph(RayServe):
    """Ray Serve's own composition: each step a deployment with a replica of its own, and one that calls them."""

    name = "ray-graph"
    arguments = ("graph",)
    only = "dag"
    shares = "ray"


def peers() -> list[Server]:
    """All of them, the heavy ones last."""
    triton, torchserve = [Triton(), TritonTimer(), TritonEnsemble()], [TorchServe(), TorchServeWorkflow()]
    return [*triton, MLServer(), LitServe(), *torchserve, RayServe(), RayGraph()]
