"""Register the digits workflow on a server, send it the ten images of this folder and show what comes back.

    python examples/digits/demo.py --base-url http://127.0.0.1:8080
    python examples/digits/demo.py --serve --accuracy

Only the standard library is needed here; `--serve` starts a server of its own with this interpreter.
"""

import argparse
import ast
import contextlib
import http.client
import json
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from archive import build_archive

HERE = Path(__file__).resolve().parent
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SHADES = " .:-=+*#%@"
MODELS = ("cnn", "mlp")
THREADS = 8
ENOUGH = 9  # of the ten images
READY_LIMIT = 60.0  # seconds until a server of our own must accept requests
STOP_LIMIT = 60.0  # seconds it may take to stop
TO_TRY = """Serving at {base_url} until Ctrl-C. To try in another terminal:

  curl -X POST {base_url}/predictions/digits -T examples/digits/images/3.png
  curl -i -X POST {base_url}/predictions/digits -H 'Content-Type: image/png' --data-binary @examples/digits/images/9.png
  curl {base_url}/workflows
  curl {base_url}/workflows/digits
  curl {base_url}/ping
  curl {base_url}/schema
  curl -X DELETE {base_url}/workflows/digits
  python examples/digits/archive.py /tmp/digits.zip && curl -X POST {base_url}/workflows --data-binary @/tmp/digits.zip
"""


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


# --- HTTP ---


class Answer(NamedTuple):
    """One HTTP response, and how long it took from the first byte sent to the last one read."""

    status: int
    body: bytes
    server_timing: str
    milliseconds: float


class Client:
    """One connection to the server, kept open between requests. Not to be shared between threads."""

    def __init__(self, base_url: str) -> None:
        url = urllib.parse.urlsplit(base_url)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise DemoError(f"{base_url!r} is not a base URL such as http://127.0.0.1:8080")
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(url.hostname, url.port, timeout=60)
        self._base = url

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, method: str, path: str, body: bytes = b"", content_type: str = "application/octet-stream") -> Answer:
        """Send a request and read the whole response, whatever its status is."""
        started = time.perf_counter()
        try:
            self._connection.request(method, self._base.path.rstrip("/") + path, body, {"Content-Type": content_type})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise DemoError(f"{method} {path} at {self._base.geturl()} failed: {error or type(error).__name__}") from error
        elapsed = (time.perf_counter() - started) * 1000
        return Answer(response.status, content, ", ".join(response.headers.get_all("Server-Timing", [])), elapsed)


def register(client: Client) -> bool:
    """Upload the archive. False if a workflow of that name and version was there already."""
    with tempfile.TemporaryDirectory() as folder:
        archive = build_archive(Path(folder, "digits.zip")).read_bytes()
    answer = client.send("POST", "/workflows", archive, "application/zip")
    if answer.status == 409:
        return False
    if not 200 <= answer.status < 300:
        raise DemoError(f"the workflow was not registered: {describe(answer)}")
    return True


def predict(client: Client, png: bytes) -> tuple[dict[str, Any], Answer]:
    """Ask which digit an image shows."""
    answer = client.send("POST", "/predictions/digits", png, "image/png")
    if answer.status != 200:
        raise DemoError(f"a prediction failed: {describe(answer)}")
    return json.loads(answer.body), answer


def describe(answer: Answer) -> str:
    """Say in one line what a failed request was answered."""
    return f"status {answer.status}, {answer.body[:500].decode('utf-8', 'replace').strip() or 'an empty body'}"


def parse_server_timing(header: str) -> dict[str, float]:
    """Read `decode;dur=0.42, cnn;dur=1.10` into milliseconds per name; an entry without a duration is left out."""
    durations: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "dur":
                with contextlib.suppress(ValueError):
                    durations[name] = float(value.strip().strip('"'))
    return durations


# --- Images ---


def encode_png(pixels: bytes, width: int) -> bytes:
    """Encode grey pixels, a byte each and row by row, as a PNG of that width."""
    height = len(pixels) // width
    rows = b"".join(b"\0" + pixels[start : start + width] for start in range(0, height * width, width))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def draw(png: bytes) -> str:
    """Draw an image that `encode_png` has written as 8 lines of characters, the brighter the denser."""
    width, height = struct.unpack_from(">II", png, 16)
    start = png.index(b"IDAT")
    (length,) = struct.unpack_from(">I", png, start - 4)
    rows = zlib.decompress(png[start + 4 : start + 4 + length])
    lines = []
    for y in range(0, height, max(1, height // 8)):
        row = rows[y * (width + 1) + 1 : (y + 1) * (width + 1)]
        lines.append("".join(SHADES[value * (len(SHADES) - 1) // 255] * 2 for value in row[:: max(1, width // 8)]).rstrip())
    return "\n".join(lines)


def read_heldout(path: Path = HERE / "heldout.npz") -> Iterator[tuple[bytes, int]]:
    """Yield the 64 pixels, as bytes, and the label of each held-out image."""
    with zipfile.ZipFile(path) as archive:
        images = _npy_bytes(archive.read("images.npy"))
        labels = _npy_bytes(archive.read("labels.npy"))
    for index, digit in enumerate(labels):
        yield images[index * 64 : index * 64 + 64], digit


def _npy_bytes(data: bytes) -> bytes:
    """Return the content of an .npy file that holds bytes."""
    (length,) = struct.unpack_from("<H", data, 8)
    header = ast.literal_eval(data[10 : 10 + length].decode("latin-1"))
    if data[:7] != b"\x93NUMPY\x01" or header["descr"] != "|u1" or header["fortran_order"]:
        raise DemoError("heldout.npz does not hold bytes row by row")
    return data[10 + length :]


# --- What is shown ---


class Result(NamedTuple):
    """What one image was answered."""

    image: Path
    prediction: dict[str, Any]
    answer: Answer

    @property
    def correct(self) -> bool:
        """The file's name is the digit it shows."""
        return str(self.prediction["label"]) == self.image.stem

    @property
    def disputed(self) -> bool:
        """The models do not agree."""
        return len({self.prediction["models"][name]["label"] for name in MODELS}) > 1


def table(rows: list[list[str]]) -> str:
    """Lay out rows, the first of them the headings, in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in lines)


def results_table(results: list[Result]) -> str:
    """Show a line per image: the answer, what each model said, and the milliseconds in each node and in all."""
    timings = [parse_server_timing(result.answer.server_timing) for result in results]
    nodes = list(dict.fromkeys(name for timing in timings for name in timing))
    rows = [["image", "label", "confidence", *MODELS, *(f"{name} ms" for name in nodes), "total ms"]]
    for result, timing in zip(results, timings, strict=True):
        prediction = result.prediction
        label = f"{prediction['label']}" if result.correct else f"WRONG {prediction['label']}"
        own = [_model_cell(prediction["models"][name]) for name in MODELS]
        spent = [f"{timing[name]:.2f}" if name in timing else "-" for name in nodes]
        confidence = f"{prediction['confidence']:.4f}"
        rows.append([result.image.name, label, confidence, *own, *spent, f"{result.answer.milliseconds:.2f}"])
    return table(rows)


def _model_cell(scored: dict[str, Any]) -> str:
    return f"{scored['label']} {scored['scores'][str(scored['label'])]:.4f}"


def picture(results: list[Result]) -> str:
    """Draw the first image that the models disagree on, or else the last."""
    shown = next((result for result in results if result.disputed), results[-1])
    said = ", ".join(f"the {name} says {shown.prediction['models'][name]['label']}" for name in MODELS)
    title = f"{shown.image.name}: {said}, together they say {shown.prediction['label']}"
    return f"{title}\n{draw(shown.image.read_bytes())}"


# --- The demo ---


def show_images(client: Client) -> bool:
    """Send the ten images, print the answers, and tell whether enough of them are right."""
    results = []
    for digit in range(10):
        image = HERE / "images" / f"{digit}.png"
        results.append(Result(image, *predict(client, image.read_bytes())))
    print(f"{picture(results)}\n\n{results_table(results)}\n")
    correct = sum(result.correct for result in results)
    print(f"{correct} of {len(results)} correct")
    return correct >= ENOUGH


def show_accuracy(base_url: str) -> None:
    """Send every held-out image over several connections at once and print how many were recognised."""
    images = list(read_heldout())

    def share(start: int) -> list[tuple[bool, ...]]:
        with Client(base_url) as client:
            return [_hits(predict(client, encode_png(pixels, 8))[0], digit) for pixels, digit in images[start::THREADS]]

    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        hits = [hit for part in pool.map(share, range(THREADS)) for hit in part]
    elapsed = time.perf_counter() - started
    rates = [sum(column) / len(hits) for column in zip(*hits, strict=True)]
    shown = ", ".join(f"{name} {rate:.4f}" for name, rate in zip(("ensemble", *MODELS), rates, strict=True))
    print(f"{len(hits)} held-out images in {elapsed:.2f} s over {THREADS} connections; accuracy: {shown}")


def _hits(prediction: dict[str, Any], digit: int) -> tuple[bool, ...]:
    labels = [prediction["label"], *(prediction["models"][name]["label"] for name in MODELS)]
    return tuple(label == digit for label in labels)


def run(base_url: str, *, accuracy: bool, keep: bool) -> bool:
    """Register, predict and print; without `keep` the workflow is unregistered again if it was not there before."""
    with Client(base_url) as client:
        is_new = register(client)
        print(f"digits {'is registered' if is_new else 'was registered already'} at {base_url}\n")
        try:
            enough = show_images(client)
            if accuracy:
                show_accuracy(base_url)
        finally:
            if is_new and not keep:
                _unregister(client)
    return enough


def _unregister(client: Client) -> None:
    answer = client.send("DELETE", "/workflows/digits")
    if answer.status >= 300:
        print(f"the workflow was not unregistered: {describe(answer)}", file=sys.stderr)


@contextlib.contextmanager
def own_server(port: int = 0, ready_limit: float = READY_LIMIT) -> Iterator[str]:
    """Start a server (on a free port where `port` is 0), yield its base URL, and stop it.

    Raises:
        DemoError: it does not become ready, or does not stop with status 0.
    """
    with tempfile.TemporaryDirectory(prefix="digits-demo-") as folder:
        state, ready, log = Path(folder, "state"), Path(folder, "ready"), Path(folder, "log")
        state.mkdir()
        command = [sys.executable, "-m", "flowyard.platform.cli.main", "serve", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--state-dir", str(state), "--ready-file", str(ready)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield _wait_until_ready(process, ready, log, ready_limit)
        except BaseException:
            _stop(process)
            raise
        status = _stop(process)
        if status:
            raise DemoError(f"the server stopped with status {status}:\n{_tail(log)}")


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path, limit: float) -> str:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if ready.exists() and (base_url := ready.read_text().strip()):
            return base_url
        if process.poll() is not None:
            raise DemoError(f"the server ended with status {process.returncode} before it was ready:\n{_tail(log)}")
        time.sleep(0.02)
    raise DemoError(f"the server was not ready within {limit:g} s:\n{_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the server to stop, kill it if it does not, and return its exit status."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Register the digits workflow and send it the ten images of this folder.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--base-url", metavar="URL", help="a running server, such as http://127.0.0.1:8080")
    where.add_argument("--serve", action="store_true", help="start a server on a free port, and stop it at the end")
    parser.add_argument("--port", type=int, default=0, help="with --serve, the port; a free one by default")
    parser.add_argument("--accuracy", action="store_true", help="send all held-out images too and print the accuracy")
    parser.add_argument("--keep", action="store_true", help="leave the workflow registered; with --serve, serve until Ctrl-C")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the demo; 0 if every request succeeded and at least 9 of the 10 images were recognised."""
    options = parse_arguments()
    try:
        if not options.serve:
            return 0 if run(options.base_url, accuracy=options.accuracy, keep=options.keep) else 1
        with own_server(options.port) as base_url:
            enough = run(base_url, accuracy=options.accuracy, keep=True)
            if options.keep:
                _serve_until_interrupted(base_url)
        return 0 if enough else 1
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _serve_until_interrupted(base_url: str) -> None:
    print(TO_TRY.format(base_url=base_url), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
