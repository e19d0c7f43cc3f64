"""The other servers: how each is started as its documentation advises, and what it wants to be sent."""

from __future__ import annotations

import base64
import json
import shutil
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
        address = f"http://127.0.0.1:{place.target.port}"
        settings = {
            "inference_address": address,
            "management_address": f"http://127.0.0.1:{free_port()}",
            "metrics_address": f"http://127.0.0.1:{free_port()}",
            "model_store": str(store),
            "models": json.dumps({base: {"1.0": model}}),
            "disable_token_authorization": "true",
            "disable_system_metrics": "true",
            "install_py_dep_per_model": "false",
        }
        (place.folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self._archive(base, store)
        argv = [str(place.venv / "bin" / "torchserve"), "--start", "--foreground", "--ncs", "--ts-config", "config.properties"]
        argv += ["--log-config", str(PEERS / "log4j2.xml"), "--model-store", str(store), "--models", f"{base}=bench.mar"]
        path = f"{place.venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        more = {"PATH": path, "LOG_LOCATION": str(place.folder / "logs"), "METRICS_LOCATION": str(place.folder / "logs")}
        return Process(argv, place.folder, {**environment(workload, place), **more})

    def _archive(self, name: str, store: Path) -> None:
        """A model archive by hand: a zip with a manifest, the handler, and what it imports."""
        folder = store / "bench"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "MAR-INF").mkdir(parents=True)
        model = {"modelName": name, "handler": "torchserve_handler.py:handle", "modelVersion": "1.0"}
        manifest = {"createdOn": "01/01/2026", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        for file in ("torchserve_handler.py", "pipelines.py"):
            shutil.copy(PEERS / file, folder)
        zipped = shutil.make_archive(str(store / "archive"), "zip", folder)
        Path(zipped).rename(store / "bench.mar")
        shutil.rmtree(folder)


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
    """The Triton server that the nvidia-pytriton wheel carries, run directly, with its Python backend."""

    name = "triton"
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
        model = place.folder / "models" / "bench" / "1"
        model.mkdir(parents=True, exist_ok=True)
        shutil.copy(PEERS / "triton_model.py", model / "model.py")
        (model.parent / "config.pbtxt").write_text(_triton_config(workload))
        argv = [str(triton / "bin" / "tritonserver"), f"--model-repository={place.folder / 'models'}"]
        argv += [f"--backend-directory={backends}", f"--http-port={place.target.port}", "--http-address=127.0.0.1"]
        argv += ["--allow-grpc=false", "--allow-metrics=false", "--log-info=false"]
        env = dict(environment(workload, place))
        env["PYTHONPATH"] += f":{site}"
        env["LD_LIBRARY_PATH"] = ":".join(map(str, (*site.glob("nvidia_pytriton.libs"), _libpython(place))))
        return Process(argv, place.folder, env)

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


def _triton_config(workload: Workload) -> str:
    dims_in = ", ".join(map(str, workload.rows.shape[1:]))
    dims_out = {"large": 1, "resnet-onnx": 1000}.get(workload.name, 10)
    kind = _TYPES["uint8" if workload.kind == BYTES else "float32"]
    return (
        f'name: "bench"\nbackend: "python"\nmax_batch_size: {workload.batch_size}\n'
        f'input [{{ name: "x", data_type: TYPE_{kind}, dims: [{dims_in}] }}]\n'
        f'output [{{ name: "y", data_type: TYPE_FP32, dims: [{dims_out}] }}]\n'
        "instance_group [{ count: 1, kind: KIND_CPU }]\ndynamic_batching { }\n"
    )


class RayServe(Server):
    """Ray Serve with one replica."""

    name = "ray"
    requirements = ("ray[serve]==2.60.0", "numpy", "onnxruntime==1.31.1")
    package = "ray"
    pauses = False

    def lacks(self, workload: Workload) -> str:
        return "no PyTorch in its environment" if workload.name == "resnet-torch" else ""

    def start(self, workload: Workload, place: Place) -> Process:
        env = {**environment(workload, place), "BENCH_TEMP": str(place.folder / "ray"), "RAY_USAGE_STATS_ENABLED": "0"}
        return Process([place.python, str(PEERS / "ray_server.py")], place.folder, env)

    def request(self, workload: Workload, target: Target) -> bytes:
        return target.request("POST", "/", workload.body(), workload.kind)


def peers() -> list[Server]:
    """All of them, the heavy ones last."""
    return [Triton(), MLServer(), LitServe(), TorchServe(), RayServe()]
