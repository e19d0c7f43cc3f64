"""The worker process: loads one model and computes the batches that the server sends.

    python -m flowyard.engines.worker --fd N

N is an inherited, connected Unix socket. The first frame is a `Load`, the answer `Ready` or `LoadFailed`; then every `Predict` is
answered by `Results`. The end of the socket is the end of the worker.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from flowyard.engines import discovery
from flowyard.engines.base import Call, LoadedModel, ModelSource, Outcome
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.schemas import frames, values
from flowyard.schemas.errors import FlowyardError, InternalError, InvalidInputError, NodeError, OutOfMemoryError
from flowyard.schemas.values import Buffer, Encoded

EXIT_DONE = 0
EXIT_LOAD_FAILED = 3
EXIT_BROKEN_FRAME = 4
EXIT_ORPHAN = 5

_PR_SET_PDEATHSIG = 1
#: Most buffers that one `sendmsg` takes (IOV_MAX on Linux).
_MOST_CHUNKS = 1024
#: A longer message is cut: it may hold whatever user code put into an exception.
_MESSAGE_LIMIT = 4000
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main() -> NoReturn:
    """Runs the worker until the server closes the socket."""
    parser = argparse.ArgumentParser(prog="python -m flowyard.engines.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the connected socket")
    fd = parser.parse_args().fd
    _die_with_parent()
    _shield()
    connection = socket.socket(fileno=fd)
    connection.setblocking(True)
    connection.set_inheritable(False)
    # A process that user code forks must not keep the socket open when this one has ended.
    os.register_at_fork(after_in_child=connection.close)
    try:
        code = serve(connection)
    except frames.FrameError as error:
        log(error)
        code = EXIT_BROKEN_FRAME
    except (ConnectionError, BrokenPipeError):
        code = EXIT_DONE
    _exit(code)


def _die_with_parent() -> None:
    """Asks the kernel for an end when the server ends, and makes sure that it has not ended before."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        _exit(EXIT_ORPHAN)


def _shield() -> None:
    """Keeps Ctrl-C at the server's terminal and what user code prints from disturbing anybody."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


def _exit(code: int) -> NoReturn:
    """Ends at once: nothing that user code left behind, such as a thread, may delay it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def serve(connection: socket.socket) -> int:
    """Loads, then computes batches until the other side closes the socket.

    Args:
        connection: A blocking stream socket.

    Returns:
        The exit code.

    Raises:
        FrameError: What arrived is no frame.
        ConnectionError: The socket broke.
    """
    received = _receive(connection)
    if received is None:
        return EXIT_DONE
    load, _ = received
    if not isinstance(load, frames.Load):
        raise frames.FrameError("the first frame is no Load")
    model = _load(connection, load)
    if model is None:
        return EXIT_LOAD_FAILED
    while _serve_one(connection, model):
        pass
    return EXIT_DONE


def _serve_one(connection: socket.socket, model: LoadedModel) -> bool:
    """Computes one batch; its memory is free again when this returns. False at the end of the socket."""
    received = _receive(connection)
    if received is None:
        return False
    message, body = received
    if not isinstance(message, frames.Predict):
        raise frames.FrameError("a frame that is no Predict")
    outcomes, compute_s = compute(model, _calls(message, body))
    _send(connection, *_results(message.batch_id, outcomes, compute_s))
    return True


def _load(connection: socket.socket, load: frames.Load) -> LoadedModel | None:
    started = time.perf_counter()
    try:
        model = _load_model(load)
    except BaseException as error:  # noqa: BLE001 - the server is told, whatever it was
        failure = _load_failure(error)
        _send(connection, frames.LoadFailed(failure.code, _message(failure)))
        return None
    _send(connection, frames.Ready(model.signature, time.perf_counter() - started))
    return model


def _load_model(load: frames.Load) -> LoadedModel:
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, str(load.threads))
    os.chdir(load.root)
    if not sys.flags.safe_path:
        # `python -m` put the server's folder there, which is none of the model's business.
        del sys.path[0]
    sys.path.insert(0, load.root)
    source = ModelSource(root=load.root, path=load.path, spec=load.spec, functions=load.functions, threads=load.threads)
    return discovery.find(load.engine).load(source, load.device)


def _load_failure(error: BaseException) -> FlowyardError:
    if isinstance(error, FlowyardError):
        return error
    log(error)
    return OutOfMemoryError(describe(error)) if is_out_of_memory(error) else InternalError(describe(error))


def _receive(connection: socket.socket) -> tuple[frames.ToWorker, memoryview] | None:
    """The next frame, `None` when the socket has ended."""
    prefix = _receive_exactly(connection, frames.PREFIX_BYTES)
    if prefix is None:
        return None
    head_bytes, body_bytes = frames.read_prefix(prefix)
    head = _receive_exactly(connection, head_bytes)
    body = _receive_exactly(connection, body_bytes)
    if head is None or body is None:
        return None
    return frames.unpack_to_worker(head), body


def _receive_exactly(connection: socket.socket, size: int) -> memoryview | None:
    """Reads into fresh memory, aligned as tensors like it: user code may keep an array beyond its batch."""
    memory = np.empty(size + frames.ALIGNMENT_BYTES, dtype=np.uint8)
    start = -memory.ctypes.data % frames.ALIGNMENT_BYTES
    view = memory[start : start + size].data
    received = 0
    while received < size:
        count = connection.recv_into(view[received:])
        if not count:
            return None
        received += count
    return view


def _calls(message: frames.Predict, body: Buffer) -> list[Call | FlowyardError]:
    reader = frames.BodyReader(body)
    return [_call(call, [reader.take(arg.tree, arg.sizes) for arg in call.args]) for call in message.calls]


def _call(call: frames.WireCall, args: Sequence[Encoded]) -> Call | FlowyardError:
    try:
        return Call(call.callee, [values.decode(arg) for arg in args], call.context)
    except InvalidInputError as error:
        return error
    except MemoryError as error:
        return OutOfMemoryError(describe(error))


def compute(model: LoadedModel, calls: Sequence[Call | FlowyardError]) -> tuple[list[Outcome], float]:
    """Computes those calls that could be decoded.

    Args:
        model: The model.
        calls: Calls, and in place of one that did not decode its error.

    Returns:
        One outcome per call, in order, and the seconds the model took.
    """
    batch = [call for call in calls if isinstance(call, Call)]
    started = time.perf_counter()
    computed = iter(_predict(model, batch) if batch else ())
    compute_s = time.perf_counter() - started
    return [next(computed) if isinstance(call, Call) else call for call in calls], compute_s


def _predict(model: LoadedModel, batch: Sequence[Call]) -> Sequence[Outcome]:
    try:
        outcomes = model.predict(batch)
        if len(outcomes) == len(batch):
            return outcomes
        failure: FlowyardError = InternalError(f"the engine gave {len(outcomes)} outcomes for {len(batch)} calls")
    except BaseException as error:  # noqa: BLE001 - an engine's defect fails the batch, not the worker
        log(error)
        failure = OutOfMemoryError(describe(error)) if is_out_of_memory(error) else InternalError(describe(error))
    return [failure for _ in batch]


def _results(batch_id: int, outcomes: Sequence[Outcome], compute_s: float) -> tuple[frames.Results, list[Buffer]]:
    """The answer and its buffers. A result that would not fit into the frame any more becomes an error."""
    # Half of the head is for results, the other half holds a message for each call, whatever becomes of them.
    head_left, body_left = frames.HEAD_LIMIT_BYTES // 2, frames.BODY_LIMIT_BYTES
    limit = min(_MESSAGE_LIMIT, frames.HEAD_LIMIT_BYTES // 16 // len(outcomes)) if outcomes else 0
    wire: list[frames.WireResult | frames.WireError] = []
    buffers: list[Buffer] = []
    for outcome in outcomes:
        encoded = _encode(outcome)
        if isinstance(encoded, Encoded):
            head, body = len(encoded.tree) + 16 * len(encoded.buffers), sum(map(_padded, encoded.buffers))
            if head <= head_left and body <= body_left:
                head_left, body_left = head_left - head, body_left - body
                buffers.extend(encoded.buffers)
                wire.append(frames.WireResult(encoded.tree, tuple(map(len, encoded.buffers))))
                continue
            encoded = NodeError(f"the result of {len(encoded.tree) + body} bytes is too large to be passed on")
        wire.append(frames.WireError(encoded.code, _message(encoded, limit)))
    return frames.Results(batch_id, tuple(wire), compute_s), buffers


def _padded(buffer: Buffer) -> int:
    return len(buffer) + -len(buffer) % frames.ALIGNMENT_BYTES


def _encode(outcome: Outcome) -> Encoded | FlowyardError:
    if isinstance(outcome, FlowyardError):
        return outcome
    try:
        return values.encode(outcome)
    except InvalidInputError as error:
        return NodeError(f"returned a {type(outcome).__name__}: {error.message}")
    except Exception as error:  # noqa: BLE001 - a result is user code's: its methods may raise anything
        log(error)
        return OutOfMemoryError(describe(error)) if is_out_of_memory(error) else NodeError(f"its result: {describe(error)}")


def _message(error: FlowyardError, limit: int = _MESSAGE_LIMIT) -> str:
    """The message as text that msgpack can carry: bounded, and without lone surrogates."""
    return error.message[:limit].encode("utf-8", "backslashreplace").decode()


def _send(connection: socket.socket, message: frames.ToServer, buffers: Sequence[Buffer] = ()) -> None:
    chunks: list[Any] = [memoryview(chunk) for chunk in frames.pack(message, buffers)]
    first = 0
    while first < len(chunks):
        sent = connection.sendmsg(chunks[first : first + _MOST_CHUNKS])
        while first < len(chunks) and sent >= len(chunks[first]):
            sent -= len(chunks[first])
            first += 1
        if sent:
            chunks[first] = chunks[first][sent:]


if __name__ == "__main__":
    main()
