"""Every curl line of the four management documents of MMS and TorchServe, early and late, typed as it is printed there.

Only the places are others: `localhost:8080` and `localhost:8081` are the test's own server, and the hosts that archives come from
are a file server that `allowed_urls` names. What is printed is in `documents/`; what is told instead, in `docs/compatibility.md`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
import pytest
from support.archives import zipped
from support.files import FileServer, file_server
from support.server import ServerProcess

DOCUMENTS = Path(__file__).parent / "documents"
HANDLER = """
class Noop:
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"data1": "1", "data2": "2"}]
        return ["OK"] * len(data)
"""
LEGACY = """
from mms.model_service.model_service import SingleNodeService

class NoopService(SingleNodeService):
    def _inference(self, data):
        return "OK"
"""
NO_WORKERS = "registered with 0 initial workers. Use scale workers API to add workers for the model."
#: What is told in the place of what a document prints: by dialect, old and new.
TOLD_INSTEAD = {
    "mms": {"Worker updated": "Processing worker updates...", "Worker scaled": "Workers scaled"},
    "torchserve": {
        "Worker updated": "Processing worker updates...",
        'Model "squeezenet_v1.1" registered': f'Model "squeezenet_v1.1" Version: 1.0 {NO_WORKERS}',
        # The late document calls what is in squeezenet1_1.mar by two names.
        f'Model "squeezenet_v1.1" Version: 1.0 {NO_WORKERS}': f'Model "squeezenet1_1" Version: 1.0 {NO_WORKERS}',
    },
}
#: The same, where a text has parts: the early TorchServe document says "Worker scaled" of everything.
SCALED = {
    "POST": 'Model "squeezenet_v1.1" Version: 1.0 registered with 1 initial workers',
    "PUT": "Workers scaled to 3 for model: noop",
}
#: What the late TorchServe document wants set for encrypted archives.
AWS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-west-2"}
#: Members of a description that change from run to run.
VOLATILE = ("id", "startTime", "memoryUsage", "pid", "gpuUsage")


class Printed(msgspec.Struct, frozen=True):
    """A command, and what the document prints under it."""

    curl: str
    status: int | None = None
    headers: dict[str, str] = {}
    body: Any = None

    @property
    def method(self) -> str:
        found = re.search(r"-X (\w+)", self.curl)
        return found[1] if found else "GET"


def read(name: str) -> list[Printed]:
    blocks = (DOCUMENTS / f"{name}.txt").read_text().split("$ ")[1:]
    return [_printed(block.strip()) for block in blocks]


def _printed(block: str) -> Printed:
    curl, _, rest = block.partition("\n")
    head = [line.removeprefix("<").strip() for line in rest.splitlines() if line.startswith("<")]
    body = "\n".join(line for line in rest.splitlines() if not line.startswith("<"))
    return Printed(
        curl=curl,
        status=int(head[0].split()[1]) if head else None,
        headers=dict(line.split(": ", 1) for line in head[1:] if line),
        body=json.loads(body) if body else None,
    )


def mms_archive(name: str) -> bytes:
    """An archive of MMS 0.x."""
    manifest = {
        "Engine": {"MXNet": 0.12},
        "Model-Archive-Version": 0.1,
        "Model-Server": 0.4,
        "Model": {"Service": "service.py", "Model-Name": name, "Signature": "signature.json"},
    }
    signature = {
        "inputs": [{"data_name": "data", "data_shape": [0]}],
        "input_type": "application/octet-stream",
        "outputs": [],
        "output_type": "text/plain",
    }
    return zipped({"service.py": LEGACY, "MANIFEST.json": json.dumps(manifest), "signature.json": json.dumps(signature)})


def torchserve_archive(name: str, version: str = "1.0") -> bytes:
    manifest = {
        "createdOn": "01/01/2026 00:00:00",
        "runtime": "python",
        "model": {"modelName": name, "handler": "handler.py", "modelVersion": version},
        "archiverVersion": "0.12.0",
    }
    return zipped({"handler.py": HANDLER, "MAR-INF/MANIFEST.json": json.dumps(manifest)})


class Installation:
    """A server of one of the dialects, with what its documents take for granted."""

    def __init__(self, dialect: str, process: ServerProcess, files: FileServer) -> None:
        self.dialect = dialect
        self.files = files
        self.store = process.model_store
        self.inference, self.management = process.urls[:2]
        self.http = httpx2.Client(base_url=self.management, timeout=60)
        make = mms_archive if dialect == "mms" else torchserve_archive
        for file, name in {"noop.mar": "noop", "noop-v1.0": "noop", "noop-v0.1": "noop_v0.1", "other.mar": "other"}.items():
            self.keep(file, make(name))
        if dialect == "torchserve":
            self.keep("noop_2.mar", torchserve_archive("noop", "2.0"))
            self.keep("noop-customized.mar", torchserve_archive("noop-customized"))

    def keep(self, file: str, archive: bytes) -> None:
        (self.store / file).write_bytes(archive)

    def serve(self, path: str, name: str) -> None:
        self.files.file(path, (mms_archive if self.dialect == "mms" else torchserve_archive)(name))

    def empty(self) -> None:
        for name in [model["modelName"] for model in self.http.get("/models").json()["models"]]:
            if self.http.delete(f"/models/{name}").status_code == 403:
                versions = [model["modelVersion"] for model in self.http.get(f"/models/{name}/all").json()]
                default = self.http.get(f"/models/{name}").json()[0]["modelVersion"]
                # It can only go when there is no other.
                for version in sorted(versions, key=default.__eq__):
                    self.http.delete(f"/models/{name}/{version}").raise_for_status()

    def register(self, url: str, workers: int = 1, **more: str) -> None:
        self.http.post("/models", params={"url": url, "initial_workers": workers, **more}).raise_for_status()

    def prepare(self, printed: Printed) -> None:
        """What the document takes for granted at this command."""
        self.empty()
        if printed.method == "POST":
            return
        if "next_page_token" in printed.curl:
            for name in ("a", "b", "z"):
                self.register("other.mar", 0, model_name=name)
            self.register("noop-v1.0", 0)
            self.register("noop-v0.1", 0)
            return
        if "customized" in printed.curl:
            self.register("noop-customized.mar")
            return
        self.register("noop.mar")
        if self.dialect == "torchserve" and "2.0" in printed.curl + json.dumps(printed.body):
            self.register("noop_2.mar")

    def type(self, curl: str) -> tuple[int, dict[str, str], str]:
        """Types a command; tells status, headers and body."""
        typed = curl.replace("localhost:8080", self.inference.removeprefix("http://"))
        typed = typed.replace("localhost:8081", self.management.removeprefix("http://"))
        typed = re.sub(r"https://(<s3_path>|torchserve\.pytorch\.org|s3\.amazonaws\.com)", self.files.url, typed)
        typed = typed.replace(quote("https://s3.amazonaws.com", safe=""), quote(self.files.url, safe=""))
        done = subprocess.run(["bash", "-c", f"{typed} --silent --include"], capture_output=True, text=True, check=True)
        head, _, body = done.stdout.partition("\n\n")
        status, *headers = head.splitlines()
        return int(status.split()[1]), dict(line.split(": ", 1) for line in headers), body


def start(folder: Path, dialect: str, files: FileServer, *lines: str) -> ServerProcess:
    keys = ("inference", "management", "metrics") if dialect == "torchserve" else ("inference", "management")
    # An address of its own for each: port 0 at one address would be one port for all.
    addresses = [f"{key}_address=http://127.0.0.{number}:0" for number, key in enumerate(keys, 1)]
    more = [f"allowed_urls={re.escape(files.url)}/.*", *lines]
    (folder / "config.properties").write_text("\n".join([*addresses, *more]).replace("\\", "\\\\"))
    flag = "--ts-config" if dialect == "torchserve" else "--mms-config"
    process = ServerProcess(folder, "--foreground", flag, "config.properties", host=None, env=AWS)
    process.command = dialect
    process.cwd = folder
    return process.start()


@pytest.fixture(scope="module")
def installation(request, tmp_path_factory) -> Iterator[Installation]:
    lines = ("enable_model_api=true", "disable_token_authorization=true") if request.param == "torchserve" else ()
    with file_server() as files:
        process = start(tmp_path_factory.mktemp(request.param), request.param, files, *lines)
        found = Installation(request.param, process, files)
        yield found
        found.http.close()
        assert process.stop() == 0, process.log.read_text()[-5000:]


#: The dialect of each document. A server is kept for the next case only where the parameter is the very same object.
DIALECTS = {"mms-early": "mms", "mms-late": "mms", "torchserve-early": "torchserve", "torchserve-late": "torchserve"}
CASES = [
    pytest.param(dialect, name, index, id=f"{name}-{index}")
    for name, dialect in DIALECTS.items()
    for index, printed in enumerate(read(name))
    if "token" not in printed.curl or "page_token" in printed.curl
]
ARCHIVES = {
    "mms-early": ("/model-server/models/squeezenet_v1.1/squeezenet_v1.1.model", "squeezenet_v1.1"),
    "mms-late": ("/model-server/model_archive_1.0/squeezenet_v1.1.mar", "squeezenet_v1.1"),
    "torchserve-early": ("/squeezenet_v1.1.mar", "squeezenet_v1.1"),
    "torchserve-late": ("/mar_files/squeezenet1_1.mar", "squeezenet1_1"),
}


@pytest.mark.parametrize(("installation", "name", "index"), CASES, indirect=["installation"], scope="module")
def test_a_command_is_answered_as_its_document_says(installation, name, index):
    dialect = installation.dialect
    printed = read(name)[index]
    path, model = ARCHIVES[name]
    installation.serve(path, model)
    installation.serve("/sse-test/squeezenet1_1.mar", "squeezenet1_1")
    installation.prepare(printed)
    status, headers, body = installation.type(printed.curl)
    # The early document prints 202 under a command with synchronous=true.
    assert status == (200 if "synchronous=true" in printed.curl else printed.status or 200), body
    told = json.loads(body)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "keep-alive"
    expected = instead(dialect, printed)
    check(told, expected)
    # The length under "noop" is that of an answer about another model.
    if printed.headers and expected == printed.body and "noop" not in told["status"]:
        assert headers["content-length"] == printed.headers["content-length"]


def instead(dialect: str, printed: Printed) -> Any:
    """What is told in the place of what the document prints."""
    if not isinstance(printed.body, dict) or "status" not in printed.body:
        return printed.body
    told = printed.body["status"]
    if dialect == "torchserve" and told == "Worker scaled":
        version = ", version: 2.0" if "/2.0" in printed.curl else ""
        return {"status": SCALED[printed.method] + version}
    if told == "Worker updated" and "synchronous=true" in printed.curl:
        told = "Worker scaled"
    return {"status": TOLD_INSTEAD[dialect].get(told, told)}


def check(told: Any, expected: Any) -> None:
    """All that is printed is told; what changes from run to run has the same type."""
    if isinstance(expected, list):
        assert len(told) == len(expected)
        for one, other in zip(told, expected, strict=True):
            check(one, other)
        return
    if not isinstance(expected, dict):
        return
    for key, value in expected.items():
        if key in VOLATILE:
            assert type(told[key]) is type(value), key
        elif isinstance(value, list):
            check(told[key], value)
        elif key == "customizedMetadata":
            assert told[key] == json.loads(value)
        else:
            assert told[key] == value, key


BOTH = pytest.mark.parametrize("installation", ["torchserve", "mms"], indirect=True)


@BOTH
def test_a_registered_model_answers(installation):
    installation.empty()
    installation.register("noop.mar")
    assert httpx2.post(f"{installation.inference}/predictions/noop", content=b"x").text == "OK"


@BOTH
def test_the_document_of_the_api_has_what_the_early_one_prints(installation):
    _, _, body = installation.type("curl -X OPTIONS http://localhost:8081")
    paths = json.loads(body)["paths"]
    assert {path: sorted(operations) for path, operations in paths.items() if path in ("/models", "/models/{model_name}")} == {
        "/models": ["get", "post"],
        "/models/{model_name}": ["delete", "get", "put"],
    }
    found = {operation["operationId"] for operations in paths.values() for operation in operations.values()}
    assert found >= {"apiDescription", "listModels", "registerModel", "describeModel", "setAutoScale", "unregisterModel"}


@pytest.mark.parametrize("installation", ["torchserve"], indirect=True)
def test_what_the_late_document_does_in_python(installation):
    installation.empty()
    installation.register("noop-customized.mar")
    response = httpx2.get(f"{installation.management}/models/noop-customized/?customized=true").json()
    assert response[0]["customizedMetadata"] == {"data1": "1", "data2": "2"}


def test_the_commands_about_tokens(tmp_path):
    with file_server() as files:
        process = start(tmp_path, "torchserve", files)
        found = Installation("torchserve", process, files)
        for printed in read("torchserve-late"):
            if "/token" in printed.curl:
                kind = "management" if "management" in printed.curl else "inference"
                keys = json.loads((tmp_path / "key_file.json").read_text())
                status, _, body = found.type(printed.curl.replace("{API Token}", keys["API"]["key"]))
                assert (status, body) == (200, "\n")
                renewed = json.loads((tmp_path / "key_file.json").read_text())
                assert renewed[kind]["key"] != keys[kind]["key"]
                assert renewed[kind]["expiration time"] > keys[kind]["expiration time"]
        found.http.close()
        assert process.stop() == 0
