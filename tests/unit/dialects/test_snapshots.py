"""Snapshots of TorchServe: what is written is what is read, and which of them counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.server import wait_until

from flowyard.platform import torchserve_config as config
from flowyard.platform.http.torchserve.entries import Models
from flowyard.platform.http.torchserve.snapshots import snapshots
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.history import Change
from flowyard.platform.settings import Settings, settings_of
from flowyard.platform.sources import Given
from flowyard.platform.torchserve_snapshots import (
    KEY,
    STATE_DIR,
    ModelDefaults,
    Snapshot,
    name_of,
    newest_snapshot,
    read_snapshot,
    snapshots_in,
    stamp_of,
    value_of,
)
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.properties import format_properties

SAID = ModelDefaults(
    default_version=True,
    mar_name="noop.mar",
    min_workers=1,
    max_workers=2,
    batch_size=3,
    max_batch_delay=100,
    response_timeout=120,
    startup_timeout=121,
    runtime_type="python",
)
SNAPSHOT = Snapshot(
    name="20260102030405006-snapshot.cfg",
    model_count=2,
    created=1767323045006,
    models={"noop": {"1.0": ModelDefaults(default_version=False, mar_name="old.mar", handler="h:f"), "2.0": SAID}},
)
#: Its like as TorchServe writes it.
WRITTEN = """\
{
  "name": "20260102030405006-snapshot.cfg",
  "modelCount": 1,
  "created": 1767323045006,
  "models": {
    "noop": {
      "2.0": {
        "defaultVersion": true,
        "marName": "noop.mar",
        "minWorkers": 1,
        "maxWorkers": 2,
        "batchSize": 3,
        "maxBatchDelay": 100,
        "responseTimeout": 120,
        "startupTimeout": 121,
        "runtimeType": "python"
      }
    }
  }
}"""


def test_it_is_written_as_torchserve_does():
    assert (
        value_of(Snapshot(name=SNAPSHOT.name, model_count=1, created=SNAPSHOT.created, models={"noop": {"2.0": SAID}})) == WRITTEN
    )


def test_what_is_written_is_read():
    assert read_snapshot(value_of(SNAPSHOT), "here") == SNAPSHOT
    assert SNAPSHOT.loads() == ("noop:2.0=noop.mar", "noop:1.0=old.mar")


def test_it_is_read_as_gson_reads_it():
    found = read_snapshot("{models:{noop:{'1.0':{defaultVersion:true,marName:noop.mar,minWorkers:'2',deviceType:cpu}}}}", "here")
    assert found.models == {"noop": {"1.0": ModelDefaults(default_version=True, mar_name="noop.mar", min_workers=2)}}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"models": 1}', '{"models": {"a": {"1": {}}}}', '{"models": {"a": {"1": {"marName": 1}}}}']
)
def test_what_is_none_is_told_with_its_place(text):
    with pytest.raises(InvalidRequestError, match=r"x\.cfg:7: this is no snapshot of TorchServe: "):
        read_snapshot(text, "x.cfg:7")


def test_names_stay_in_order_whatever_the_clock_does():
    now = datetime(2026, 10, 25, 2, 59, 59, 999_500)  # noqa: DTZ001 - local, as Java's
    first, stamp = name_of("startup", now, None)
    same, stamp = name_of("snapshot", now, stamp)
    back, stamp = name_of("shutdown", now - timedelta(hours=1), stamp)
    assert (first, same, back) == (
        "20261025025959999-startup.cfg",
        "20261025030000000-snapshot.cfg",
        "20261025030000001-shutdown.cfg",
    )
    assert stamp_of(back) == stamp
    assert stamp_of("x.cfg") is None
    assert stamp_of("99999999999999999-x.cfg") is None


def write(folder: Path, name: str, **keys: str) -> Path:
    file = folder / "config" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(format_properties(keys, "Saving snapshot"))
    return file


def test_snapshots_of_others_count_once_their_state_directory_is_gone(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    assert newest_snapshot(tmp_path, ours) is None
    first = write(tmp_path, "20260101000000000-shutdown.cfg", model_store="s")
    assert newest_snapshot(tmp_path, ours) == first
    second = write(tmp_path, "20260102000000000-shutdown.cfg", **{STATE_DIR: str(ours)})
    assert newest_snapshot(tmp_path, ours) == second
    third = write(tmp_path, "20260103000000000-shutdown.cfg", **{STATE_DIR: str(theirs)})
    assert newest_snapshot(tmp_path, ours) == second
    assert newest_snapshot(tmp_path) == third
    theirs.rmdir()
    assert newest_snapshot(tmp_path, ours) == third


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "home/logs"),
        ({"LOG_LOCATION": "var"}, "var"),
        ({"LOG_LOCATION": "var", "FLOWYARD_LOG_LOCATION": "own"}, "own"),
        ({"FLOWYARD_LOG_LOCATION": ""}, "home/logs"),
    ],
)
def test_snapshots_are_looked_for_where_they_are_written(env, expected):
    assert config.logs_of(env, Path("home")) == Path(expected)


@pytest.mark.parametrize(("remembered", "loads"), [(None, True), ("state", False), ("other", True)])
def test_models_that_are_remembered_do_not_come_from_a_snapshot(tmp_path, remembered, loads):
    keys = {STATE_DIR: str(tmp_path / "state"), KEY: value_of(SNAPSHOT), "job_queue_size": "7"}
    file = write(tmp_path, "20260101000000000-shutdown.cfg", **keys)
    said = config.read_config("torchserve", file, {}, None if remembered is None else tmp_path / remembered)
    assert ("load_models" in {item.key for item in said.given}) is loads
    assert said.loaded_by_snapshot == (SNAPSHOT.loads() if loads else ())
    assert [item.value for item in said.given if item.key == "job_queue_size"] == ["7"]
    assert said.warnings == ()


def test_keys_that_do_nothing_here_are_kept_for_the_original(tmp_path):
    keys = {"vmargs": "-Xmx4g", "enable_envvars_config": "true", "unknown": "x", KEY: value_of(SNAPSHOT), STATE_DIR: "/s"}
    said = config.read_config("torchserve", write(tmp_path, "a.cfg", **keys), {})
    assert said.kept == {"vmargs": "-Xmx4g", "enable_envvars_config": "true", "unknown": "x"}


def test_settings_that_are_written_are_read_again(tmp_path):
    settings = Settings(
        dialects=("torchserve",),
        torchserve_inference_address="http://127.0.0.1:9080",
        torchserve_management_address="unix:/run/m.sock",
        allowed_url_regexes=("https://a/.*", "https://b/.*"),
        default_timeout_s=60.0,
        startup_timeout_s=7.0,
        torchserve_model_api=True,
        disable_token_authorization=True,
        token_expiration_min=0.25,
        decode_input_request=False,
        unregister_model_timeout=0.0,
        model_store="/ a store/ü",
        grpc_inference_port=7000,
        keystore="k.p12",
        keystore_pass="p#:=!",
        service_envelope="kserve",
    )
    file = write(tmp_path, "a.cfg", **config.properties_of(settings, Settings()))
    said = config.read_config("torchserve", file, {})
    assert settings_of([*said.given, Given("dialects", "torchserve", "", ""), *_sizes()], {})[0] == settings


def _sizes() -> list[Given]:
    """What the dialect has for defaults of its own."""
    plain = Settings()
    names = ("job_queue_size", "max_request_size", "wait_model_loading", "native_api")
    return [Given(name, str(getattr(plain, name)), "", "") for name in names]


class Watched:
    """A registry without anything in it, whose start takes as long as it is told."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(state_dir=str(folder / "state"), log_location=str(folder), **settings)
        self.endpoints = Endpoints()
        self.told: Any = None
        self.is_up = asyncio.Event()

    def watch_changes(self, told: Any) -> None:
        self.told = told

    async def settled(self) -> None:
        await self.is_up.wait()

    def change(self, who: str) -> None:
        self.told(Change(time="", who=who, action="scale", name="m"))


def written(folder: Path) -> list[str]:
    return [path.name.partition("-")[2] for path in snapshots_in(folder)]


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


def test_what_the_server_does_itself_belongs_to_its_start(tmp_path):
    async def run() -> None:
        registry = Watched(tmp_path)
        found = snapshots(registry, Models(registry.endpoints), {})
        registry.change("server")
        registry.change("127.0.0.1")
        registry.change("127.0.0.1")
        await until(lambda: written(tmp_path) == ["snapshot.cfg"])
        registry.is_up.set()
        await until(lambda: written(tmp_path) == ["snapshot.cfg", "startup.cfg"])
        registry.change("server")
        await until(lambda: written(tmp_path) == ["snapshot.cfg", "startup.cfg", "snapshot.cfg"])
        found.close()
        assert registry.told is None
        assert written(tmp_path)[-1] == "shutdown.cfg"

    asyncio.run(run())


def test_old_ones_go_and_those_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("flowyard.platform.http.torchserve.snapshots.MOST_KEPT", 2)
    theirs = write(tmp_path, "20200101000000000-shutdown.cfg", model_store="s")
    future = write(tmp_path, "20990101000000000-startup.cfg", **{STATE_DIR: str(tmp_path / "state")})

    async def run() -> None:
        registry = Watched(tmp_path)
        found = snapshots(registry, Models(registry.endpoints), {"vmargs": "-Xmx1g"})
        registry.is_up.set()
        await until(lambda: "startup.cfg" in written(tmp_path)[2:])
        found.close()

    asyncio.run(run())
    assert theirs.exists()
    assert not future.exists()
    names = [path.name for path in snapshots_in(tmp_path)]
    assert names == [theirs.name, "20990101000000001-startup.cfg", "20990101000000002-shutdown.cfg"]
    said = config.read_config("torchserve", snapshots_in(tmp_path)[-1], {})
    assert (said.kept, said.loaded_by_snapshot) == ({"vmargs": "-Xmx1g"}, ())


@pytest.mark.parametrize(("settings", "readable"), [({}, True), ({"keystore": "k.p12", "keystore_pass": "secret"}, False)])
def test_a_password_is_for_nobody_else_to_read(tmp_path, settings, readable):
    async def run() -> None:
        registry = Watched(tmp_path, **settings)
        found = snapshots(registry, Models(registry.endpoints), {})
        found.close()

    asyncio.run(run())
    (file,) = snapshots_in(tmp_path)
    assert bool(file.stat().st_mode & 0o044) is readable
    assert ("keystore_pass=secret" in file.read_text()) is not readable


def test_none_are_written_where_none_are_wanted_or_nobody_says_where(tmp_path):
    for settings in (Settings(log_location=str(tmp_path), config_snapshots=False), Settings()):
        registry = Watched(tmp_path)
        registry.settings = settings
        assert snapshots(registry, Models(registry.endpoints), {}) is None
    assert snapshots_in(tmp_path) == []
