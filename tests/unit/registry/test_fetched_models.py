"""What the registry makes of models that have to be fetched, before and after they are."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from support.archives import linear_onnx, zipped
from support.files import file_server
from support.server import wait_until

from flowyard.platform.registry.entries import Progress
from flowyard.platform.registry.places import Places, inside_urls, outside_urls
from flowyard.platform.registry.planner import Planner
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.request import Request
from flowyard.platform.settings import Settings
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import ForbiddenError
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.check import check
from flowyard.workflows.plan import single_model_plan

ONNX = linear_onnx([[1.0], [2.0]])
TEXT = """
name: flow
models:
  inside: sub/model.onnx
  code: steps:Model
  registered: {model: other}
  remote: {url: "https://host/m.zip?topK=1&translator=a", arguments: {topK: 5}}
  local: file:/models/m.onnx
  absolute: /models/m.onnx
  object: s3://bucket/m/
workflow:
  a: [inside, in]
  b: [code, a]
  c: [registered, b]
  d: [remote, c]
  e: [local, d]
  f: [absolute, e]
  out: [object, f]
"""


@pytest.fixture
def files():
    with file_server() as started:
        yield started


@contextlib.asynccontextmanager
async def registry_at(folder: Path, allowed: str):
    registry = Registry(Settings(state_dir=str(folder / "state"), allowed_urls=(allowed,)))
    await registry.open()
    try:
        yield registry
    finally:
        await registry.close()


async def until(condition):
    await asyncio.to_thread(wait_until, condition)


def plan_of(text):
    checked = check(text.encode(), "workflow.yaml", None)
    assert checked.plan is not None, checked.problems
    return checked.plan


def test_which_models_are_not_in_the_archive():
    assert outside_urls(plan_of(TEXT), Path()) == {
        "https://host/m.zip?topK=1&translator=a": "remote",
        "file:/models/m.onnx": "local",
        "/models/m.onnx": "absolute",
        "s3://bucket/m/": "object",
    }
    assert inside_urls(plan_of(TEXT), Path()) == {"sub/model.onnx": "inside"}


def test_where_models_are(tmp_path):
    places = Places(tmp_path, {"https://host/m.zip": tmp_path / "elsewhere"})
    assert places.find("https://host/m.zip") == tmp_path / "elsewhere"
    assert places.find("./sub/../m.onnx") == tmp_path / "m.onnx"
    (tmp_path / "link").symlink_to("/etc")
    for url in ("../x", "a/../../x", "link/hostname"):
        with pytest.raises(ForbiddenError, match="leads out of the archive"):
            places.find(url)


def test_the_query_gives_arguments_that_the_file_may_change(tmp_path):
    plan = single_model_plan("m", plan_of(TEXT).models["remote"])
    (tmp_path / "m.onnx").write_bytes(ONNX)
    planner = Planner(Settings(), (Device("cpu"),))
    parts = dict.fromkeys(outside_urls(plan, tmp_path), tmp_path / "m.onnx")
    (pool,) = planner.pool_specs("m", plan, tmp_path, ModelSpec(), parts).values()
    assert pool.spec.arguments == {"topK": "5", "translator": "a"}
    assert pool.spec.url == "https://host/m.zip?topK=1&translator=a"
    assert pool.path == str(tmp_path / "m.onnx")


def test_the_query_of_a_single_model_gives_arguments(files, tmp_path):
    url = files.file("/m.zip", zipped({"model.onnx": ONNX}))

    async def run():
        async with registry_at(tmp_path, files.url) as registry:
            entry = await registry.register(Request(url=f"{url}?topK=1"))
            return entry.deployment.pools["m"].spec.spec.arguments, entry.record.url

    assert asyncio.run(run()) == ({"topK": "1"}, f"{url}?topK=1")


def test_progress_can_be_seen(files, tmp_path):
    content = bytes(4 * 2**20)
    url, gate = files.gated("/large.zip", content)
    ended = []

    async def run():
        async with registry_at(tmp_path, files.url) as registry:
            entry = await registry.register(Request(url=url, wait=False))
            assert (entry.status, entry.progress, entry.record.digest) == ("PENDING", Progress(0, None), "")
            await until(lambda: entry.progress.fetched_bytes >= 2**20)
            assert entry.progress.total_bytes == len(content)
            ended.append(entry.progress.fetched_bytes)
            gate.set()
            await until(lambda: entry.status != "PENDING")
            assert (entry.status, entry.progress) == ("FAILED", Progress(len(content), len(content)))

    asyncio.run(run())
    assert 2**20 <= ended[0] <= 2 * 2**20


def test_a_fetch_that_is_cut_short_leaves_nothing(files, tmp_path):
    url, _ = files.gated("/large.zip", bytes(4 * 2**20))

    async def run():
        async with registry_at(tmp_path, files.url) as registry:
            entry = await registry.register(Request(url=url, wait=False))
            await until(lambda: entry.progress.fetched_bytes >= 2**20)
            assert len(list((tmp_path / "state/archives/tmp").iterdir())) == 1
            await registry.unregister("large")
            await until(lambda: not list((tmp_path / "state/archives/tmp").iterdir()))
        async with registry_at(tmp_path, files.url) as registry:
            assert registry.endpoints.names() == []

    asyncio.run(run())
