"""One worker process: start it, talk to it, notice its end.

The process is our own interpreter running `flowyard.engines.worker` in a process group of its own, with a minimal environment,
one end of a Unix socketpair, and memory that it shares with the server for large values. It ends when its socket ends. Its death
is noticed through a pidfd, which a child that the worker has left behind cannot delay, as it could the end of the socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from flowyard.platform.workers import log_level
from flowyard.platform.workers.channel import WorkerChannel
from flowyard.platform.workers.confinement import Confinement
from flowyard.platform.workers.memory import ARENA_BYTES, Parcel, SharedMemory
from flowyard.schemas.errors import FlowyardError, HandlerError, from_code
from flowyard.schemas.frames import (
    HEARTBEAT_S,
    STREAM_WINDOW,
    BodyReader,
    Chunk,
    Credit,
    Drop,
    FrameError,
    Heartbeat,
    Load,
    LoadFailed,
    LogLevel,
    Metrics,
    Predict,
    Ready,
    Results,
    Sample,
    Step,
    Stop,
    ToServer,
    ViewOf,
    WireCall,
    WireEnd,
    WireError,
    WireRefused,
    WireResult,
    WireSeveral,
)
from flowyard.schemas.payload import Payload
from flowyard.schemas.ranks import MOST_RANKS
from flowyard.schemas.redaction import without_host_paths
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Encoded

#: Seconds between closing a worker's socket and killing it.
RETIRE_GRACE_S = 5.0
#: Seconds of silence after which a ready worker is taken for dead.
SILENT_LIMIT_S = 10.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Outcome = Payload | FlowyardError
#: The outcome of a job whose result has come in pieces and was complete.
STREAMED = Payload.of(None)
#: The outcome of a call of fused nodes that could not be begun.
REFUSED = Payload.of(None)


class Several(Payload):
    """The outcome of a call of fused nodes: as a value it is null.

    Attributes:
        results: The results that are wanted outside, in order.
        ends: When each fused node ended, in the worker's own words; monotonic seconds.
    """

    __slots__ = ("ends", "results")

    def __init__(self, results: Sequence[Payload], ends: Sequence[float]) -> None:
        super().__init__()
        self._has_value = True
        self.results = results
        self.ends = ends


class WorkerEvents(Protocol):
    """Who listens to a worker process."""

    def on_ready(self, worker: int, signature: Signature | None, load_s: float) -> None:
        """The model is loaded."""

    def on_load_failed(self, worker: int, error: FlowyardError) -> None:
        """The model cannot be loaded."""

    def on_results(self, worker: int, results: Results, outcomes: Sequence[Outcome]) -> None:
        """A batch is computed."""

    def on_chunk(self, worker: int, batch: int, place: int, piece: Payload) -> None:
        """A piece of the result of one job of a batch has come."""

    def on_step(self, worker: int, ended: Sequence[str]) -> None:
        """A step is over for all that is computed side by side, and some sequences with it."""

    def on_metrics(self, worker: int, samples: Sequence[Sample]) -> None:
        """Handlers have measured something."""

    def on_exit(self, worker: int, reason: str) -> None:
        """The process has ended. Called exactly once, last."""


def resident_bytes(pid: int) -> int:
    """Memory that a process has in RAM, what it shares included; 0 when it is gone. One small read, whatever its size."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


class WorkerProcess:
    """A running worker.

    Args:
        worker: Its number, for the events.
        load: What it is to load.
        events: Who listens.
        environ: Its environment.
        confinement: Whom it runs as, and its limits.
        arena_bytes: Virtual size of the memory shared with it, in each direction.
        outputs: Opens what it writes its output and errors into; `None` for the server's own errors.
        silent_limit_s: Once ready, it is killed when nothing has come from it for so long; counted in whole seconds, 2 at least.
    """

    def __init__(
        self,
        worker: int,
        load: Load,
        events: WorkerEvents,
        environ: Mapping[str, str],
        *,
        confinement: Confinement,
        arena_bytes: int = ARENA_BYTES,
        silent_limit_s: float = SILENT_LIMIT_S,
        outputs: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.worker = worker
        self._load = load
        self._events = events
        self._environ = environ
        self._confinement = confinement
        self._loop = asyncio.get_running_loop()
        self._channel = WorkerChannel(self._on_frame, self._on_lost, self.kill)
        self._arena_bytes = arena_bytes
        self._memory: SharedMemory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._kill_reason = ""
        self._grace: asyncio.TimerHandle | None = None
        self._silent_limit_s = silent_limit_s
        self._outputs = outputs
        self._silent_s = 0.0
        self._heard = 0
        #: Pieces that streams have sent ahead of their readers, by batch and place.
        self._ahead: dict[tuple[int, int], int] = {}
        self._listening: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()
        #: Process ids of its ranks but the first, once they have loaded the model.
        self.others: tuple[int, ...] = ()

    @property
    def pid(self) -> int | None:
        """Process id, `None` before the start."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Starts the process and sends it what to load. What follows is reported to the events.

        Raises:
            OSError: The process cannot be started (no memory, no file descriptors).
        """
        memory = SharedMemory(self._arena_bytes, self._drop)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._popen(theirs.fileno(), memory.inherited)
            except OSError:
                ours.close()
                memory.close()
                raise
            finally:
                memory.started()
        self._memory = memory
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._on_process_end)
        if self._kill_reason:
            self.kill(self._kill_reason)
        ours.setblocking(False)
        await self._loop.create_unix_connection(lambda: self._channel, sock=ours)
        self._channel.send(msgspec.structs.replace(self._load, log_level=log_level.WORKERS.value))
        log_level.WORKERS.follow(self)

    def _popen(self, connection: int, shared: Sequence[int]) -> subprocess.Popen[bytes]:
        # In the loop's own thread: the worker asks the kernel to be killed when the *thread* that made it ends.
        limits, account = self._confinement.arguments(), self._confinement.account
        command = [sys.executable, "-m", "flowyard.engines.worker", "--fd", str(connection), *limits]
        outputs = self._outputs() if self._outputs is not None else ()
        output, errors = outputs or (None, None)
        try:
            return subprocess.Popen(
                [*command, *(("--own-output",) if outputs else ()), "--shared", *map(str, shared)],
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                pass_fds=[connection, *shared],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=dict(self._environ),
                start_new_session=True,
            )
        finally:
            for written in outputs:
                os.close(written)

    def parcel(self) -> Parcel:
        """Something to put the values of a batch into, for `send`. The worker must be ready."""
        assert self._memory is not None
        return Parcel(self._memory)

    def send(self, batch: int, calls: tuple[WireCall, ...], parcel: Parcel) -> None:
        """Sends a batch.

        Args:
            batch: Its number.
            calls: The jobs; their values were added to the parcel, in order.
            parcel: One of this process's own.
        """
        assert self._memory is not None
        self._memory.sent(batch, parcel)
        self._channel.send(Predict(batch, calls, self._memory.outbox.take_freed()), parcel.buffers)

    def grant(self, batch: int, place: int, count: int) -> None:
        """Lets a stream send so many more pieces."""
        if (batch, place) in self._ahead:
            self._ahead[batch, place] -= count
        self._channel.send(Credit(batch, place, count))

    def stop(self, batch: int, place: int) -> None:
        """Ends a stream that nobody wants any more, or a job that is computed beside others."""
        self._channel.send(Stop(batch, place))

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory that are in use."""
        return 0 if self._memory is None else self._memory.used

    def set_log_level(self, level: int) -> None:
        """What is below this level is not to be logged; a worker that computes obeys when it has."""
        self._channel.send(LogLevel(level))

    def _drop(self, arena: int) -> None:
        self._channel.send(Drop((arena,)))

    def retire(self) -> None:
        """Asks the process to end, and kills it when it does not."""
        self._channel.close()
        if self._grace is None and not self.ended.is_set():
            self._grace = self._loop.call_later(RETIRE_GRACE_S, self.kill, "it did not end when asked to")

    def kill(self, reason: str) -> None:
        """Ends the process and everything in its process group at once."""
        self._kill_reason = self._kill_reason or reason
        if self.ended.is_set() or self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._process.kill()

    def _on_frame(self, message: ToServer, body: BodyReader) -> None:
        match message:
            case Results():
                self._on_results(message, body)
            case Chunk(batch, place, tree, sizes):
                self._count_piece(batch, place)
                self._events.on_chunk(self.worker, batch, place, Payload.from_encoded(body.take(tree, sizes)))
            case Step(ended):
                self._events.on_step(self.worker, ended)
            case Metrics(samples):
                self._events.on_metrics(self.worker, samples)
            case Heartbeat():
                """The channel has noted that something came."""
            case Ready():
                self.others = message.others[:MOST_RANKS]
                if self._listening is None:
                    self._listen()
                self._events.on_ready(self.worker, message.signature, message.load_s)
            case LoadFailed():
                if self._listening is not None:
                    raise FrameError("it could not load what it had loaded")
                # It ends by itself; one that does not would be nobody's any more.
                self.retire()
                self._events.on_load_failed(self.worker, from_code(message.code, without_host_paths(message.message)))

    def _count_piece(self, batch: int, place: int) -> None:
        ahead = self._ahead.get((batch, place), 0) + 1
        if ahead > STREAM_WINDOW:
            raise FrameError(f"more than {STREAM_WINDOW} pieces of a result ahead of its reader")
        self._ahead[batch, place] = ahead

    def _on_results(self, results: Results, body: BodyReader) -> None:
        if self._ahead:
            self._ahead = {key: count for key, count in self._ahead.items() if key[0] != results.batch_id}
        if self._memory is not None:
            outcomes = _outcomes(results, body, self._memory.view_of)
            self._memory.answered(results.batch_id)
            self._events.on_results(self.worker, results, outcomes)

    def _listen(self) -> None:
        """Once a second: has anything come?

        Seconds are counted by rounds of this timer, not by the clock: a server that was itself held up must not take what it has
        not read yet for silence.
        """
        self._silent_s = 0.0 if self._channel.heard != self._heard else self._silent_s + HEARTBEAT_S
        self._heard = self._channel.heard
        if self._silent_s >= max(self._silent_limit_s, 2 * HEARTBEAT_S):
            self.kill(f"no sign of life for {self._silent_limit_s:g} s")
            return
        self._listening = self._loop.call_later(HEARTBEAT_S, self._listen)

    def _on_lost(self, reason: str) -> None:
        """A worker without a socket is of no use; usually it has just ended and the pidfd says why."""
        if self._grace is None and not self.ended.is_set():
            self._grace = self._loop.call_later(RETIRE_GRACE_S, self.kill, reason)

    def _on_process_end(self) -> None:
        assert self._process is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        self._kill_group_remains()
        if self._grace is not None:
            self._grace.cancel()
        if self._listening is not None:
            self._listening.cancel()
        self.ended.set()
        self._channel.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self._events.on_exit(self.worker, self._kill_reason or _exit_reason(code))

    def _kill_group_remains(self) -> None:
        """Ends what the worker has started itself and left behind."""
        assert self._process is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


def _outcomes(results: Results, body: BodyReader, view_of: ViewOf) -> list[Outcome]:
    ends = [node.ended for node in results.times]
    return [
        Payload.from_encoded(Encoded(outcome.tree))
        if type(outcome) is WireResult and not outcome.sizes and not outcome.places
        else _outcome(outcome, body, view_of, ends)
        for outcome in results.outcomes
    ]


def _outcome(
    outcome: WireResult | WireError | WireEnd | WireSeveral | WireRefused,
    body: BodyReader,
    view_of: ViewOf,
    ends: Sequence[float],
) -> Outcome:
    match outcome:
        case WireResult():
            return _payload(outcome, body, view_of)
        case WireSeveral(several):
            return Several([_payload(result, body, view_of) for result in several], ends)
        case WireError():
            return _error(outcome)
        case WireEnd():
            return STREAMED
        case WireRefused():
            return REFUSED


def _payload(result: WireResult, body: BodyReader, view_of: ViewOf) -> Payload:
    return Payload.from_encoded(body.take(result.tree, result.sizes, result.places, view_of))


def _error(wire: WireError) -> FlowyardError:
    if wire.code == HandlerError.code:
        return HandlerError(without_host_paths(wire.message), status=wire.status, detail=without_host_paths(wire.detail))
    error = from_code(wire.code, without_host_paths(wire.message))
    error.fused_node = wire.node
    return error


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
