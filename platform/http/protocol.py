"""HTTP/1.1 within limits: how large a head may be, how long it, a body and an answer may take, how many connections there may be.

uvicorn's protocol has none of these, and answers what is no HTTP at once, even where earlier requests of the connection wait for
their answers. What httptools (llhttp, strict) refuses by itself: both lengths, two lengths, bad chunk sizes, control characters.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flowyard.platform.http.connection import OneWriteTransport, is_hung_up
from flowyard.platform.http.connections import BODY_BYTES_PER_S, TICK_S, Connections, Unread, cut_off
from flowyard.platform.http.direct import DirectCycle, DirectWay, Repeated
from flowyard.platform.http.large_bodies import LARGE_BYTES, LargeBody, SmallPieces
from flowyard.platform.http.native.errors import ErrorBody, to_json

#: A request line and headers that are longer are refused.
MAX_HEAD_BYTES = 64 << 10
#: Time that a head may take from its first byte, or from the connection's start.
HEAD_S = 10.0
#: Time that a body may take before its speed counts.
BODY_GRACE_S = 10.0
#: Most requests that a client may send ahead of the answers.
MAX_PIPELINED = 1024
#: Longest head that is remembered for the next request of its connection.
MAX_REPEATED_BYTES = 2048
_CREDIT_BYTES = BODY_BYTES_PER_S * (BODY_GRACE_S + 1)
_REASONS = {400: b"Bad Request", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}

#: Time for the client to read why its request is refused before the connection is closed for good.
GOODBYE_S = 2.0
#: The same for a client that still sends the body of a request that is answered: most read nothing before they have sent all.
LINGER_S = 30.0
#: Time after which a client that sends nothing more, and may have left, is written to: a machine that knows of no such connection
#: says so, which may take a while.
ASK_AFTER_S = 0.5
ANSWER_WITHIN_S = 0.05
#: What any client of HTTP/1.1 passes over (RFC 9110 §15.2); and a part of the next chunk's size, which may have
#: more digits than it needs (RFC 9112 §7.1).
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LEADING_ZERO = b"0"
#: A head or a body is being read; nothing is; the last answer has been sent.
Phase = Literal["head", "body", "rest", "over"]


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, answers that go out in one write, and a direct way where the application has one.

    Args:
        bounds: The connections it is one of.
        arguments: uvicorn's own.

    Attributes:
        carrier: What a connection that speaks TLS is carried by; to be said before it is made.
    """

    carrier: asyncio.Transport | None = None
    cycle: RequestResponseCycle | DirectCycle | None  # type: ignore[assignment]

    def __init__(self, *arguments: Any, bounds: Connections, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._bounds = bounds
        self._way: DirectWay | None = getattr(self.app, "direct", None)
        #: The request on the direct way that is being read or answered.
        self._direct: DirectCycle | None = None
        #: What the direct way has found in the head that is being read.
        self._head: Any = None
        #: The request before, where the next one may be read by comparing it.
        self._last: Repeated | None = None
        #: The body that is being read, where it is large and its length is known.
        self._large: LargeBody | None = None
        #: What reads the head behind a large body.
        self._small_pieces: SmallPieces | None = None
        #: What was received last, and what of it a request began in.
        self._chunk = self._first_chunk = b""
        self._phase: Phase = "head"
        #: When this phase began, in ticks.
        self._since = bounds.now
        #: Bytes of what was received last, of what a head began in, and of what has come whole for it since.
        self._chunk_bytes = 0
        self._first_bytes = 0
        self._head_bytes = 0
        #: Bytes that a body has taken since the last of its contents came: its trailers, and what stands between chunks.
        self._framing_bytes = 0
        #: Bytes of a body that may still be late.
        self._credit: float = 0
        self._late_bytes = 0
        #: What is wrong with the request that is being read, where it is not just no HTTP.
        self._fault: tuple[int, str] | None = None
        self._unread = Unread(bounds.slow_reader_limit_s)
        #: Requests that were accepted and are not answered yet.
        self._unanswered = 0
        #: Whether the client has said that it sends nothing more.
        self._is_half_closed = False
        #: What the connection ends with, once the requests before are answered.
        self._refusal: bytes | None = None
        #: Whether its last request is answered, but has not come whole.
        self._is_lingering = False

    # ---- the connection ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        self._writer = OneWriteTransport(transport, self.loop, self.carrier, self._lingers)
        super().connection_made(cast(asyncio.Transport, self._writer))
        if not self._bounds.add(self):
            self._refusal = _answer(503, f"there are {self._bounds.limit} connections already (setting max_connections)")
            self.transport.write(self._refusal)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._bounds.discard(self)
        if self._direct is not None:
            self._direct.cancel()
        if type(self.cycle) is DirectCycle:
            self.cycle = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        if self._refusal is not None:
            self._late_bytes += len(data)
            return
        last = self._last
        if last is not None and len(data) == last.size and data.startswith(last.beginning) and self._repeat(last, data):
            return
        self._last = None
        if self._large is not None and self._large.is_past_parser:
            data = self._beyond(self._large, data)
            if not data:
                return
        self._chunk = data
        self._chunk_bytes = len(data)
        super().data_received(data)
        self._chunk = self._first_chunk = b""
        if self._phase == "body":
            self._late_bytes += len(data)
            self._framing_bytes += len(data)
            if self._framing_bytes > MAX_HEAD_BYTES and self._refusal is None:
                self._refuse(431, _TOO_LONG_A_TRAILER)
        elif self._phase == "head":
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and self._refusal is None:
                self._refuse(431, _TOO_LONG)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more. What has come whole is still answered; TLS does not do by halves here.

        Over TCP a client that has left altogether looks just the same: it is asked.
        """
        if self._phase != "rest" or not self._unanswered or self._writer.is_tls or is_hung_up(self.transport):
            return False
        if not self._is_half_closed:
            self._is_half_closed = True
            self.loop.call_later(ASK_AFTER_S, self._ask)
        if self._refusal is None and self.cycle is not None:
            self.cycle.keep_alive = False
        return True

    def tick(self, now: int) -> None:
        """Time has passed: is the client fast enough?

        Args:
            now: Ticks since the start.
        """
        if self._unread.is_too_slow(self.transport) or self._has_left():
            cut_off(self.transport)
            return
        if self._direct is not None:
            # Requests behind it have stopped the reading: whether the client is still there must be seen nevertheless.
            self.flow.resume_reading()
        if self._phase == "rest":
            if not self._unanswered and (now - self._since) * TICK_S > self.timeout_keep_alive:
                self.transport.close()
            return
        if self._phase == "over":
            still_sends, self._late_bytes = self._is_lingering and self._late_bytes > 0, 0
            if (now - self._since) * TICK_S > (LINGER_S if still_sends else GOODBYE_S):
                self.transport.close()
            return
        if self._phase == "head":
            # Who waits for an answer, or is not read from, is not late.
            if self.flow.read_paused or self._unanswered:
                self._since = now
            elif (now - self._since) * TICK_S > HEAD_S:
                self.transport.close()
            return
        if self.flow.read_paused:
            return
        self._credit = min(self._credit + self._late_bytes, _CREDIT_BYTES) - BODY_BYTES_PER_S * TICK_S
        self._late_bytes = 0
        if self._credit < 0:
            self.transport.close()

    def _has_left(self) -> bool:
        """Whether a client that sends nothing more is known to be gone altogether."""
        return self._is_half_closed and is_hung_up(self.transport)

    def _ask(self) -> None:
        """Writes to a client that may have left: something that any client passes over."""
        if self.transport.is_closing() or not self._unanswered:
            return
        probe = self._probe()
        if probe:
            self._writer.write_whole(probe)
            self.loop.call_later(ANSWER_WITHIN_S, self._end_if_left)

    def _probe(self) -> bytes:
        """What may be written now without being part of an answer; empty where there is no such thing."""
        cycle = self.cycle
        # Of a request that others wait behind it is not known whether its answer has begun.
        if self.parser.get_http_version() != "1.1" or (self._direct is None and self.pipeline):
            return b""
        if not isinstance(cycle, RequestResponseCycle) or not cycle.response_started:
            return _CONTINUE
        is_between_chunks = cycle.chunked_encoding and not cycle.response_complete and cycle.scope["method"] != "HEAD"
        return _LEADING_ZERO if is_between_chunks else b""

    def _end_if_left(self) -> None:
        """Has the client said that it is gone? Later on, `tick` would notice."""
        if not self.transport.is_closing() and self._has_left():
            cut_off(self.transport)

    def _begin(self, phase: Phase) -> None:
        self._phase = phase
        self._since = self._bounds.now

    # ---- what the parser finds ----

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begin("head")
        self._first_chunk = self._chunk
        self._first_bytes = self._chunk_bytes
        self._head_bytes = -self._chunk_bytes
        # What uvicorn makes here is made in `_go_long_way`, for those requests that need it.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """A head is complete.

        Raises:
            ValueError: It is refused; the parser stops.
        """
        if self._small_pieces is not None:
            self._small_pieces = None
            self.transport.set_protocol(self)
        at_most = self._first_bytes + self._head_bytes + self._chunk_bytes
        if at_most > MAX_HEAD_BYTES and self._length_of_head() > MAX_HEAD_BYTES:
            self._fault = (431, _TOO_LONG)
            raise ValueError(_TOO_LONG)
        if self.transport.is_closing():
            raise ValueError("behind a request that was to be the last one")
        if self._go_directly():
            return
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
            self._fault = (400, "the only transfer coding that is understood is chunked")
            raise ValueError("transfer coding")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._fault = (503, f"more than {MAX_PIPELINED} requests ahead of their answers")
            raise ValueError("pipelined")
        self._expect_body()
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._go_long_way()
        cycle = self.cycle
        if lengths and int(lengths[0]) > LARGE_BYTES and isinstance(cycle, RequestResponseCycle):
            self._large = LargeBody(self, cycle, int(lengths[0]))

    def _expect_body(self) -> None:
        self._begin("body")
        self._credit, self._late_bytes = _CREDIT_BYTES, 0
        self._framing_bytes = -self._chunk_bytes
        self._unanswered += 1

    def _go_directly(self) -> bool:
        """Puts a request on the direct way, where there is one and nobody is before it."""
        if self._way is None or self._unanswered or self.flow.write_paused or self.parser.get_method() != b"POST":
            return False
        head = self._way.read(self.url, self.headers)
        call = None if head is None else self._way.take(head, self.client)
        if call is None:
            return False
        self._head = head
        self._expect_body()
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._direct = DirectCycle(self, call, keep_alive=keep_alive)
        self.cycle = self._direct
        return True

    def _repeat(self, last: Repeated, data: bytes) -> bool:
        """Puts a request on the direct way that has the head of the one before; the parser does not get to see it.

        Returns:
            False where the parser has to, after all: nothing has happened then.
        """
        assert self._way is not None
        if self._unanswered or self.flow.write_paused or self.transport.is_closing():
            return False
        call = self._way.take(last.head, self.client)
        if call is None:
            return False
        self._begin("rest")
        self._unanswered += 1
        self.cycle = self._direct = cycle = DirectCycle(self, call, keep_alive=last.keep_alive)
        if cycle.run(data[len(last.beginning) :]):
            return True
        self._unanswered -= 1
        self.cycle = self._direct = None
        return False

    def _remember(self, cycle: DirectCycle, body_bytes: int) -> None:
        """Remembers a request on the direct way that came alone in what was received last."""
        chunk = self._chunk
        if self._first_chunk is not chunk:
            return
        head_bytes = len(chunk) - body_bytes
        # No more lines than there are headers: this is where the head ended, and nothing was before it.
        if head_bytes <= MAX_REPEATED_BYTES and chunk.find(b"\r\n\r\n") == head_bytes - 4:
            beginning = chunk[:head_bytes]
            if beginning.count(b"\n") == len(self.headers) + 2:
                self._last = Repeated(beginning, len(chunk), self._head, cycle.keep_alive)

    def _go_long_way(self) -> None:
        """Puts a request whose head is complete on its way through ASGI."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        # Trailers come where headers came: what follows a body is none, and nobody may be let in by it (RFC 9110 §6.5.1).
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        self._framing_bytes = -self._chunk_bytes
        if type(self.cycle) is DirectCycle:
            self.cycle.take(body)
            return
        if self._large is not None:
            self._large.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._begin("rest")
        self._large = None
        cycle = self.cycle
        if type(cycle) is not DirectCycle:
            super().on_message_complete()
            return
        body = cycle.body()
        self._remember(cycle, len(body))
        if not cycle.run(body):
            self._direct = self.cycle = None
            self._go_long_way()
            super().on_body(body)
            super().on_message_complete()

    # ---- a body that the parser does not see all of ----

    def body_came(self, size: int) -> None:
        """So many bytes of a large body have come."""
        self._late_bytes += size
        self._framing_bytes = 0

    def body_ended(self) -> None:
        """A large body is complete."""
        self._begin("rest")
        assert self._large is not None
        assert isinstance(self.cycle, RequestResponseCycle)
        self._large.let_go()
        self.cycle.more_body = False
        self._small_pieces = SmallPieces(self)
        self.transport.set_protocol(self._small_pieces)

    def _beyond(self, large: LargeBody, data: bytes) -> bytes:
        """What of the bytes that have come is beyond a body that the parser has lost track of; another one goes on with it."""
        piece, data = data[: large.left], data[large.left :]
        if piece:
            self.body_came(len(piece))
            large.add(piece)
            if not large.left:
                self.body_ended()
        if data:
            self._large = None
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return data

    # ---- answering ----

    def answer(self, answer: bytes, *, keep_alive: bool) -> None:
        """Answers the request on the direct way.

        Args:
            answer: The whole answer.
            keep_alive: Whether the connection goes on.
        """
        self._direct = None
        self._writer.write_whole(answer)
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """A request is answered. uvicorn sets a timer here, for each request; ours is the ticks'."""
        self._unanswered -= 1
        self.server_state.total_requests += 1
        if self._phase == "rest":
            self._since = self._bounds.now
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self.pipeline:
            self.flow.pause_reading()
        elif self._refusal is not None and not self._unanswered and not self.transport.is_closing():
            self._end_with(self._refusal)

    def _length_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)

    def _lingers(self) -> bool:
        """Whether the connection must not be closed yet: with something unread it would be reset, and the answer lost."""
        cycle = self.cycle
        if (
            self._phase != "body"
            or not isinstance(cycle, RequestResponseCycle)
            or not cycle.response_complete
            or cycle.keep_alive
        ):
            return False
        if self._refusal is None:
            self._is_lingering, self._refusal = True, b""
        return self._is_lingering

    # ---- refusing ----

    def send_400_response(self, msg: str) -> None:
        """Refuses what the parser cannot read."""
        if self.transport.is_closing():
            return
        status, message = self._fault or (400, "this is not a request of HTTP/1.1 that could be understood")
        self._refuse(status, message)

    def _refuse(self, status: int, message: str) -> None:
        """Ends the connection with an answer, after those of the requests before the one at fault."""
        self._refusal = _answer(status, message)
        if self._phase == "body" and not self._is_waiting():
            self._abandon(self._refusal)
            return
        if self._phase == "body":
            self.pipeline.popleft()
            self._unanswered -= 1
        if not self._unanswered:
            self._end_with(self._refusal)
            return
        self._phase = "rest"
        self.flow.pause_reading()

    def _is_waiting(self) -> bool:
        """Whether the request that is being read has to wait for its turn."""
        return bool(self.pipeline) and self.pipeline[0][0] is self.cycle

    def _abandon(self, refusal: bytes) -> None:
        """Ends the connection while a request is answered whose body turned out to be broken."""
        cycle = self.cycle
        # The body of a direct request has a length, and cannot be broken.
        assert isinstance(cycle, RequestResponseCycle)
        is_answered = cycle.response_started
        cycle.disconnected = True
        cycle.message_event.set()
        self._end_with(b"" if is_answered else refusal, is_cut=is_answered and not cycle.response_complete)

    def _end_with(self, answer: bytes, *, is_cut: bool = False) -> None:
        """Says goodbye. What still comes is read and dropped for a while: a reset could take the answer from the client.

        Args:
            answer: The last answer, empty where it has been sent.
            is_cut: Whether that one is not whole; the client is not to take it for whole.
        """
        can_say_so = self.transport.can_write_eof()
        if is_cut or not (can_say_so or self._is_lingering):
            self.transport.write(answer)
            self.transport.close()
            return
        self._begin("over")
        self._unset_keepalive_if_required()
        self.transport.write(answer)
        if can_say_so:
            self.transport.write_eof()
        self.flow.resume_reading()


_TOO_LONG = f"the request line and headers have more than {MAX_HEAD_BYTES} bytes"

_TOO_LONG_A_TRAILER = f"the trailers or a chunk's extensions have more than {MAX_HEAD_BYTES} bytes"


def _answer(status: int, message: str) -> bytes:
    kind = "ServiceUnavailableException" if status == 503 else "BadRequestException"
    body = to_json(ErrorBody(code=status, type=kind, message=message))
    head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (
        status,
        _REASONS[status],
        len(body),
    )
    return head + body
