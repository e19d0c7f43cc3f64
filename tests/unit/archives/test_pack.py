"""Packing a folder: same files, same bytes; nothing that a server would refuse."""

import os
import stat
import zipfile
from pathlib import Path

import pytest

from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.pack import pack
from flowyard.platform.archives.store import ArchiveStore
from flowyard.schemas.errors import InvalidArchiveError, InvalidRequestError


def fill(folder: Path) -> Path:
    for name, text in {"workflow.yaml": "name: w\n", "b/two.py": "two", "a.bin": "\0" * 3000, "Z": "z", "é": "ü"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "x"), fill(tmp_path / "other")
    for path in second.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (second / "Z").chmod(0o755)
    packed = [pack(folder, tmp_path / f"{folder.name}.zip") for folder in (first, second)]
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    assert packed[0].sha256 == packed[1].sha256
    assert packed[0].size_bytes == (tmp_path / "x.zip").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "other.zip", "x", "x.zip"]


def test_members_are_sorted_and_have_one_time_and_mode(tmp_path: Path) -> None:
    packed = pack(fill(tmp_path / "x"), tmp_path / "x.zip")
    with zipfile.ZipFile(packed.path) as archive:
        assert archive.namelist() == ["Z", "a.bin", "b/two.py", "workflow.yaml", "é"]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {stat.S_IFREG | 0o644}
        assert archive.read("a.bin") == b"\0" * 3000
    assert packed.files == 5


def test_a_server_takes_what_was_packed(tmp_path: Path) -> None:
    packed = pack(fill(tmp_path / "x"), tmp_path / "x.zip")
    stored = ArchiveStore(tmp_path / "store").add_file(packed.path, "x.zip", Limits())
    assert (stored.folder / "b/two.py").read_text() == "two"


def test_hidden_files_caches_and_the_archive_itself_are_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x")
    before = pack(folder, tmp_path / "before.zip")
    for name in (".git/config", ".env", "__pycache__/a.pyc", "b/__pycache__/b.pyc", "b/.hidden", "c.pyc"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for _ in range(2):
        assert pack(folder, folder / "x.zip").sha256 == before.sha256


def test_a_link_inside_the_folder_becomes_a_file(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x")
    (folder / "link").symlink_to("b/two.py")
    with zipfile.ZipFile(pack(folder, tmp_path / "x.zip").path) as archive:
        assert archive.read("link") == b"two"


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("link", lambda path: path.symlink_to("/etc/passwd"), '"link" is a link that leaves the folder'),
        ("b/up", lambda path: path.symlink_to("../../secret"), '"b/up" is a link that leaves the folder'),
        ("around", lambda path: path.symlink_to("b"), '"around" is a link to a folder or to nothing'),
        ("out", lambda path: path.symlink_to(".."), '"out" is a link that leaves the folder'),
        ("lost", lambda path: path.symlink_to("nothing"), '"lost" is a link to a folder or to nothing'),
        ("pipe", os.mkfifo, '"pipe" is no regular file'),
        ("a\nb", lambda path: path.write_text(""), "a\\nb"),
        ("a\\b", lambda path: path.write_text(""), "backslash"),
    ],
)
def test_what_a_server_would_refuse_is_not_packed(tmp_path: Path, name: str, make, words: str) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = fill(tmp_path / "x")
    make(folder / name)
    with pytest.raises(InvalidArchiveError) as raised:
        pack(folder, tmp_path / "x.zip")
    assert words in raised.value.message
    assert not (tmp_path / "x.zip").exists()


def test_an_empty_folder_and_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidArchiveError, match="nothing to pack"):
        pack(tmp_path, tmp_path / "x.zip")
    with pytest.raises(InvalidRequestError, match="No such file"):
        pack(fill(tmp_path / "x"), tmp_path / "no" / "x.zip")
    (tmp_path / "x.zip").mkdir()
    with pytest.raises(InvalidRequestError, match=r"x\.zip"):
        pack(tmp_path / "x", tmp_path / "x.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.zip"]
