"""The digits example, without a server: what its README states, its decoder, its archive and the demo's pure parts."""

import importlib.util
import io
import json
import re
import struct
import sys
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(DIGITS))  # demo.py imports its neighbour
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DIGITS))
    return module


steps, archive, demo = load("steps"), load("archive"), load("demo")


# --- Accuracy ---


@pytest.fixture(scope="module")
def heldout():
    with np.load(DIGITS / "heldout.npz", allow_pickle=False) as data:
        return data["images"], data["labels"]


@pytest.fixture(scope="module")
def inputs(heldout):
    return np.concatenate([steps.decode(demo.encode_png(image.tobytes(), 8)) for image in heldout[0]])


def scores_of(inputs):
    torch = pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = torch.jit.load(DIGITS / "cnn.pt", map_location="cpu")
    with torch.inference_mode():
        cnn = model(torch.from_numpy(inputs)).numpy()
    session = onnxruntime.InferenceSession(DIGITS / "mlp.onnx", providers=["CPUExecutionProvider"])
    (mlp,) = session.run(["probabilities"], {"image": inputs})
    return {"cnn": cnn, "mlp": mlp, "ensemble": (cnn + mlp) / 2}


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:DeprecationWarning")
def test_accuracies_are_those_of_the_readme(heldout, inputs):
    stated = dict(re.findall(r"\b(cnn|mlp|ensemble) (0\.\d+)", (DIGITS / "README.md").read_text()))
    assert stated.keys() == {"cnn", "mlp", "ensemble"}
    scores = scores_of(inputs)
    for name, value in scores.items():
        assert value.shape == (len(inputs), 10)
        assert value.dtype == np.float32
        np.testing.assert_allclose(value.sum(axis=1), 1, atol=1e-5)
        assert (value.argmax(1) == heldout[1]).mean() == pytest.approx(float(stated[name]), abs=0.005)
    assert (scores["ensemble"].argmax(1) == heldout[1]).mean() >= 0.97


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:DeprecationWarning")
def test_the_ensemble_recognises_the_ten_images_and_one_needs_it():
    inputs = np.concatenate([steps.decode((DIGITS / "images" / f"{digit}.png").read_bytes()) for digit in range(10)])
    scores = scores_of(inputs)
    assert scores["ensemble"].argmax(1).tolist() == list(range(10))
    assert (scores["cnn"].argmax(1) != scores["mlp"].argmax(1)).any()


def test_decoding_restores_the_training_scale(heldout, inputs):
    levels = inputs * 16
    assert inputs.shape == (len(heldout[0]), 1, 8, 8)
    assert np.abs(levels - levels.round()).max() < 0.04
    np.testing.assert_array_equal(inputs[:, 0], heldout[0] / np.float32(255))


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in DIGITS.rglob("*") if path.is_file() and "__pycache__" not in path.parts) < 500_000


# --- The decoder ---


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: tuple[int, ...], raw: bytes, *extra: bytes) -> bytes:
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return SIGNATURE + ihdr + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    """An image on which encoders use all row filters."""
    y, x, c = np.mgrid[:height, :width, :channels]
    return ((y * 3 + x * 5 + c * 40 + noise(height, width, channels) % 7) % 256).astype(np.uint8)


def saved(image) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (13, 7), (300, 21), (20, 300)])
def test_every_colour_type_is_read_as_pillow_reads_it(mode, size):
    image_module = pytest.importorskip("PIL.Image")
    width, height = size
    rgb = smooth(height, width, 3)
    if mode == "I;16":
        wide = rgb[:, :, 0].astype(np.uint16) * 257
        image, expected = image_module.fromarray(wide), wide / 65535
    else:
        image = image_module.fromarray(rgb).convert(mode)
        if mode in {"LA", "RGBA"}:
            image.putalpha(image_module.fromarray(noise(height, width)))
        expected = np.asarray(image.convert("RGB").convert("L")) / 255
        if mode in {"LA", "RGBA"}:
            expected = expected * (np.asarray(image.getchannel("A")) / 255)
    np.testing.assert_allclose(steps.read_png(saved(image)), expected, atol=1.01 / 255)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour", [0, 3])
def test_packed_samples(bits, colour):
    width, height = 11, 5
    values = noise(height, width) % 2**bits
    row_bits = ["".join(f"{value:0{bits}b}" for value in row) for row in values]
    raw = b"".join(b"\0" + bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8)) for text in row_bits)
    greys = [round(index * 255 / (2**bits - 1)) for index in range(2**bits)]
    palette = [chunk(b"PLTE", bytes(grey for grey in greys for _ in range(3)))] if colour else []
    body = png((width, height, bits, colour, 0, 0, 0), raw, *palette)
    np.testing.assert_allclose(steps.read_png(body), values / (2**bits - 1), atol=1e-6)


def filtered(pixels: np.ndarray, kinds: list[int]) -> bytes:
    """Apply the row filters by the letter of the specification, byte by byte."""
    height, width, depth = pixels.shape
    rows = pixels.reshape(height, -1).astype(int)
    raw = bytearray()
    for y, kind in enumerate(kinds):
        raw.append(kind)
        for x in range(width * depth):
            a = int(rows[y, x - depth]) if x >= depth else 0
            b = int(rows[y - 1, x]) if y else 0
            c = int(rows[y - 1, x - depth]) if y and x >= depth else 0
            paeth = min((a, b, c), key=lambda value: abs(a + b - c - value))  # the first of equals
            raw.append((int(rows[y, x]) - (0, a, b, (a + b) // 2, paeth)[kind]) & 255)
    return bytes(raw)


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
@pytest.mark.parametrize("height", [1, 9, 600])  # 600 rows take several bands
def test_every_row_filter(colour, height):
    depth = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    pixels = noise(height, 6, depth)
    header = (6, height, 8, colour, 0, 0, 0)
    kinds = np.random.default_rng(height).integers(0, 5, height).tolist()
    plain = steps.read_png(png(header, filtered(pixels, [0] * height)))
    np.testing.assert_array_equal(steps.read_png(png(header, filtered(pixels, kinds))), plain)
    for kind in range(5):
        np.testing.assert_array_equal(steps.read_png(png(header, filtered(pixels, [kind] * height))), plain)


def test_transparent_pixels_are_black():
    grey = png((2, 1, 8, 0, 0, 0, 0), b"\0\xff\x80", chunk(b"tRNS", b"\0\xff"))
    assert steps.read_png(grey).tolist() == [[0, pytest.approx(128 / 255)]]
    colours = [chunk(b"PLTE", b"\xff\xff\xff" * 2), chunk(b"tRNS", b"\0")]
    assert steps.read_png(png((2, 1, 8, 3, 0, 0, 0), b"\0\0\1", *colours)).tolist() == [[0, pytest.approx(1)]]


def test_other_sizes_are_averaged():
    small = noise(8, 8)
    expected = small / np.float32(255)
    for factor in (1, 4, 28):
        pixels = small.repeat(factor, axis=0).repeat(factor, axis=1)
        np.testing.assert_allclose(steps.decode(demo.encode_png(pixels.tobytes(), 8 * factor))[0, 0], expected, atol=1e-6)
    even = steps.decode(demo.encode_png(b"\x80" * 28 * 30, 28))
    assert even.shape == (1, 1, 8, 8)
    assert even.dtype == np.float32
    np.testing.assert_allclose(even, 128 / 255, atol=1e-6)


GOOD = png((8, 8, 8, 0, 0, 0, 0), (b"\0" + b"\x10" * 8) * 8)
RAW = (b"\0" + b"\x10" * 8) * 8
HEADER = (8, 8, 8, 0, 0, 0, 0)


BROKEN = [
    ({"image": "x"}, "a PNG image is expected as the request's body, not a JSON value or a form"),
    ([1, 2], "not a JSON value"),
    ("text", "not text"),
    (None, "not an empty body"),
    (b"", "which is empty"),
    (b"\xff\xd8\xff\xe0 a JPEG", "does not start with the PNG signature"),
    (SIGNATURE, "IEND chunk is missing"),
    (GOOD[:50], "its IDAT chunk of .* runs past the end"),
    (GOOD[:-12], "IEND chunk is missing"),
    (GOOD[:45] + bytes([GOOD[45] ^ 1]) + GOOD[46:], "the checksum of its IDAT chunk does not match"),
    (SIGNATURE + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "first chunk is not IHDR"),
    (SIGNATURE + chunk(b"IHDR", b"123") + chunk(b"IEND", b""), "IHDR chunk has 3 bytes"),
    (GOOD[:33] + chunk(b"IEND", b""), "no IDAT"),
    (GOOD[:33] + chunk(b"IDAT", b"nonsense") + chunk(b"IEND", b""), "cannot be decompressed"),
    (GOOD[:33] + chunk(b"IDAT", zlib.compress(RAW)[:-5]) + chunk(b"IEND", b""), "cut off|less than 8x8"),
    (png(HEADER, RAW[:-1]), "less than 8x8"),
    (png(HEADER, RAW + b"\0"), "more than 8x8"),
    (png(HEADER, b"\0" * 50_000_000), "more than 8x8"),
    (png(HEADER, b"\5" + RAW[1:]), "no row filter 5"),
    (png(HEADER, RAW, chunk(b"ABCD", b"")), "cannot be read: ABCD"),
    (png((0, 8, 8, 0, 0, 0, 0), b""), "size is 0x8"),
    (png((4097, 1, 8, 0, 0, 0, 0), b""), "too large: 4097x1, at most 4096x4096"),
    (png((8, 8, 3, 0, 0, 0, 0), RAW), "no colour type 0 of 3 bits"),
    (png((8, 8, 8, 5, 0, 0, 0), RAW), "no colour type 5"),
    (png((8, 8, 8, 0, 1, 0, 0), RAW), "method is unknown"),
    (png((8, 8, 8, 0, 0, 0, 1), RAW), "interlaced"),
    (png((8, 8, 8, 3, 0, 0, 0), RAW), "palette has 0 bytes"),
    (png((8, 8, 8, 3, 0, 0, 0), RAW, chunk(b"PLTE", b"abc")), "a pixel names colour 16 of a palette of 1"),
    (png((8, 8, 8, 3, 0, 0, 0), RAW, chunk(b"PLTE", b"abc"), chunk(b"tRNS", b"ab")), "longer than its palette"),
    (png(HEADER, RAW, chunk(b"tRNS", b"a")), "tRNS chunk has 1 bytes, not 2"),
    (png(HEADER, RAW, chunk(b"PLTE", b"abc"), chunk(b"PLTE", b"abc")), "more than one PLTE"),
]


@pytest.mark.parametrize(("body", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_what_is_no_png_is_refused_in_a_sentence(body, message):
    with pytest.raises(ValueError, match=message):
        steps.decode(body)


# --- The answer ---


def test_label():
    scores = np.full((1, 10), 0.01, np.float32)
    scores[0, 3] = 0.91
    answer = steps.label(scores, scores, scores[0].tolist())
    assert (answer["label"], answer["confidence"]) == (3, 0.91)
    assert answer["scores"]["0"] == 0.01
    assert list(answer["scores"]) == [str(digit) for digit in range(10)]
    assert {name: own["label"] for name, own in answer["models"].items()} == {"cnn": 3, "mlp": 3}
    assert json.loads(json.dumps(answer)) == answer
    assert "models" not in steps.label(scores)
    with pytest.raises(ValueError, match="ten scores are expected"):
        steps.label([1, 2])


# --- The archive ---


def test_the_archive_is_deterministic_and_complete(tmp_path):
    first, second = (archive.build_archive(tmp_path / name) for name in ("a.zip", "b.zip"))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as packed:
        assert packed.namelist() == ["cnn.pt", "mlp.onnx", "steps.py", "workflow.yaml"]
        assert {entry.date_time for entry in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        workflow = yaml.safe_load(packed.read("workflow.yaml"))
        assert {model["url"] for model in workflow["models"].values()} <= set(packed.namelist())
    for reference in workflow["functions"].values():
        module, name = reference.split(":")
        assert module == "steps"
        assert callable(getattr(steps, name))


# --- The demo ---


def test_server_timing_is_read():
    header = 'decode;dur=0.42, cnn;desc="x";dur=1.10,mlp; dur=2 , total, bad;dur=x'
    assert demo.parse_server_timing(header) == {"decode": 0.42, "cnn": 1.1, "mlp": 2.0}
    assert demo.parse_server_timing("") == {}


def test_the_demo_reads_the_held_out_images_without_numpy(heldout):
    images, labels = heldout
    read = list(demo.read_heldout())
    assert [digit for _, digit in read] == labels.tolist()
    assert [pixels for pixels, _ in read] == [image.tobytes() for image in images]


def test_the_demo_shows_a_table_and_a_picture():
    def result(digit: int, cnn: int):
        scored = {str(name): 0.1 for name in range(10)}
        models = {"cnn": {"label": cnn, "scores": scored}, "mlp": {"label": 3, "scores": scored}}
        answer = demo.Answer(200, b"", "image;dur=0.5, a;dur=1.25" if digit else "", 12.5)
        return demo.Result(DIGITS / "images" / f"{digit}.png", {"label": 3, "confidence": 0.9, "models": models}, answer)

    results = [result(0, 3), result(3, 8)]
    lines = demo.results_table(results).splitlines()
    assert lines[0].split() == ["image", "label", "confidence", "cnn", "mlp", "image", "ms", "a", "ms", "total", "ms"]
    assert lines[2].split() == ["0.png", "WRONG", "3", "0.9000", "3", "0.1000", "3", "0.1000", "-", "-", "12.50"]
    assert lines[3].split() == ["3.png", "3", "0.9000", "8", "0.1000", "3", "0.1000", "0.50", "1.25", "12.50"]
    picture = demo.picture(results).splitlines()
    assert picture[0] == "3.png: the cnn says 8, the mlp says 3, together they say 3"
    assert len(picture) == 9
    assert any("@" in line for line in picture)


class Server(BaseHTTPRequestHandler):
    """Answers as a server with the workflow does, the scores being the digit's own in `known`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    known: dict[bytes, int]
    seen: list[str]
    registration = 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(f"POST {self.path} {self.headers['Content-Type']}")
        if self.path == "/workflows":
            self.answer(self.registration, {})
            return
        scores = np.eye(10)[self.known[steps.decode(body).round(3).tobytes()]]
        self.answer(200, steps.label(scores, scores, scores))

    def do_DELETE(self):
        self.seen.append(f"DELETE {self.path}")
        self.answer(200, {})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Server-Timing", "image;dur=0.42, a;dur=1.10")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("registration", "keep"), [(200, False), (200, True), (409, False), (400, False)])
def test_the_demo_against_a_server(registration, keep, inputs, heldout, capsys):
    known = {image.round(3).tobytes(): int(digit) for image, digit in zip(inputs, heldout[1], strict=True)}
    handler = type("Handler", (Server,), {"known": known, "seen": [], "registration": registration})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        base_url = f"http://127.0.0.1:{server.server_port}"
        try:
            if registration == 400:
                with pytest.raises(demo.DemoError, match="not registered: status 400"):
                    demo.run(base_url, accuracy=False, keep=keep)
                return
            assert demo.run(base_url, accuracy=True, keep=keep)
        finally:
            server.shutdown()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "10 of 10 correct"
    assert lines[-1].startswith("450 held-out images in ")
    assert lines[-1].endswith("accuracy: ensemble 1.0000, cnn 1.0000, mlp 1.0000")
    assert handler.seen[0] == "POST /workflows application/zip"
    assert handler.seen.count("POST /predictions/digits image/png") == 460
    assert ("DELETE /workflows/digits" in handler.seen) == (registration == 200 and not keep)


def test_a_server_that_cannot_start_is_reported_with_its_log(monkeypatch, tmp_path):
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr(demo.sys, "executable", str(failing))
    with pytest.raises(demo.DemoError, match=r"status 3 before it was ready:\nno such module"), demo.own_server(ready_limit=10):
        pass


def test_the_server_is_started_on_the_port_that_is_asked_for(monkeypatch, tmp_path):
    failing = tmp_path / "python"
    failing.write_text('#!/bin/sh\necho "$@" >&2\nexit 3\n')
    failing.chmod(0o755)
    monkeypatch.setattr(demo.sys, "executable", str(failing))
    with pytest.raises(demo.DemoError, match=r"serve --host 127\.0\.0\.1 --port 8080 "), demo.own_server(8080, ready_limit=10):
        pass
