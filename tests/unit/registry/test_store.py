"""The record of what is registered, in SQLite."""

from __future__ import annotations

import asyncio
import sqlite3

import msgspec
import pytest

from flowyard.platform.registry.store import Record, RegistryStore
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic
from flowyard.schemas.models import ModelSpec


def record(name="m", version="", url="m.onnx"):
    return Record(name=name, version=version, kind="model", url=url, digest="d", spec=ModelSpec(), created="")


@pytest.fixture
def stored(tmp_path):
    """Does something with the store, and opens it anew every time."""

    def run(work):
        async def opened():
            store = RegistryStore(tmp_path / "registry.sqlite")
            await store.open()
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(opened())

    return run


async def everything(store):
    return [(item.name, item.version, item.url) for item in await store.all()], await store.all_traffic()


def test_a_change_keeps_the_order_of_registration(stored):
    async def work(store):
        for item in (record(), record(version="v1"), record(version="v2")):
            await store.put(item)
        await store.put(record(url="other.onnx"))

    stored(work)
    order = [("m", "", "other.onnx"), ("m", "v1", "m.onnx"), ("m", "v2", "m.onnx")]
    assert stored(everything) == (order, {})


def test_what_is_said_of_versions_is_kept_until_it_is_taken_back(stored):
    traffic = Traffic(weights={"v1": 90, "": 10}, default="", shadows=("v2",))
    stored(lambda store: store.put_traffic("m", traffic))
    assert stored(everything) == ([], {"m": traffic})
    stored(lambda store: store.put_traffic("m", NO_TRAFFIC))
    assert stored(everything) == ([], {})


def test_versions_go_together_with_what_is_said_of_them(stored):
    async def work(store):
        for item in (record(version="v1"), record(version="v2"), record("n", "v1")):
            await store.put(item)
        await store.put_traffic("m", Traffic(weights={"v1": 1, "v2": 1}))
        await store.put_traffic("n", Traffic(default="v1"))
        await store.delete("m", ["v1", "v2"], NO_TRAFFIC)

    stored(work)
    assert stored(everything) == ([("n", "v1", "m.onnx")], {"n": Traffic(default="v1")})


def test_a_database_from_before_there_were_weights_is_taken_over(stored, tmp_path):
    with sqlite3.connect(tmp_path / "registry.sqlite") as connection:
        connection.execute(
            "CREATE TABLE registrations (name TEXT NOT NULL, version TEXT NOT NULL, record BLOB NOT NULL, "
            "PRIMARY KEY (name, version)) STRICT"
        )
        connection.execute("INSERT INTO registrations VALUES (?, ?, ?)", ("m", "", msgspec.json.encode(record())))
    connection.close()
    assert stored(everything) == ([("m", "", "m.onnx")], {})
