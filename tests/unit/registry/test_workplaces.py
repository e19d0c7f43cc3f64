"""Folders of their own for handlers that may write where their model is."""

from __future__ import annotations

from pathlib import Path

from flowyard.platform.registry import workplaces
from flowyard.platform.registry.workplaces import Workplaces
from flowyard.platform.workers.confinement import Confinement
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.schemas.devices import CPU
from flowyard.schemas.messages import Handlers
from flowyard.schemas.models import ModelSpec


def pool(root: Path, handlers: Handlers = "torchserve") -> PoolSpec:
    return PoolSpec(
        name="m",
        engine="Python",
        root=str(root),
        path="",
        spec=ModelSpec(),
        policy=Policy(name="m"),
        devices=(CPU,),
        min_workers=1,
        max_workers=1,
        handlers=handlers,
    )


def archive(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "handler.py").write_text("x")
    (folder / "deep" / "weights").write_text("w")
    return folder


def test_what_is_written_stays_there(tmp_path):
    source = archive(tmp_path / "archive")
    places = Workplaces(tmp_path / "places", Confinement())
    given = places.give({"a": pool(source), "b": pool(source, "mms"), "native": pool(source, "")})
    assert given["native"].root == str(source)
    a, b = (Path(given[key].root) for key in ("a", "b"))
    assert {str(path.relative_to(a)) for path in a.rglob("*")} == {"deep", "handler.py", "deep/weights"}
    (a / "deep" / "mark").touch()
    assert not (b / "deep" / "mark").exists()
    assert not (source / "deep" / "mark").exists()
    places.take_back(given.values())
    assert source.is_dir()
    assert list((tmp_path / "places").iterdir()) == []


def test_files_that_cannot_be_linked_are_referred_to(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(workplaces.os, "link", refuse)
    source = archive(tmp_path / "archive")
    place = Path(Workplaces(tmp_path / "places", Confinement()).give({"a": pool(source)})["a"].root)
    assert (place / "deep" / "weights").read_text() == "w"
    assert (place / "handler.py").is_symlink()


def test_what_is_left_of_an_earlier_life_goes(tmp_path):
    (tmp_path / "places" / "old").mkdir(parents=True)
    Workplaces(tmp_path / "places", Confinement())
    assert not (tmp_path / "places").exists()
