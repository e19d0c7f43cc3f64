"""Archives stay as long as anything needs them: running versions, changes under way, rollbacks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.archives import zipped

from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.request import Request
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import StorageError
from flowyard.schemas.models import ModelSpec


def archive(folder: Path, name: str) -> Path:
    path = folder / f"{name}.zip"
    path.write_bytes(zipped({"model.py": f"def predict(value):\n    return {name!r}\n"}))
    return path


def with_registry(folder: Path, work, **settings):
    """Runs work with a registry whose models start no workers before they are asked."""

    async def run():
        registry = Registry(Settings(state_dir=str(folder / "state"), **settings))
        await registry.open()
        try:
            return await work(registry)
        finally:
            await registry.close()

    return asyncio.run(run())


async def register(registry: Registry, folder: Path, name: str, **asked):
    spec = ModelSpec(engine="Python", min_worker=0, max_worker=1)
    return await registry.register(Request(url=str(archive(folder, name)), name=name, spec=spec, operator=True, **asked))


def stored(folder: Path) -> set[str]:
    return {path.name for path in (folder / "state" / "archives" / "sha256").iterdir()}


def test_what_is_being_unregistered_stays_until_that_is_recorded(tmp_path):
    async def work(registry):
        entry = await register(registry, tmp_path, "a")
        other = await register(registry, tmp_path, "b")
        deleting, go = asyncio.Event(), asyncio.Event()
        delete = registry._store.delete

        async def late(name, *further):
            if name == "a":
                deleting.set()
                await go.wait()
            await delete(name, *further)

        registry._store.delete = late
        removal = asyncio.ensure_future(registry.unregister("a"))
        await deleting.wait()
        await registry.unregister("b")
        assert other.record.digest not in stored(tmp_path)
        assert entry.record.digest in stored(tmp_path)
        go.set()
        await removal
        assert entry.record.digest not in stored(tmp_path)

    with_registry(tmp_path, work, rollback_versions=0)


def test_registrations_at_the_same_time_keep_their_archives(tmp_path):
    async def rounds(registry, name):
        for _ in range(5):
            entry = await register(registry, tmp_path, name)
            assert entry.record.digest in stored(tmp_path)
            await registry.unregister(name)

    async def work(registry):
        await asyncio.gather(*(rounds(registry, f"m{number}") for number in range(6)))
        assert stored(tmp_path) == set()

    with_registry(tmp_path, work, rollback_versions=0)


def test_two_names_share_an_archive_until_the_last_one_goes(tmp_path):
    async def work(registry):
        one = await register(registry, tmp_path, "a")
        spec = ModelSpec(engine="Python", min_worker=0, max_worker=1)
        two = await registry.register(Request(url=str(tmp_path / "a.zip"), name="b", spec=spec, operator=True))
        assert one.record.digest == two.record.digest
        await registry.unregister("a")
        assert stored(tmp_path) == {one.record.digest}
        await registry.unregister("b")
        assert stored(tmp_path) == set()

    with_registry(tmp_path, work, rollback_versions=0)


def test_former_versions_stay_as_long_as_the_settings_say(tmp_path):
    async def work(registry):
        digests = []
        for number in range(4):
            archive(tmp_path, "m").write_bytes(zipped({"model.py": f"def predict(value):\n    return {number}\n"}))
            spec = ModelSpec(engine="Python", min_worker=0, max_worker=1)
            request = Request(url=str(tmp_path / "m.zip"), name="m", spec=spec, operator=True, replace=number > 0)
            digests.append((await registry.register(request)).record.digest)
        assert stored(tmp_path) == set(digests[1:])
        await registry.unregister("m")
        assert stored(tmp_path) == set(digests[2:])
        assert (await registry.rollback("m")).digest == digests[3]
        return digests

    digests = with_registry(tmp_path, work, rollback_versions=2)

    async def again(registry):
        assert stored(tmp_path) == set(digests[2:])
        assert (await registry.rollback("m")).digest == digests[2]

    with_registry(tmp_path, again, rollback_versions=2)


def test_archives_stay_while_nobody_knows_what_was_registered(tmp_path):
    async def work(registry):
        return (await register(registry, tmp_path, "a")).record.digest, (await register(registry, tmp_path, "b")).record.digest

    digests = set(with_registry(tmp_path, work))
    copies = tmp_path / "state" / "copies"
    next(path for path in copies.iterdir() if b'"name":"a"' in path.read_bytes()).write_bytes(b"{")
    (tmp_path / "state" / "registry.sqlite").write_bytes(b"damaged" * 1000)

    async def again(registry):
        assert registry.endpoints.names() == ["b"]
        await registry.unregister("b")
        assert stored(tmp_path) == digests

    with_registry(tmp_path, again, rollback_versions=0)
    (lost,) = copies.glob("*.damaged")
    lost.unlink()

    async def known(_):
        assert stored(tmp_path) == set()

    with_registry(tmp_path, known, rollback_versions=0)


def test_a_rollback_survives_a_damaged_database(tmp_path):
    async def work(registry):
        digest = (await register(registry, tmp_path, "m")).record.digest
        await registry.unregister("m")
        return digest

    digest = with_registry(tmp_path, work)
    (tmp_path / "state" / "registry.sqlite").write_bytes(b"damaged" * 1000)

    async def again(registry):
        assert (await registry.rollback("m")).digest == digest

    with_registry(tmp_path, again)


def test_a_removal_that_cannot_be_recorded_puts_back_what_was_there(tmp_path):
    async def work(registry):
        spec = ModelSpec(engine="Python", min_worker=0, max_worker=1)
        for version in ("v1", "v2", "v3"):
            request = Request(url=str(archive(tmp_path, "m")), name="m", version=version, spec=spec, operator=True)
            await registry.register(request)
        await registry.set_weights("m", {"v1": 1, "v2": 2})

        async def full(*_):
            raise StorageError("full")

        delete, registry._store.delete = registry._store.delete, full
        with pytest.raises(StorageError):
            await registry.unregister("m", "v1")
        assert [entry.record.version for entry in registry.endpoints.versions("m")] == ["v1", "v2", "v3"]
        assert registry.endpoints.traffic("m").weights == {"v1": 1, "v2": 2}
        registry._store.delete = delete
        await registry.unregister("m", "v1")
        assert registry.endpoints.traffic("m").weights == {"v2": 2}

    with_registry(tmp_path, work)


def test_what_is_scaled_while_it_is_unregistered_does_not_come_back(tmp_path):
    from flowyard.platform.registry.scaling import Scaling
    from flowyard.schemas.errors import ConflictError

    async def work(registry):
        await register(registry, tmp_path, "a")
        scaling = asyncio.ensure_future(registry.scale("a", None, Scaling(max_worker=3), wait=False))
        await asyncio.sleep(0)
        await registry.unregister("a")
        with pytest.raises(ConflictError):
            await scaling
        assert await registry._store.all() == []

    with_registry(tmp_path, work)
