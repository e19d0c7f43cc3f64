import hashlib
import os
import re
import stat
import threading

import pytest

from flowyard.platform.archives import store as module
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.store import ArchiveStore
from flowyard.schemas.errors import InvalidArchiveError, NotFoundError, TooLargeError

from .building import ONNX, gz, tar_bytes, tar_info, tree, write, zip_bytes

LIMITS = Limits()


@pytest.fixture
def store(tmp_path):
    return ArchiveStore(tmp_path / "state")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def kept(store):
    return sorted(path.name for path in (store._root / "sha256").iterdir())


def holds_nothing(store):
    return not kept(store) and not any((store._root / "tmp").iterdir())


def test_archives_are_unpacked_under_their_digest(store, tmp_path):
    data = zip_bytes([("a.onnx", b"x"), ("b", b"y")])
    found = store.add_file(write(tmp_path, data), "m.zip", LIMITS)
    assert found.digest == hashlib.sha256(data).hexdigest()
    assert found.folder == store._root / "sha256" / found.digest
    assert tree(found.folder) == {"a.onnx": b"x", "b": b"y"}
    assert found.filename == ""
    assert not any((store._root / "tmp").iterdir())


@pytest.mark.parametrize(
    ("names", "inner", "filename"),
    [
        (["m/a", "m/b"], "m", ""),
        (["m/a.onnx"], "m", "a.onnx"),
        (["m/a", "__MACOSX/m/._a"], "m", "a"),
        (["m/a", "b"], "", ""),
        (["m/a", "n/b"], "", ""),
        (["m/n/a"], "m", ""),
        (["MAR-INF/MANIFEST.json"], "", ""),
    ],
)
def test_a_single_folder_is_the_root(store, tmp_path, names, inner, filename):
    found = store.add_file(write(tmp_path, gz(tar_bytes([(name, b"x") for name in names]))), "m", LIMITS)
    assert found.folder == store._root / "sha256" / found.digest / inner
    assert found.filename == filename
    assert store.open(found.digest) == found


def test_what_is_there_is_used_again(store, tmp_path, monkeypatch):
    archive = write(tmp_path, zip_bytes([("a", b"x")]))
    first = store.add_file(archive, "m.zip", LIMITS)
    inode = first.folder.stat().st_ino
    monkeypatch.setattr(module, "extract", None)
    assert store.add_file(archive, "other.zip", LIMITS) == first
    assert first.folder.stat().st_ino == inode


@pytest.mark.parametrize(
    ("data", "filename", "expected"),
    [
        (ONNX, "digits.onnx", "digits.onnx"),
        (ONNX, "digits", "digits.onnx"),
        (ONNX, "", "model.onnx"),
        (ONNX, "../../etc/my model.onnx", "my_model.onnx"),
        (ONNX, "C:\\models\\m.onnx", "m.onnx"),
        (ONNX, "..", "model.onnx"),
        (ONNX, ".hidden", "hidden.onnx"),
        (ONNX, "a\n\0b.onnx", "a_b.onnx"),
        (ONNX, "x" * 500 + ".onnx", "x" * 100 + ".onnx"),
        (b"def handle(x): return x", "model.py", "model.py"),
        (b"\x80\x02.", "weights", "weights"),
        (b"workflow:\n  out: [m, in]\n", "anything.yml", "workflow.yaml"),
        (b"workflow:\n  out: [m, in]\n", "anything", "workflow.yaml"),
        (b'{"workflow": {}}', "w.json", "workflow.json"),
        (b'{"workflow": {}}', "", "workflow.json"),
        (b"{workflow: {}, models: {}}", "w.yaml", "workflow.yaml"),
        (b'{"workflow": {}}', "w.yaml", "workflow.yaml"),
    ],
)
def test_single_files(store, tmp_path, data, filename, expected):
    found = store.add_file(write(tmp_path, data), filename, LIMITS)
    assert found.filename == expected
    assert tree(found.folder) == {expected: data}
    assert store.open(found.digest) == found


def test_the_same_model_under_two_names_is_kept_twice(store, tmp_path):
    file = write(tmp_path, ONNX)
    assert store.add_file(file, "a.onnx", LIMITS).filename == "a.onnx"
    assert store.add_file(file, "b.onnx", LIMITS).filename == "b.onnx"
    assert len(kept(store)) == 2


@pytest.mark.parametrize(
    ("data", "limits", "kind"),
    [
        (b"", LIMITS, InvalidArchiveError),
        (zip_bytes([("good", b"x"), ("../evil", b"x")]), LIMITS, InvalidArchiveError),
        (tar_bytes([("good", b"x"), (tar_info("l", b"2", "good"), b"")]), LIMITS, InvalidArchiveError),
        (gz(tar_bytes([("good", b"x" * 5000)]))[:-4], LIMITS, InvalidArchiveError),
        (ONNX, Limits(max_archive_bytes=3), TooLargeError),
        (ONNX, Limits(max_unpacked_bytes=3), TooLargeError),
    ],
)
def test_refused_files_leave_nothing(store, tmp_path, data, limits, kind):
    with pytest.raises(kind):
        store.add_file(write(tmp_path, data), "x", limits)
    assert holds_nothing(store)


def test_a_crash_before_the_rename_leaves_nothing(store, tmp_path, monkeypatch):
    def crash(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "tree_digest", crash)
    with pytest.raises(KeyboardInterrupt):
        store.add_file(write(tmp_path, ONNX), "m.onnx", LIMITS)
    assert holds_nothing(store)


def test_a_file_that_changes_is_refused(store, tmp_path, monkeypatch):
    file = write(tmp_path, zip_bytes([("a", b"x")]))

    def change(archive, into, limits):
        (into / "a").touch()
        file.write_bytes(b"other")

    monkeypatch.setattr(module, "extract", change)
    with pytest.raises(InvalidArchiveError, match="changed while it was read"):
        store.add_file(file, "m.zip", LIMITS)
    assert holds_nothing(store)


def test_left_overs_of_a_crash_are_removed(store, tmp_path):
    kept_one = store.add_file(write(tmp_path, ONNX), "m.onnx", LIMITS)
    half = store._root / "tmp" / "half"
    half.mkdir()
    (half / "file").touch()
    (store._root / "tmp" / "upload").touch()
    (store._root / "tmp" / "link").symlink_to(kept_one.folder)
    again = ArchiveStore(store._root)
    assert not any((store._root / "tmp").iterdir())
    assert again.open(kept_one.digest) == kept_one


def test_threads_that_add_the_same(store, tmp_path):
    archive = write(tmp_path, zip_bytes([("a", b"x" * 5000), ("b/c", b"y")]))
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.add_file(archive, "m", LIMITS))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert kept(store) == [found[0].digest]
    assert not any((store._root / "tmp").iterdir())


def test_someone_else_was_faster(store, tmp_path, monkeypatch):
    archive = write(tmp_path, zip_bytes([("a", b"x")]))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()

    def meanwhile(archive, into, limits):
        (into / "a").write_bytes(b"mine")
        (store._root / "sha256" / digest).mkdir()
        (store._root / "sha256" / digest / "a").write_bytes(b"theirs")

    monkeypatch.setattr(module, "extract", meanwhile)
    assert tree(store.add_file(archive, "m", LIMITS).folder) == {"a": b"theirs"}


def test_a_rename_that_fails_is_told(store, tmp_path):
    (store._root / "sha256").rmdir()
    with pytest.raises(FileNotFoundError):
        store.add_file(write(tmp_path, ONNX), "m.onnx", LIMITS)


def test_folders_are_copied(store, source):
    (source / "sub").mkdir()
    (source / "sub/m.onnx").write_bytes(b"m")
    (source / "run.sh").write_bytes(b"r")
    (source / "run.sh").chmod(0o777)
    (source / "alias").symlink_to("sub/m.onnx")
    (source / "folder-alias").symlink_to(source / "sub")
    (source / "empty").mkdir()
    found = store.add_directory(source)
    expected = {"sub/": b"", "sub/m.onnx": b"m", "run.sh": b"r", "alias": b"m", "empty/": b""}
    assert tree(found.folder) == expected | {"folder-alias/": b"", "folder-alias/m.onnx": b"m"}
    assert stat.S_IMODE((found.folder / "run.sh").stat().st_mode) == 0o644
    assert not any(path.is_symlink() for path in found.folder.rglob("*"))
    assert store.add_directory(source) == found
    (source / "run.sh").write_bytes(b"s")
    assert store.add_directory(source).digest != found.digest


def test_names_are_part_of_the_digest(store, source):
    (source / "a").write_bytes(b"x")
    first = store.add_directory(source)
    (source / "a").rename(source / "b")
    assert store.add_directory(source).digest != first.digest


def test_a_folder_of_one_file_is_that_file(store, source, tmp_path):
    (source / "m.onnx").write_bytes(ONNX)
    assert store.add_directory(source) == store.add_file(write(tmp_path, ONNX), "m.onnx", LIMITS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: at.symlink_to("/etc/passwd"), "'evil': a link that leads out of the folder"),
        (lambda at: at.symlink_to("../.."), "'evil': a link that leads out of the folder"),
        (lambda at: at.symlink_to("."), "'evil': a link that leads in circles"),
        (lambda at: at.symlink_to("evil"), "'evil': it cannot be read"),
        (lambda at: at.symlink_to("absent"), "'evil': it cannot be read"),
        (os.mkfifo, "'evil': a special file"),
        (lambda at: (at.parent / "a\nb").touch(), "the name has a control character"),
    ],
)
def test_refused_folders(store, source, make, message):
    (source / "good").touch()
    make(source / "evil")
    with pytest.raises(InvalidArchiveError, match=re.escape(message)):
        store.add_directory(source)
    assert holds_nothing(store)


def test_empty_and_own_folders_are_refused(store, source, tmp_path):
    with pytest.raises(InvalidArchiveError, match="holds no files"):
        store.add_directory(source)
    with pytest.raises(InvalidArchiveError, match="the server's own state"):
        store.add_directory(tmp_path)
    with pytest.raises(TooLargeError, match="max_archive_files"):
        (source / "a").touch()
        (source / "b").touch()
        store.add_directory(source, Limits(max_files=1))
    assert holds_nothing(store)


@pytest.mark.parametrize("digest", ["0" * 64, "", "..", "../tmp", "x" * 64, "0" * 64 + "\n"])
def test_unknown_digests(store, digest):
    with pytest.raises(NotFoundError, match="No archive is stored under digest"):
        store.open(digest)


def test_unused_archives_are_removed(store, tmp_path):
    one, _ = (store.add_file(write(tmp_path, zip_bytes([("d/a", data)])), "m", LIMITS) for data in (b"1", b"2"))
    doomed = store.put_unused_aside([one.digest, "0" * 64])
    assert kept(store) == [one.digest]
    assert len(doomed) == 1
    store.discard(doomed)
    assert store.put_unused_aside(iter([one.digest])) == []
    assert not any((store._root / "tmp").iterdir())


def test_temporary_files_are_removed(store):
    with store.temporary_file() as path:
        path.write_bytes(b"x")
        assert path.parent == store._root / "tmp"
    assert not path.exists()
    with pytest.raises(KeyError), store.temporary_file() as path:
        raise KeyError
    assert not path.exists()
