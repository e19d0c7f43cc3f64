"""The record of what is registered, in SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import msgspec
import pytest

from flowyard.platform.registry.history import change
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic
from flowyard.schemas.errors import ConflictError, StorageError
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


def put_many(count):
    async def work(store):
        for number in range(count):
            await store.put(record(version=f"v{number}"), change=change("register", "m", f"v{number}", url="m.onnx", digest=""))
        await store.put(msgspec.structs.replace(record("n"), created="1"), change=change("register", "n"))

    return work


def test_history_is_paged_and_bounded(tmp_path):
    async def work():
        store = RegistryStore(tmp_path / "registry.sqlite", 3)
        await store.open()
        await put_many(4)(store)
        pages = [
            await store.history(name=None, before=2**63 - 1, limit=2),
            await store.history(name="m", before=2**63 - 1, limit=9),
        ]
        await store.close()
        return pages

    page, of_m = asyncio.run(work())
    assert [(number, item.name, item.version) for number, item in page] == [(5, "n", ""), (4, "m", "v3")]
    assert [number for number, _ in of_m] == [4, 3]
    assert of_m[0][1].detail == {"url": "m.onnx"}
    assert of_m[0][1].who == "server"


def test_a_database_without_its_file_is_rebuilt_from_the_copies(stored, tmp_path):
    stored(put_many(3))
    stored(lambda store: store.put_traffic("m", Traffic(weights={"v1": 3})))
    before = stored(everything)
    for path in tmp_path.glob("registry.sqlite*"):
        path.unlink()
    assert stored(everything) == before


def test_a_damaged_database_is_set_aside_and_a_second_one_too(stored, tmp_path):
    stored(put_many(2))
    before = stored(everything)
    for content in (b"damaged once" * 100, b"damaged twice" * 100):
        (tmp_path / "registry.sqlite").write_bytes(content)
        assert stored(everything) == before
    aside = [
        path.read_bytes()[:13] for path in tmp_path.glob("registry.sqlite.damaged-*") if not path.name.endswith(("-wal", "-shm"))
    ]
    assert sorted(aside) == [b"damaged onced", b"damaged twice"]


def test_a_record_that_cannot_be_read_is_damage(stored, tmp_path):
    stored(put_many(2))
    before = stored(everything)
    with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite")) as connection, connection:
        connection.execute("UPDATE registrations SET record = ? WHERE version = 'v1'", (b"{",))
    assert stored(everything) == before
    assert list(tmp_path.glob("registry.sqlite.damaged-*"))


def test_copies_follow_every_change(stored, tmp_path):
    stored(put_many(2))
    assert len(list((tmp_path / "copies").iterdir())) == 2
    stored(lambda store: store.delete("m", ["v0", "v1"], NO_TRAFFIC))
    assert len(list((tmp_path / "copies").iterdir())) == 1
    (tmp_path / "copies" / "left.json").write_bytes(b"stale")
    stored(everything)
    assert not (tmp_path / "copies" / "left.json").exists()


def test_a_broken_copy_costs_no_more_than_its_name_and_is_set_aside(stored, tmp_path):
    stored(put_many(2))
    copies = sorted((tmp_path / "copies").iterdir(), key=lambda path: path.stat().st_size)
    copies[0].write_bytes(b"{")
    (tmp_path / "registry.sqlite").write_bytes(b"damaged" * 1000)
    aside = copies[0].with_name(f"{copies[0].name}.damaged")

    async def read(store):
        return (await everything(store))[0], store.has_lost

    for _ in range(2):
        assert stored(read) == ([("m", "v0", "m.onnx"), ("m", "v1", "m.onnx")], True)
        assert aside.read_bytes() == b"{"
    aside.unlink()
    assert stored(read)[1] is False


def test_what_has_ended_is_in_the_copies_too(stored, tmp_path):
    async def work(store):
        await store.keep_former([record(version="v1"), record("n")], 12.5)
        await store.keep_former([record(version="v2")], 13.5)
        await store.drop_former([2])

    stored(work)
    before = stored(lambda store: store.all_former())
    assert [(item.number, item.ended, item.record.version) for item in before] == [(1, 12.5, "v1"), (3, 13.5, "v2")]
    (tmp_path / "registry.sqlite").write_bytes(b"damaged" * 1000)
    assert stored(lambda store: store.all_former()) == before
    stored(lambda store: store.drop_former([1, 3]))
    assert not list((tmp_path / "copies").iterdir())


def test_a_partial_copy_is_none(stored, tmp_path):
    stored(put_many(1))
    before = stored(everything)
    (tmp_path / "copies" / "x.partial").write_bytes(b"{")
    (tmp_path / "registry.sqlite").unlink()
    assert stored(everything) == before
    assert {path.suffix for path in (tmp_path / "copies").iterdir()} == {".json"}


def pages_of(database, table):
    """Numbers of the pages of a table, without its first one, which leads to the others."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (first,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        page = database.read_bytes()[(first - 1) * 4096 : first * 4096]
    assert page[0] == 5
    cells = [int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big") for cell in range(int.from_bytes(page[3:5], "big"))]
    return [int.from_bytes(page[cell : cell + 4], "big") for cell in cells]


@pytest.mark.parametrize("broken", ["the first page", "a page in the middle", "the last page", "a record", "the header"])
def test_the_history_of_a_damaged_database_is_taken_over_as_far_as_it_can_be_read(stored, tmp_path, broken):
    database = tmp_path / "registry.sqlite"

    async def recorded(store):
        return await store.history(name=None, before=2**63 - 1, limit=10_000)

    stored(put_many(200))
    before = stored(recorded)
    assert len(before) == 201
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if broken == "a record":
            connection.execute("UPDATE changes SET change = x'7b' WHERE number = 100")
            connection.execute("UPDATE registrations SET record = x'7b' WHERE version = 'v3'")
    pages = pages_of(database, "changes")
    content = bytearray(database.read_bytes())
    if broken.endswith(("page", "middle")):
        page = {"the first page": pages[0], "the last page": pages[-1], "a page in the middle": pages[len(pages) // 2]}[broken]
        content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    elif broken == "the header":
        content[:100] = bytes(100)
    database.write_bytes(content)
    after = stored(recorded)
    left = {"the header": 0, "a record": 200}.get(broken)
    assert all(change in before for change in after)
    assert len(after) == left if left is not None else 100 < len(after) < 201
    stored(lambda store: store.put(record("new"), change=change("register", "new")))
    number, newest = stored(recorded)[0]
    assert (newest.name, number > max((number for number, _ in after), default=0)) == ("new", True)


@pytest.mark.parametrize(
    ("statement", "words"),
    [("PRAGMA user_version=2", "written by a newer flowyard"), ("CREATE TABLE notes (text)", "a database of something else")],
)
def test_another_database_is_refused_and_left_alone(stored, tmp_path, statement, words):
    with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite")) as connection, connection:
        connection.execute(statement)
    before = (tmp_path / "registry.sqlite").read_bytes()
    with pytest.raises(ConflictError, match=words):
        stored(everything)
    assert (tmp_path / "registry.sqlite").read_bytes() == before


def test_a_full_disk_is_told_and_changes_nothing(stored):
    async def work(store):
        async def pragma(text):
            return await store._call(lambda: store._database.connection.execute(f"PRAGMA {text}").fetchone())

        await store.put(record())
        (pages,) = await pragma("page_count")
        await pragma(f"max_page_count={pages}")
        with pytest.raises(StorageError, match="was not made"):
            await store.put(*(record(version=f"v{number}", url="u" * 5000) for number in range(20)))
        assert len(await store.all()) == 1
        await pragma("max_page_count=100000")
        await store.put(record(version="v1"))

    stored(work)
    assert len(stored(everything)[0]) == 2
