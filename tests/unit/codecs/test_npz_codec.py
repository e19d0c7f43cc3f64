"""npz: what numpy writes is read; archives that would become too large, or are none, are not unpacked."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from flowyard.schemas.codecs import members, npy, npz
from flowyard.schemas.errors import InvalidInputError, NotAcceptableError

ARRAYS = {"x": np.arange(6, dtype="f4").reshape(2, 3), "ids": np.array([7, 8]), "ä": np.array(True)}


def saved(save, *args, **kwargs):
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def zipped(files, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def streamed(files):
    """As Java's ZipOutputStream does: sizes behind the contents."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.written = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.written += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return bytes(pipe.written)


def same(left, right):
    assert list(left) == list(right)
    for name, array in right.items():
        np.testing.assert_array_equal(left[name], array, strict=True)
        assert not left[name].flags.writeable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(save):
    body = saved(save, **ARRAYS)
    assert npz.recognise(body)
    same(npz.decode(body), ARRAYS)


def test_what_java_streams_is_read():
    same(npz.decode(streamed([(f"{name}.npy", npy.write(array)) for name, array in ARRAYS.items()])), ARRAYS)


def test_what_we_write_is_read_by_numpy_and_by_us():
    body = npz.encode(ARRAYS)
    same(npz.decode(body), ARRAYS)
    with np.load(io.BytesIO(body), allow_pickle=False) as loaded:
        assert {name: array.tolist() for name, array in loaded.items()} == {k: v.tolist() for k, v in ARRAYS.items()}


def test_stored_arrays_are_views_of_the_body():
    body = saved(np.savez, **ARRAYS)
    assert np.shares_memory(npz.decode(body)["x"], np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("value", [np.arange(3), [np.arange(3), np.ones(2)], {"data": np.arange(3)}, {"arr_1": np.arange(3)}])
def test_unnamed_arrays_come_back_unnamed(value):
    back = npz.decode(npz.encode(value))
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    if not isinstance(value, dict):
        np.testing.assert_equal(npz.decode(saved(np.savez, *([value] if isinstance(value, np.ndarray) else value))), value)


def test_an_archive_without_arrays_is_an_empty_list():
    assert npz.decode(saved(np.savez)) == []


def test_a_zip_archive_of_other_things_is_not_recognised():
    assert not npz.recognise(zipped([("a.npy", npy.write(np.zeros(1))), ("readme.txt", b"")]))
    assert not npz.recognise(b"PK\x03\x04 and so on")
    assert not npz.recognise(saved(np.savez))
    assert not npz.recognise(b"")


BODY = zipped([("a.npy", npy.write(np.arange(100)))])
END = BODY.rindex(b"PK\x05\x06")
ENTRY = BODY.index(b"PK\x01\x02")


def changed(place, data, body=BODY):
    return body[:place] + data + body[place + len(data) :]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "without an end"),
        (BODY[:-10], "without an end"),
        (BODY + b"more", "does not fit"),
        (b"before" + BODY, "does not fit"),
        (changed(END + 8, b"\xff\xff\xff\xff"), "ZIP64"),
        (changed(END + 8, b"\x02\x00\x02\x00"), "expected another member"),
        (changed(END + 8, b"\x00\x00\x00\x00"), "expected the end of the ZIP archive's list"),
        (changed(END + 4, b"\x01"), "does not fit"),
        (changed(ENTRY, b"XX"), "expected a member of the ZIP archive"),
        (changed(ENTRY + 8, b"\x01"), "encrypted"),
        (changed(ENTRY + 10, b"\x0c"), "compression method 12"),
        (changed(ENTRY + 16, b"\x00\x00\x00\x00"), "CRC-32"),
        (changed(ENTRY + 20, struct.pack("<L", len(BODY) + 1)), "overlap"),
        (changed(ENTRY + 20, struct.pack("<L", 10)), "does not end"),
        (changed(ENTRY + 24, struct.pack("<L", 10)), "expected 10 bytes in 'a.npy', got more"),
        (changed(ENTRY + 24, struct.pack("<L", 100_000)), "CRC-32"),
        (changed(ENTRY + 28, b"\xff"), "expected a member of the ZIP archive"),
        (changed(ENTRY + 42, struct.pack("<L", 4)), "expected the ZIP member 'a.npy' at byte 4"),
        (changed(ENTRY + 42, struct.pack("<L", 2**31)), "expected the ZIP member"),
        (changed(40, b"\xff\xff\xff\xff\xff"), "a.npy"),
        (zipped([("readme.txt", b"hello")]), "expected members named *.npy in npz, got 'readme.txt'"),
        (zipped([("a.npy", b"hello")]), "npz member 'a.npy': expected npy"),
        (zipped([(f"{name}.npy", npy.write(np.zeros(1))) for name in "ab"]).replace(b"b.npy", b"a.npy"), "'a' twice"),
        (zipped([(f"{n}.npy", b"") for n in range(1025)]), "at most 1024 members"),
        (zipped([("a" * 2000 + ".npy", b"")]), "names of at most 1024 bytes"),
        (saved(np.savez, a=np.array([{}], dtype=object)), "npz member 'a.npy': expected an array of numbers or bools"),
    ],
)
def test_what_is_no_npz_is_refused(body, words):
    with pytest.raises(InvalidInputError) as refused:
        npz.decode(body)
    assert words in refused.value.message


def test_small_bodies_may_grow_a_lot():
    zeros = np.zeros((3, 224, 224), "f4")
    body = saved(np.savez_compressed, zeros)
    assert zeros.nbytes > 64 * len(body)
    np.testing.assert_array_equal(npz.decode(body), zeros)


@pytest.mark.parametrize("size", [5 * 2**20, 300 * 2**20])
def test_bombs_are_not_unpacked(size):
    pump = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(pump.compress(bytes(2**20)) for _ in range(size >> 20)) + pump.flush()
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(packed), size, 5, 0) + b"a.npy"
    tracemalloc.start()
    try:
        for declared in (size, 1000):
            entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, 0, len(packed), declared, 5, 0, 0, 0, 0, 0, 0)
            body = local + packed + entry + b"a.npy"
            body += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry) + 5, len(local) + len(packed), 0)
            with pytest.raises(InvalidInputError):
                npz.decode(body)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(packed) + 2**20
    finally:
        tracemalloc.stop()


def test_members_that_share_their_bytes_are_refused():
    big = zipped([("a.npy", npy.write(np.zeros(100_000, np.uint8)))], zipfile.ZIP_STORED)
    end, entry = big.rindex(b"PK\x05\x06"), big.index(b"PK\x01\x02")
    entries = big[entry:end] * 900
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 900, 900, len(entries), entry, 0)
    with pytest.raises(InvalidInputError, match="overlap"):
        npz.decode(big[:entry] + entries + tail)


def test_unpacked_bytes_are_bounded_over_all_members():
    content = npy.write(np.zeros(2**20, np.uint8))
    body = zipped([(f"{n}.npy", content) for n in range(100)])
    with pytest.raises(InvalidInputError, match="expected at most"):
        npz.decode(body)
    assert members.MAX_GROWTH * len(body) < 100 * len(content)


def test_strings_cannot_be_held():
    with pytest.raises(NotAcceptableError, match="string"):
        npz.encode({"a": np.array(["x"], dtype=object)})
