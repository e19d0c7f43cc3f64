"""A worker of several processes: the one that the server knows is the first rank, the others are its children.

Every rank is a worker process like any other, with a part of the model. The first one loads its own while the others load theirs,
hands each batch on to them, computes it itself, and is done when all of them are; only its answers count. They end with it, as
the kernel sees to, and it ends as soon as one of them does: the server then starts the whole worker anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import msgspec

from flowyard.engines.base import Call, LoadedModel, MeasuredModel, Outcome, SteppedModel, Stream
from flowyard.engines.failures import log
from flowyard.engines.rendezvous import Rendezvous, environment
from flowyard.schemas import frames, values
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError, WorkerDiedError, from_code
from flowyard.schemas.ranks import Ranks
from flowyard.schemas.values import Buffer, Value

#: The exit status of a first rank that has lost another one.
EXIT_RANK_LOST = 6
#: How long the first rank may take to fail itself when another one could not load the model: its own reason is then as good.
_FAILS_TOO_S = 1.0
#: How long the first rank, which could not load the model, listens whether another one knows the reason.
_KNOWS_WHY_S = 0.5
#: Metrics of the other ranks that are kept until the server is told.
_MOST_SAMPLES = 10_000

GiveUp = Callable[[FlowyardError], NoReturn]


def load(given: frames.Load, ranks: Ranks, load_model: Callable[[frames.Load], LoadedModel], give_up: GiveUp) -> LoadedModel:
    """Loads a model in all ranks of a worker.

    Args:
        given: What to load.
        ranks: How the worker is made; `number` says which rank this process is.
        load_model: Loads this rank's own part.
        give_up: Tells the server of a failure, and ends the process; called in another thread.

    Returns:
        The model, once all ranks have loaded it.

    Raises:
        FlowyardError: One of them could not load it; the message says which, where it was another one.
        OSError: There is no port, or a process could not be started.
    """
    given = msgspec.structs.replace(given, device=Device("gpu", ranks.number)) if ranks.gpus else given
    if ranks.number:
        return FollowingModel(load_model(given))
    rendezvous = Rendezvous() if ranks.launcher else None
    worker = dict(os.environ)
    os.environ.update(environment(ranks, 0, rendezvous, worker))
    if rendezvous is None:
        return load_model(given)
    if ranks.count == 1:
        rendezvous.serve()
        return load_model(given)
    others = [
        _Rank(given, msgspec.structs.replace(ranks, number=number), worker | environment(ranks, number, rendezvous, worker))
        for number in range(1, ranks.count)
    ]
    followers = Followers(others, ranks.silent_limit_s, give_up)
    try:
        rendezvous.serve()
        model = load_model(given)
    except Exception as error:
        raise followers.reason(error) from error
    followers.loaded()
    kind = RankedSteps if isinstance(model, SteppedModel) else RankedModel
    return kind(model, followers, leads=ranks.leads)


class _Rank:
    """Another rank, as the first one sees it.

    Attributes:
        number: Which one it is.
        process: Its process.
        socket: Our end of its socket.
        pidfd: Becomes readable when it has ended.
        is_ready: Whether it has loaded the model.
        done: Number of the last batch that it has computed.
        silent_s: Seconds since something has come from it.
    """

    def __init__(self, given: frames.Load, ranks: Ranks, environ: dict[str, str]) -> None:
        """Starts it. This must be the main thread: it asks the kernel to be killed when the *thread* that made it ends."""
        self.number = ranks.number
        self.socket, theirs = socket.socketpair()
        # A process that user code forks must not keep the socket open when this one has ended.
        os.register_at_fork(after_in_child=self.socket.close)
        # Without -P the model's own folder would be the first place where the worker's modules are looked for.
        command = [sys.executable, "-P", "-m", "flowyard.engines.worker", "--fd", str(theirs.fileno()), "--own-output"]
        with theirs:
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environ)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.is_ready = False
        self.done = 0
        self.silent_s = 0.0
        self.send(frames.pack(msgspec.structs.replace(given, ranks=ranks)))

    def send(self, chunks: Sequence[Buffer]) -> None:
        """Writes a frame.

        Raises:
            OSError: It has ended.
        """
        for chunk in chunks:
            self.socket.sendall(chunk)

    def receive(self) -> frames.ToServer | None:
        """The next message, `None` at the end; what comes with it nobody wants."""
        prefix = self._exactly(frames.PREFIX_BYTES)
        if prefix is None:
            return None
        head_bytes, body_bytes = frames.read_prefix(prefix)
        head = self._exactly(head_bytes)
        return None if head is None or self._exactly(body_bytes) is None else frames.unpack_to_server(head)

    def _exactly(self, size: int) -> bytes | None:
        received = bytearray()
        while len(received) < size:
            try:
                piece = self.socket.recv(min(size - len(received), 1 << 20), socket.MSG_WAITALL)
            except ConnectionError:
                return None
            if not piece:
                return None
            received += piece
        return bytes(received)


class Followers:
    """All ranks but the first, seen from there. A thread listens to them."""

    def __init__(self, ranks: Sequence[_Rank], silent_limit_s: float, give_up: GiveUp) -> None:
        """Takes ranks that have been started.

        Args:
            ranks: The ranks.
            silent_limit_s: One that has loaded the model and is silent for longer is lost.
            give_up: Tells the server that the model cannot be loaded, and ends the process.
        """
        self._ranks = ranks
        self._silent_limit_s = max(silent_limit_s, 2 * frames.HEARTBEAT_S)
        self._give_up = give_up
        self._changed = threading.Condition()
        #: The first rank has loaded its own part, or could not.
        self._own_load = threading.Event()
        self._all_loaded = False
        self._failure: FlowyardError | None = None
        self._failed_rank = 0
        self._batches = 0
        self._level = logging.getLogger().level
        self._samples: deque[frames.Sample] = deque(maxlen=_MOST_SAMPLES)
        threading.Thread(target=self._listen, name="ranks", daemon=True).start()

    @property
    def pids(self) -> tuple[int, ...]:
        """Their process ids."""
        return tuple(rank.process.pid for rank in self._ranks)

    def loaded(self) -> None:
        """Waits until all have loaded the model; how long that may take, the server knows.

        Raises:
            FlowyardError: One could not.
        """
        self._own_load.set()
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or all(rank.is_ready for rank in self._ranks))
            if self._failure is not None:
                raise self._told(self._failure)
            self._all_loaded = True

    def reason(self, error: Exception) -> Exception:
        """Why the model could not be loaded, when the first rank has failed: another one may have failed before it.

        Args:
            error: Why the first rank thinks so.
        """
        self._own_load.set()
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, _KNOWS_WHY_S)
        same = self._failure is None or (isinstance(error, FlowyardError) and error.message == self._failure.message)
        return error if self._failure is None or same else self._told(self._failure)

    def begin(self, batch: Sequence[Call]) -> None:
        """Hands a batch to all of them, when they are done with the one before."""
        self.settled()
        self._batches += 1
        chunks = _packed(self._batches, batch)
        level = logging.getLogger().level
        for rank in self._ranks:
            try:
                if level != self._level:
                    rank.send(frames.pack(frames.LogLevel(level)))
                rank.send(chunks)
            except OSError as error:
                _end(rank, f"it takes no batches: {error.strerror}")
        self._level = level

    def settled(self) -> None:
        """Waits until all have computed the last batch; the server ends the worker where that takes too long."""
        with self._changed:
            self._changed.wait_for(lambda: all(rank.done == self._batches for rank in self._ranks))

    @contextlib.contextmanager
    def together(self, batch: Sequence[Call]) -> Iterator[None]:
        """Has all of them compute a batch while the first rank does."""
        self.begin(batch)
        yield
        self.settled()

    def take_metrics(self) -> list[frames.Sample]:
        """What their handlers have measured since the last call."""
        return [self._samples.popleft() for _ in range(len(self._samples))]

    # ---- in the thread that listens ----

    def _listen(self) -> None:
        try:
            self._listen_to_all()
        except BaseException as error:  # noqa: BLE001 - with nobody to listen, the worker would wait for ever
            log(error)
            os._exit(EXIT_RANK_LOST)

    def _listen_to_all(self) -> None:
        poll = select.poll()
        by_fd = {}
        for rank in self._ranks:
            for fd in (rank.socket.fileno(), rank.pidfd):
                poll.register(fd, select.POLLIN)
                by_fd[fd] = rank
        tick = time.monotonic() + frames.HEARTBEAT_S
        while True:
            ready = {fd for fd, _ in poll.poll(max(0.0, tick - time.monotonic()) * 1000)}
            for fd in ready:
                self._hear(by_fd[fd], fd, poll)
            if time.monotonic() >= tick:
                # Rounds are counted, not seconds: a machine that was itself held up must not take that for silence.
                tick = time.monotonic() + frames.HEARTBEAT_S
                self._note_silence()

    def _hear(self, rank: _Rank, fd: int, poll: select.poll) -> None:
        if fd == rank.pidfd:
            # What it has said before its end explains it.
            while _is_readable(rank.socket) and (message := rank.receive()) is not None:
                self._heed(rank, message)
            poll.unregister(fd)
            self._lost(rank, _exit_reason(rank.process.wait()))
            return
        if not _is_readable(rank.socket):
            return
        message = rank.receive()
        if message is None:
            poll.unregister(fd)
            rank.process.kill()
        else:
            self._heed(rank, message)

    def _heed(self, rank: _Rank, message: frames.ToServer) -> None:
        rank.silent_s = 0.0
        with self._changed:
            match message:
                case frames.Ready():
                    rank.is_ready = True
                case frames.Results(batch_id):
                    rank.done = batch_id
                case frames.Metrics(samples):
                    self._samples.extend(samples)
                case frames.LoadFailed() if self._all_loaded:
                    _end(rank, "it could not load what it had loaded")
                case frames.LoadFailed(code, text) if self._failure is None:
                    self._failure, self._failed_rank = from_code(code, text), rank.number
            self._changed.notify_all()
        if isinstance(message, frames.LoadFailed):
            self._give_up_unless_told()

    def _lost(self, rank: _Rank, reason: str) -> None:
        with self._changed:
            if self._all_loaded:
                _end(rank, reason)
            if self._failure is not None:
                return
            self._failure, self._failed_rank = WorkerDiedError(f"the process ended while loading: {reason}"), rank.number
            self._changed.notify_all()
        self._give_up_unless_told()

    def _give_up_unless_told(self) -> None:
        """The first rank may wait for the one that has failed for longer than anybody likes, in code that nothing interrupts."""
        if not self._own_load.wait(_FAILS_TOO_S) and self._failure is not None:
            self._give_up(self._told(self._failure))

    def _note_silence(self) -> None:
        for rank in self._ranks:
            if rank.is_ready:
                rank.silent_s += frames.HEARTBEAT_S
                if rank.silent_s >= self._silent_limit_s:
                    _end(rank, f"no sign of life for {self._silent_limit_s:g} s")

    def _told(self, failure: FlowyardError) -> FlowyardError:
        return from_code(failure.code, f"rank {self._failed_rank}: {failure.message}")


def _packed(batch_id: int, batch: Sequence[Call]) -> list[Buffer]:
    """A batch as a frame."""
    buffers: list[Buffer] = []
    calls = []
    for call in batch:
        args = [values.encode(arg) for arg in call.args]
        buffers.extend(buffer for arg in args for buffer in arg.buffers)
        wire = tuple(frames.WireValue(arg.tree, tuple(map(len, arg.buffers))) for arg in args)
        calls.append(frames.WireCall(call.callee, wire, call.context))
    return frames.pack(frames.Predict(batch_id, tuple(calls)), buffers)


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _end(rank: _Rank, reason: str) -> NoReturn:
    """Ends this process, and so all ranks; not by way of Python's streams, which another thread may hold."""
    os.write(2, f"rank {rank.number} is lost, the worker ends: {reason}\n".encode())
    os._exit(EXIT_RANK_LOST)


def _exit_reason(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


class RankedModel:
    """A model as the first rank computes it, together with the others."""

    def __init__(self, model: LoadedModel, followers: Followers, *, leads: bool) -> None:
        """Takes this rank's part.

        Args:
            model: The part.
            followers: The other ranks.
            leads: Whether batches are for this rank alone.
        """
        self.signature = model.signature
        self.pids = followers.pids
        self._model = model
        self._followers = followers
        self._leads = leads

    def predict(self, batch: Sequence[Call]) -> Sequence[Outcome]:
        """Computes a batch: done when every rank is; where pieces come, when the next one begins."""
        if self._leads:
            return self._model.predict(batch)
        self._followers.begin(batch)
        outcomes = [_WholeStream(one) if isinstance(one, Stream) else one for one in self._model.predict(batch)]
        if not any(isinstance(one, Stream) for one in outcomes):
            self._followers.settled()
        return outcomes

    def take_metrics(self) -> list[frames.Sample]:
        """What handlers have measured, in every rank."""
        own = self._model.take_metrics() if isinstance(self._model, MeasuredModel) else ()
        return [*own, *self._followers.take_metrics()]

    def unload(self) -> None:
        """Frees this rank's part; the others end with the process."""
        self._model.unload()


class RankedSteps(RankedModel):
    """A model that takes steps with many requests, as the first rank takes them, together with the others."""

    def __init__(self, model: LoadedModel, followers: Followers, *, leads: bool) -> None:
        """As its base; the model is a `SteppedModel`."""
        super().__init__(model, followers, leads=leads)
        assert isinstance(model, SteppedModel)
        self._steps = model
        self.loop = model.loop
        self.answer = model.answer
        if not leads:
            model.together = followers.together

    @property
    def on_step(self) -> Callable[[Sequence[str]], None]:
        """As `SteppedModel`."""
        return self._steps.on_step

    @on_step.setter
    def on_step(self, tell: Callable[[Sequence[str]], None]) -> None:
        self._steps.on_step = tell


class FollowingModel:
    """A model as any other rank computes it: nobody is told the results."""

    signature = None

    def __init__(self, model: LoadedModel) -> None:
        """Takes this rank's part."""
        self._model = model

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch, what comes in pieces to its end."""
        if isinstance(self._model, SteppedModel):
            self._model.follow(batch)
            return [None for _ in batch]
        for outcome in self._model.predict(batch):
            if isinstance(outcome, Stream):
                _exhaust(outcome)
        return [None for _ in batch]

    def take_metrics(self) -> Sequence[frames.Sample]:
        """What handlers have measured."""
        return self._model.take_metrics() if isinstance(self._model, MeasuredModel) else ()

    def unload(self) -> None:
        """Frees what the model holds."""
        self._model.unload()


class _WholeStream(Stream):
    """A stream that is computed to its end, whoever wants the rest: the other ranks compute it, too."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __next__(self) -> Value:
        return next(self._stream)

    def collect(self) -> Value:
        return self._stream.collect()

    def close(self) -> None:
        _exhaust(self._stream)


def _exhaust(stream: Stream) -> None:
    try:
        for _ in stream:
            pass
    except FlowyardError:
        """The first rank tells what has failed there."""
