"""The worker process: loads one model and computes the batches that the server sends.

    python -m flowyard.engines.worker --fd N [--own-output] [--shared INBOX OUTBOX DESCRIPTORS] [limits]

N is an inherited, connected Unix socket; the others belong to the memory shared with the server, if any. The first frame is a
`Load`, the answer `Ready` or `LoadFailed`; then every `Predict` is answered by `Results`, and a `Heartbeat` says each second that
the process runs. The end of the socket is the end of the worker.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, TypeAlias

from flowyard.engines import confinement, discovery, printed, ranks
from flowyard.engines.alike import AlikeCalls
from flowyard.engines.awaited import AwaitedBatches
from flowyard.engines.base import AsynchronousModel, Call, LoadedModel, MeasuredModel, ModelSource, Outcome, Stream, TellsSteps
from flowyard.engines.connection import Connection
from flowyard.engines.djl import loader as djl
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.engines.fused import FusedNodes, Several
from flowyard.engines.json_numbers import JsonText
from flowyard.engines.memory import WorkerMemory
from flowyard.engines.outcomes import encoded, outcomes_of
from flowyard.engines.stacks import TensorModel
from flowyard.engines.streams import Pump
from flowyard.engines.torchserve import loader as torchserve
from flowyard.schemas import frames, values
from flowyard.schemas.codecs.content import value_of_message
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError, HandlerError, InternalError, InvalidInputError, NodeError, OutOfMemoryError
from flowyard.schemas.fusion import FusedModel
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Buffer, Encoded

EXIT_DONE = 0
EXIT_LOAD_FAILED = 3
EXIT_BROKEN_FRAME = 4

#: A longer message is cut: it may hold whatever user code put into an exception.
_MESSAGE_LIMIT = 4000
#: What a buffer takes of a frame's head at most: size, arena and offset.
_HEAD_BYTES_PER_BUFFER = 32
#: Engines that compute nothing but tensors. They have copied or used up the arrays of a batch when it is computed, and parse JSON
#: themselves; for the others arrays are copied out of shared memory, as user code may keep one.
_TENSORS_ONLY = frozenset({"OnnxRuntime", "PyTorch"})
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_WireOutcome: TypeAlias = frames.WireResult | frames.WireError | frames.WireEnd | frames.WireSeveral | frames.WireRefused

#: What goes into a frame as it is.
_MADE = (frames.WireResult, frames.WireSeveral, frames.WireEnd, frames.WireRefused)


def main() -> NoReturn:
    """Runs the worker until the server closes the socket."""
    parser = argparse.ArgumentParser(prog="python -m flowyard.engines.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the connected socket")
    parser.add_argument("--shared", type=int, nargs=3, help="file descriptors of inbox, outbox and the socket for descriptors")
    parser.add_argument("--own-output", action="store_true", help="standard output is somebody else's than standard error")
    confinement.add_arguments(parser)
    options = parser.parse_args()
    confinement.confine(options)
    _shield(own_output=options.own_output)
    connection = Connection(_socket(options.fd))
    memory = _memory(*options.shared) if options.shared else None
    try:
        code = serve(connection, memory)
    except frames.FrameError as error:
        log(error)
        code = EXIT_BROKEN_FRAME
    except (ConnectionError, BrokenPipeError):
        code = EXIT_DONE
    _exit(code)


def _memory(inbox: int, outbox: int, descriptors: int) -> WorkerMemory:
    return WorkerMemory(inbox, outbox, _socket(descriptors))


def _socket(fd: int) -> socket.socket:
    opened = socket.socket(fileno=fd)
    opened.setblocking(True)
    opened.set_inheritable(False)
    # A process that user code forks must not keep the socket open when this one has ended.
    os.register_at_fork(after_in_child=opened.close)
    return opened


def _shield(*, own_output: bool) -> None:
    """Keeps Ctrl-C at the server's terminal and what user code prints from disturbing anybody."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not own_output:
        os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


def _exit(code: int) -> NoReturn:
    """Ends at once: nothing that user code left behind, such as a thread, may delay it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def serve(connection: Connection, memory: WorkerMemory | None = None) -> int:
    """Loads, then computes batches until the other side closes the socket.

    Args:
        connection: The socket to the server.
        memory: What is shared with it, if anything.

    Returns:
        The exit code.

    Raises:
        FrameError: What arrived is no frame.
        ConnectionError: The socket broke.
    """
    received = connection.receive()
    if received is None:
        return EXIT_DONE
    load, _ = received
    if not isinstance(load, frames.Load):
        raise frames.FrameError("the first frame is no Load")
    _begin_log(load)
    model = _load(connection, load)
    # Loading may have set it up in its own way.
    logging.getLogger().setLevel(load.log_level)
    if model is None:
        return EXIT_LOAD_FAILED
    threading.Thread(target=_beat, args=(connection,), name="heartbeat", daemon=True).start()
    tensors_only = discovery.find(load.engine).name in _TENSORS_ONLY
    alone = tensors_only and not load.handlers and load.fusion is None
    connection.reuses_memory = alone
    decoding = _Decoding(own=not tensors_only, messages=bool(load.handlers), json_as_text=alone)
    measured = model if isinstance(model, MeasuredModel) else None
    _send_metrics(connection, measured)
    awaited = _awaited(connection, model, memory, measured)
    alike = AlikeCalls(model) if alone and isinstance(model, TensorModel) else None
    while _serve_one(connection, model, memory, awaited, alike, decoding):
        if awaited is None:
            _send_metrics(connection, measured)
    return EXIT_DONE


def _begin_log(load: frames.Load) -> None:
    """Has what functions log go out; the loaders of handlers see to that themselves."""
    if not load.handlers:
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger().setLevel(load.log_level)


def _awaited(
    connection: Connection, model: LoadedModel, memory: WorkerMemory | None, measured: MeasuredModel | None
) -> AwaitedBatches | None:
    """What computes the batches of an asynchronous model."""
    if not isinstance(model, AsynchronousModel):
        return None

    def send_results(batch_id: int, outcomes: Sequence[Outcome], compute_s: float) -> None:
        results, buffers = _results(outcomes, memory)
        connection.send(frames.Results(batch_id, results, compute_s), buffers)
        _send_metrics(connection, measured)

    if isinstance(model, TellsSteps):
        model.on_step = functools.partial(_send_step, connection)
    return AwaitedBatches(connection, model, encoded, send_results)


def _send_step(connection: Connection, ended: Sequence[str]) -> None:
    # Where the socket has ended, the thread that receives notices it, too.
    with contextlib.suppress(OSError):
        connection.send(frames.Step(tuple(ended)))


def _send_metrics(connection: Connection, measured: MeasuredModel | None) -> None:
    """Tells what handlers have measured, or printed, since the last time."""
    samples = [*(measured.take_metrics() if measured is not None else ()), *printed.take()]
    if samples:
        connection.send(frames.Metrics(tuple(samples)))


def _serve_one(
    connection: Connection,
    model: LoadedModel,
    memory: WorkerMemory | None,
    awaited: AwaitedBatches | None,
    alike: AlikeCalls | None,
    decoding: _Decoding,
) -> bool:
    """Computes one batch, or begins with it; its memory is free again when it is answered. False at the end of the socket."""
    received = connection.receive()
    if received is None:
        return False
    message, body = received
    if isinstance(message, frames.Credit | frames.Stop):
        # Where batches are computed one by one it is for a stream that has ended meanwhile.
        if awaited is not None:
            awaited.heed(message)
        return True
    if isinstance(message, frames.LogLevel):
        logging.getLogger().setLevel(message.level)
        return True
    if isinstance(message, frames.Drop) and memory is not None:
        memory.drop(message.arenas)
        return True
    if not isinstance(message, frames.Predict):
        raise frames.FrameError("a frame that is no Predict")
    if memory is not None:
        memory.free(message.freed)
    computed = alike.compute(message.calls, body) if alike is not None else None
    if computed is not None:
        results, buffers = _results(computed.outcomes, memory)
        connection.send(frames.Results(message.batch_id, results, computed.compute_s, computed.cpu_s), buffers)
        return True
    calls = _calls(message, body, memory, decoding)
    if awaited is not None:
        awaited.begin(message, calls)
        return True
    outcomes, compute_s, cpu_s = compute(model, calls)
    _settle_streams(connection, message, outcomes)
    times = model.times if isinstance(model, FusedNodes) else ()
    results, buffers = _results(outcomes, memory)
    connection.send(frames.Results(message.batch_id, results, compute_s, cpu_s, times), buffers)
    return True


def _settle_streams(connection: Connection, message: frames.Predict, outcomes: list[Outcome]) -> None:
    """Sends what comes in pieces to those who want it so, and collects it for the others."""
    streams = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, Stream)}
    if not streams:
        return
    wanted = {place: stream for place, stream in streams.items() if message.calls[place].stream}
    failed = Pump(connection, message.batch_id, wanted, encoded).run()
    for place, stream in streams.items():
        outcomes[place] = failed.get(place, frames.WireEnd()) if place in wanted else _collected(stream)


def _collected(stream: Stream) -> Outcome:
    try:
        return stream.collect()
    except FlowyardError as error:
        return error


def _beat(connection: Connection) -> None:
    """Tells the server once a second that this process still runs."""
    try:
        while True:
            time.sleep(frames.HEARTBEAT_S)
            connection.send(frames.Heartbeat())
    except OSError:
        """The socket has ended; the thread that receives notices it, too."""


def _load(connection: Connection, load: frames.Load) -> LoadedModel | None:
    started = time.perf_counter()
    try:
        model = _load_model(load, functools.partial(_give_up, connection))
    except BaseException as error:  # noqa: BLE001 - the server is told, whatever it was
        _refuse(connection, _load_failure(error))
        return None
    others = model.pids if isinstance(model, ranks.RankedModel) else ()
    connection.send(frames.Ready(model.signature, time.perf_counter() - started, others))
    return model


def _refuse(connection: Connection, failure: FlowyardError) -> None:
    connection.send(frames.LoadFailed(failure.code, _message(failure)))


def _give_up(connection: Connection, failure: FlowyardError) -> NoReturn:
    """Tells the server that the model cannot be loaded while it is still being loaded in another thread."""
    _refuse(connection, failure)
    _exit(EXIT_LOAD_FAILED)


def _load_model(load: frames.Load, give_up: ranks.GiveUp) -> LoadedModel:
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, str(load.threads))
    os.chdir(load.root)
    if not sys.flags.safe_path:
        # `python -m` put the server's folder there, which is none of the model's business.
        del sys.path[0]
    sys.path.insert(0, load.root)
    return _load_part(load) if load.ranks is None else ranks.load(load, load.ranks, _load_part, give_up)


def _load_part(load: frames.Load) -> LoadedModel:
    """Loads the model, or this rank's part of it."""
    source = ModelSource(
        root=load.root,
        path=load.path,
        spec=load.spec,
        functions=load.functions,
        threads=load.threads,
        properties=load.properties,
        handlers=load.handlers,
    )
    if load.handlers == "djl":
        return djl.load(source, load.device, load.engine)
    if load.handlers:
        return torchserve.load(source, load.device)
    model = discovery.find(load.engine).load(source, load.device)
    return model if load.fusion is None else FusedNodes(model, load.fusion, functools.partial(_load_fused, load.device))


def _load_fused(device: Device, model: FusedModel) -> LoadedModel:
    source = ModelSource(root=model.root, path=model.path, spec=model.spec, threads=model.threads)
    return discovery.find(model.engine).load(source, device)


def _load_failure(error: BaseException) -> FlowyardError:
    if isinstance(error, FlowyardError):
        return error
    log(error)
    return OutOfMemoryError(describe(error)) if is_out_of_memory(error) else InternalError(describe(error))


class _Decoding(NamedTuple):
    """In what form a model takes its arguments.

    Attributes:
        own: Whether arrays in shared memory get memory of their own.
        messages: Whether messages are taken as they are.
        json_as_text: Whether JSON is parsed by the model's engine.
    """

    own: bool
    messages: bool
    json_as_text: bool


def _calls(message: frames.Predict, body: Buffer, memory: WorkerMemory | None, decoding: _Decoding) -> list[Call | FlowyardError]:
    reader = frames.BodyReader(body)
    view_of = None if memory is None else memory.view_of
    return [
        _call(call, [(reader.take(arg.tree, arg.sizes, arg.places, view_of), bool(arg.places)) for arg in call.args], decoding)
        for call in message.calls
    ]


def _call(call: frames.WireCall, args: Sequence[tuple[Encoded, bool]], decoding: _Decoding) -> Call | FlowyardError:
    """A call as the model takes it; with each argument comes whether some of it is in shared memory."""
    try:
        return Call(call.callee, [_argument(arg, decoding, shared=shared) for arg, shared in args], call.context)
    except InvalidInputError as error:
        return error
    except MemoryError as error:
        return OutOfMemoryError(describe(error))


def _argument(arg: Encoded, decoding: _Decoding, *, shared: bool) -> values.Value:
    if decoding.json_as_text and arg.tree == values.JSON_TREE:
        return JsonText(arg.buffers[0])
    value = values.decode(arg, own=decoding.own and shared)
    return value_of_message(value) if type(value) is Message and not decoding.messages else value


def compute(model: LoadedModel, calls: Sequence[Call | FlowyardError]) -> tuple[list[Outcome], float, float]:
    """Computes those calls that could be decoded.

    Args:
        model: The model.
        calls: Calls, and in place of one that did not decode its error.

    Returns:
        One outcome per call, in order; the seconds the model took, and of these the processor's in this thread.
    """
    batch = [call for call in calls if isinstance(call, Call)]
    started, cpu_started = time.perf_counter(), time.thread_time()
    computed = iter(outcomes_of(model, batch) if batch else ())
    compute_s, cpu_s = time.perf_counter() - started, time.thread_time() - cpu_started
    return [next(computed) if isinstance(call, Call) else call for call in calls], compute_s, cpu_s


def _results(outcomes: Sequence[Outcome], memory: WorkerMemory | None) -> tuple[tuple[_WireOutcome, ...], list[Buffer]]:
    """The answers and the buffers of their body. A result that would not fit into the frame any more becomes an error."""
    # Half of the head is for results, the other half holds a message for each call, whatever becomes of them.
    head_left, body_left = frames.HEAD_LIMIT_BYTES // 2, frames.BODY_LIMIT_BYTES
    limit = min(_MESSAGE_LIMIT, frames.HEAD_LIMIT_BYTES // 16 // len(outcomes)) if outcomes else 0
    wire: list[_WireOutcome] = []
    buffers: list[Buffer] = []
    for outcome in outcomes:
        if isinstance(outcome, _MADE):
            wire.append(outcome)
            continue
        made = outcome if isinstance(outcome, Several) else encoded(outcome)
        if type(made) is Encoded and not made.buffers and len(made.tree) <= head_left:
            head_left -= len(made.tree)
            wire.append(frames.WireResult(made.tree))
            continue
        if not isinstance(made, FlowyardError):
            own = made.buffers
            tree_bytes = len(made.tree) if isinstance(made, Encoded) else made.tree_bytes
            head = tree_bytes + _HEAD_BYTES_PER_BUFFER * len(own)
            places, in_body = memory.place(own) if memory and head <= head_left else ((), own)
            body = sum(map(_padded, in_body))
            if head <= head_left and body <= body_left:
                head_left, body_left = head_left - head, body_left - body
                buffers.extend(in_body)
                wire.append(_wire_result(made, places) if isinstance(made, Encoded) else _wire_results(made, places))
                continue
            if memory is not None:
                memory.free(offset for arena, offset in places if arena != frames.IN_BODY)
            made = NodeError(f"the result of {tree_bytes + body} bytes is too large to be passed on")
        wire.append(_wire_error(made, limit))
    return tuple(wire), buffers


def _wire_result(made: Encoded, places: tuple[frames.Place, ...]) -> frames.WireResult:
    return frames.WireResult(made.tree, tuple(map(len, made.buffers)), places)


def _wire_results(several: Several, places: tuple[frames.Place, ...]) -> frames.WireSeveral:
    """The results of fused nodes, each with the places of its own buffers."""
    ends = list(itertools.accumulate(len(result.buffers) for result in several.results))
    starts = [0, *ends[:-1]]
    found = zip(several.results, starts, ends, strict=True)
    return frames.WireSeveral(tuple([_wire_result(result, places[start:end]) for result, start, end in found]))


def _wire_error(error: FlowyardError, limit: int) -> frames.WireError:
    if isinstance(error, HandlerError):
        detail = _portable(error.detail, limit)
        return frames.WireError(error.code, _message(error, limit), error.status, detail, error.fused_node)
    return frames.WireError(error.code, _message(error, limit), node=error.fused_node)


def _padded(buffer: Buffer) -> int:
    return len(buffer) + -len(buffer) % values.ALIGNMENT_BYTES


def _message(error: FlowyardError, limit: int = _MESSAGE_LIMIT) -> str:
    """The message as text that msgpack can carry: bounded, and without lone surrogates."""
    return _portable(error.message, limit)


def _portable(text: str, limit: int) -> str:
    return text[:limit].encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    main()
