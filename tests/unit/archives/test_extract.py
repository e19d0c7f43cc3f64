import os
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.archives.extract import extract
from flowyard.platform.archives.members import Limits, Writer, member_parts
from flowyard.schemas.errors import InvalidArchiveError, TooLargeError, UserError

from .building import entry_field, gz, tar_bytes, tar_info, tree, write, zip_bytes, zip_info

GOOD = [("./model/", b""), ("model/a.txt", b"a" * 700), ("model/sub/\u00e9.bin", b"\x00\xff" * 256), ("empty", b"")]
UNPACKED = {
    "model/": b"",
    "model/sub/": b"",
    "model/a.txt": b"a" * 700,
    "model/sub/\u00e9.bin": b"\x00\xff" * 256,
    "empty": b"",
}
PACKERS = {"zip": zip_bytes, "tar": tar_bytes, "tar.gz": lambda members: gz(tar_bytes(members))}


def refusal(tmp_path, data, limits=Limits()):  # noqa: B008
    """Extracts what must be refused, and holds that nothing is left of it."""
    into = tmp_path / "into"
    before = {path for path in tmp_path.iterdir() if path != into}
    archive = write(tmp_path, data)
    with pytest.raises(UserError) as caught:
        extract(archive, into, limits)
    assert not into.exists() or not any(into.iterdir())
    assert {path for path in tmp_path.iterdir() if path != into} == before | {archive}
    return caught.value


@pytest.mark.parametrize("kind", PACKERS)
def test_good_archives(tmp_path, kind):
    extract(write(tmp_path, PACKERS[kind](GOOD)), tmp_path / "into", Limits())
    assert tree(tmp_path / "into") == UNPACKED


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_all_tar_formats(tmp_path, form):
    name = "/".join(["folder" * 8] * 4) + "/file.txt"
    extract(write(tmp_path, tar_bytes([(name, b"x")], form)), tmp_path / "into", Limits())
    assert tree(tmp_path / "into")[name] == b"x"


def test_modes_are_ours_and_not_those_of_the_archive(tmp_path):
    run = zip_info("bin/run.sh", stat.S_IFREG | stat.S_ISUID | 0o777)
    mask = os.umask(0o077)
    try:
        extract(write(tmp_path, zip_bytes([(run, b"#!/bin/sh")])), tmp_path / "into", Limits())
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "into/bin/run.sh").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "into/bin").stat().st_mode) == 0o755


def test_names_in_utf8_without_the_flag_are_read_as_such(tmp_path):
    data = zip_bytes([("\u00e9", b"x")]).replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")
    data = entry_field(data, 8, 0)
    data = data[:6] + b"\0\0" + data[8:]
    extract(write(tmp_path, data), tmp_path / "into", Limits())
    assert tree(tmp_path / "into") == {"\u00e9": b"x"}


BAD_NAMES = [
    ("/etc/passwd", "the name is absolute"),
    ("//x", "the name is absolute"),
    ("../x", "the name leads upwards with .."),
    ("a/../../x", "the name leads upwards with .."),
    ("a/..", "the name leads upwards with .."),
    ("a\\x", "the name has a backslash"),
    ("..\\x", "the name has a backslash"),
    ("C:/x", "the name has a drive letter"),
    ("c:x", "the name has a drive letter"),
    ("a\nb", "the name has a control character"),
    ("a\x1b[2Jb", "the name has a control character"),
    ("a\x7f", "the name has a control character"),
    ("a\u2028b", "the name has a line separator"),
    ("/".join("a" * 33), "33 folders deep, 32 are allowed"),
    ("a" * 256, "a part of it longer than 255"),
    ("/".join(["b" * 200] * 6), "the name is longer than 1024 bytes"),
]


@pytest.mark.parametrize(("name", "reason"), BAD_NAMES)
@pytest.mark.parametrize("kind", PACKERS)
def test_bad_names(tmp_path, kind, name, reason):
    error = refusal(tmp_path, PACKERS[kind]([("good", b"x"), (name, b"x")]))
    assert isinstance(error, InvalidArchiveError)
    assert reason in error.message
    assert repr(name[:200])[:-1] in error.message


@pytest.mark.parametrize("name", ["a", ""])
def test_nul_in_names(tmp_path, name):
    data = zip_bytes([("good", b"x"), (name + "#b", b"x")]).replace(b"#", b"\0")
    assert "control character" in refusal(tmp_path, data).message
    info = tar_info("short", tarfile.REGTYPE)
    info.pax_headers = {"path": name + "\0b"}
    assert "control character" in refusal(tmp_path, tar_bytes([(info, b"x")])).message


def test_empty_names(tmp_path):
    info = tar_info("", tarfile.REGTYPE)
    assert "the name is empty" in refusal(tmp_path, tar_bytes([("good", b""), (info, b"x")])).message


def test_names_that_are_not_utf8(tmp_path):
    plain = zip_bytes([("good", b"x"), ("a##b", b"x")]).replace(b"##", b"\xff\xfe")
    assert "bytes that are not UTF-8" in refusal(tmp_path, plain).message
    flagged = zip_bytes([("\u00e9\u00e9", b"x")]).replace("\u00e9\u00e9".encode(), b"\xff\xfe\xff\xfe")
    assert "the ZIP archive is broken" in refusal(tmp_path, flagged).message
    for form in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        assert "bytes that are not UTF-8" in refusal(tmp_path, tar_bytes([("a\udcff", b"x")], form)).message


CLASHES = [
    ([("a", b"1"), ("a", b"2")], "the name is there twice"),
    ([("a", b"1"), ("./a", b"2")], "the name is there twice"),
    ([("a/", b""), ("a/", b"")], "the name is there twice"),
    ([("a/b", b"1"), ("a//b", b"2")], "the name is there twice"),
    ([("a", b"1"), ("a/b", b"2")], "a file and a folder have this name"),
    ([("a/b", b"1"), ("a", b"2")], "a file and a folder have this name"),
    ([("a/", b""), ("a", b"2")], "a file and a folder have this name"),
    ([("a", b"2"), ("a/", b"")], "a file and a folder have this name"),
]


@pytest.mark.parametrize(("members", "reason"), CLASHES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_clashes(tmp_path, kind, members, reason):
    assert reason in refusal(tmp_path, PACKERS[kind](members)).message


@pytest.mark.parametrize("name", ["a/", "a/.", "."])
def test_files_with_the_name_of_a_folder(tmp_path, name):
    assert "a file with the name of a folder" in refusal(tmp_path, tar_bytes([(tar_info(name, tarfile.REGTYPE), b"x")])).message


def test_case_matters(tmp_path):
    extract(write(tmp_path, zip_bytes([("a", b"1"), ("A", b"2")])), tmp_path / "into", Limits())
    assert tree(tmp_path / "into") == {"a": b"1", "A": b"2"}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.CONTTYPE, "a special file"),
        (b"Z", "a special file"),
        (tarfile.GNUTYPE_LONGLINK, "a special file"),
    ],
)
def test_special_members_of_tar(tmp_path, kind, what):
    error = refusal(tmp_path, tar_bytes([("good", b"x"), (tar_info("evil", kind, "/etc/passwd"), b"")]))
    assert error.message == f"archive member 'evil': {what}; only regular files and folders are allowed"


def test_sparse_files(tmp_path):
    info = tar_info("sparse", tarfile.REGTYPE)
    info.pax_headers = {"GNU.sparse.major": "1"}
    assert "a sparse file" in refusal(tmp_path, tar_bytes([(info, b"x")])).message


def test_links_then_members_through_them(tmp_path):
    link = tar_info("out", tarfile.SYMTYPE, str(tmp_path))
    assert "'out': a symbolic link" in refusal(tmp_path, tar_bytes([(link, b""), ("out/evil", b"x")])).message


@pytest.mark.parametrize(
    ("mode", "what"), [(stat.S_IFLNK, "a symbolic link"), (stat.S_IFIFO, "a special file"), (stat.S_IFCHR, "a special file")]
)
def test_special_members_of_zip(tmp_path, mode, what):
    error = refusal(tmp_path, zip_bytes([(zip_info("evil", mode | 0o777), b"/etc/passwd")]))
    assert error.message == f"archive member 'evil': {what}; only regular files and folders are allowed"


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (8, 0x1, "it is encrypted"),
        (8, 0x41, "it is encrypted"),
        (10, 97, "compression method 97 is not supported"),
        (10, zipfile.ZIP_LZMA, "compression method 14 is not supported"),
        (16, 0xBEEF, "it is broken: Bad CRC-32"),
        (24, 12_345, "it is broken"),
        (20, 3, "it is broken"),
    ],
)
def test_damaged_entries_of_zip(tmp_path, offset, value, reason):
    data = entry_field(zip_bytes([("evil", os.urandom(5000))]), offset, value)
    error = refusal(tmp_path, data)
    assert "'evil'" in error.message
    assert reason in error.message or "are announced" in error.message


def test_folder_with_contents(tmp_path):
    assert "a folder with contents" in refusal(tmp_path, zip_bytes([("a/", b"x")])).message


def test_overlapping_members(tmp_path):
    data = zip_bytes([("aa", b"x" * 100), ("bb", b"x" * 100)])
    second = data.rindex(b"PK\x01\x02")
    same_place = data[: second + 42] + struct.pack("<I", 0) + data[second + 46 :]
    assert "it overlaps another member" in refusal(tmp_path, same_place).message


@pytest.mark.parametrize("kind", PACKERS)
def test_no_prefix_of_an_archive_is_accepted(tmp_path, kind):
    data = PACKERS[kind]([("a", b"x" * 600), ("b", b"y" * 512)])
    whole = len(data.rstrip(b"\0")) if kind == "tar" else len(data)
    for size in {1, 100, 511, 512, 600, 1023, 1024, 1536, 2048, whole // 2, whole - 1} - {whole}:
        if size < whole:
            assert isinstance(refusal(tmp_path, data[:size]), InvalidArchiveError)


def test_damaged_gzip_and_tar(tmp_path):
    tar = tar_bytes([("a", os.urandom(600)), ("b", b"y" * 512)])
    packed = gz(tar)
    assert "the gzip stream is broken" in refusal(tmp_path, packed[:-8] + b"\0" * 8).message
    assert "the gzip stream is broken" in refusal(tmp_path, packed + b"junk").message
    assert "the tar archive is broken: bad checksum" in refusal(tmp_path, tar[:1536] + b"z" + tar[1537:]).message
    assert "goes on after its end" in refusal(tmp_path, tar + tar).message
    assert "holds no tar archive" in refusal(tmp_path, gz(b"hello")).message


@pytest.mark.parametrize("record", [b"x", b"99 path=a\n", b"0 path=a\n", b"9 path=ab\n", b"5 =ab\n"])
def test_bad_pax_headers(tmp_path, record):
    data = tar_bytes([(tar_info("pax", tarfile.XHDTYPE), record), ("a", b"x")])
    assert "bad pax header" in refusal(tmp_path, data).message


@pytest.mark.parametrize("size", ["-1", "abc", "1" * 30])
def test_bad_pax_sizes(tmp_path, size):
    info = tar_info("a", tarfile.REGTYPE)
    info.pax_headers = {"size": size}
    assert "'a': its size cannot be read" in refusal(tmp_path, tar_bytes([(info, b"")])).message


def test_long_extension_records_are_not_read(tmp_path):
    data = tar_bytes([(tar_info("pax", tarfile.XHDTYPE), bytes(2**20 + 1))])
    assert "an extension record of 1048577 bytes, 1048576 are allowed" in refusal(tmp_path, data).message


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bombs(tmp_path, kind):
    error = refusal(tmp_path, PACKERS[kind]([("good", b"x"), ("bomb", bytes(8 * 2**20))]))
    assert error.message == "archive member 'bomb': the archive unpacks to more than 200 times its size"


def test_what_compresses_well_is_no_bomb_while_it_is_small(tmp_path):
    extract(write(tmp_path, zip_bytes([("zeros", bytes(2**20))])), tmp_path / "into", Limits())


def test_streams_of_headers_are_bounded(tmp_path):
    comments = [(tar_info("g", tarfile.XGLTYPE), b"11 a=bcdef\n") for _ in range(4000)]
    error = refusal(tmp_path, gz(tar_bytes([*comments, ("a", b"x")])), Limits(max_files=1, max_ratio=20))
    assert "far more than its files" in error.message


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (Limits(max_archive_bytes=50), "max_archive_size_bytes"),
        (Limits(max_unpacked_bytes=1000), "'b': more than 1000 bytes unpacked (setting max_unpacked_size_bytes)"),
        (Limits(max_files=1), "more than 1 files (setting max_archive_files)"),
    ],
)
def test_limits_of_the_settings(tmp_path, kind, limits, setting):
    error = refusal(tmp_path, PACKERS[kind]([("a", b"x" * 600), ("b", b"y" * 600)]), limits)
    assert isinstance(error, TooLargeError)
    assert setting in error.message


def test_folders_that_are_only_implied_count(tmp_path):
    assert "more than 3 files" in refusal(tmp_path, tar_bytes([("a/b/c/d", b"")]), Limits(max_files=3)).message


def test_huge_lists_of_members_are_not_read(tmp_path):
    data = zip_bytes([("a", b"")])
    end = data.rindex(b"PK\x05\x06")
    announced = data[: end + 12] + struct.pack("<I", 2**31) + data[end + 16 :]
    error = refusal(tmp_path, b"PK\x03\x04" + bytes(2**21) + announced, Limits(max_files=1))
    assert "broken" in error.message or "more than 1 files" in error.message


@pytest.mark.parametrize("data", [zip_bytes([]), zip_bytes([("a/", b"")])])
def test_archives_without_files(tmp_path, data):
    assert "the archive holds no files" in refusal(tmp_path, data).message


@pytest.mark.parametrize("data", [b"hello", b"\x80\x02}q\x00.", bytes(10_240)])
def test_what_is_no_archive(tmp_path, data):
    assert "not a ZIP, tar or tar.gz archive" in refusal(tmp_path, data).message


def test_target_must_be_empty(tmp_path):
    (tmp_path / "into").mkdir()
    (tmp_path / "into/mine").touch()
    with pytest.raises(FileExistsError):
        extract(write(tmp_path, zip_bytes([("a", b"x")])), tmp_path / "into", Limits())
    assert tree(tmp_path / "into") == {"mine": b""}


NASTY = st.sampled_from(
    ["..", ".", "", "/", "\\", "C:", "a", "b", "\0", "\n", "\udcff", "~", "\u2028", "\u00e9", "a" * 300, "CON", " "]
)
names = st.one_of(st.lists(NASTY, max_size=6).map("/".join), st.lists(NASTY, max_size=6).map("".join), st.text(max_size=20))


@given(names)
def test_accepted_names_stay_inside(name):
    try:
        parts = member_parts(name)
    except InvalidArchiveError:
        return
    assert all(part not in ("", ".", "..") and "/" not in part and "\0" not in part for part in parts)
    assert os.path.normpath("/".join(["/root", *parts])).startswith("/root")


@given(st.lists(st.tuples(names, st.booleans()), max_size=6))
def test_nothing_is_ever_written_outside(tmp_path_factory, members):
    outer = tmp_path_factory.mktemp("outer")
    try:
        with Writer(outer / "into", Limits()) as writer:
            for name, folder in members:
                if folder:
                    writer.folder(name)
                else:
                    writer.file(name, [b"x"])
    except InvalidArchiveError:
        assert not any((outer / "into").iterdir())
    assert [path.name for path in outer.iterdir()] == ["into"]
    assert not any(path.is_symlink() for path in outer.rglob("*"))
