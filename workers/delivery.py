"""The worker's end of the delivery plane: one stream per edge, many sessions on it.

One writer task sends whatever is ready in one message (57 us per event alone, 2 us when many
share a message). With few sessions everything goes at once; with many, frames wait for company,
the longer the more share it: claims, first content and terminal events up to 4 ms, the rest up to
16 ms. CONTRIBUTING.md says what that saves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from broker.v1 import delivery_service_pb2 as pb
from broker.v1 import delivery_service_pb2_grpc as pb_grpc
from broker.v1 import event_pb2, generation_pb2, job_pb2
from workers.outbox import Outbox
from workers.pieces import MAX_TEXT, pieces

_log = logging.getLogger(__name__)

# An edge that says nothing for this long is lost, though its socket may be open (R7).
SILENCE_S = 10.0
CONNECT_S = 2.0
# A claim that is not answered for this long (checked with the heartbeats) is given up.
GRANT_S = 5.0
CLOSE_S = 2.0
# Above this many sessions on a stream, frames wait for company: so long for each session, at most.
BUSY_SESSIONS = 8
URGENT_S, MAX_URGENT_S = 0.000_0625, 0.004
TICK_S, MAX_TICK_S = 0.001, 0.016
# What a single event may weigh that cannot be cut: an upstream's whole answer (a picture), and a
# bit.
MAX_EVENT = 72 << 20
_DELIVER = "/broker.v1.DeliveryService/Deliver"
_Call = grpc.aio.StreamStreamCall[bytes, pb.DeliverResponse]
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_EVENT),
    ("grpc.max_send_message_length", MAX_EVENT),
    ("grpc.keepalive_time_ms", 10_000),
    # What bounds the answer to a keep-alive, too: `grpc.keepalive_timeout_ms` does nothing here.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # How far bodies come ahead of who takes them; gRPC's own estimate is several times that.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
]


class EdgeLost(Exception):  # noqa: N818
    """The edge that asked is gone or unreachable."""


class Killed(Exception):  # noqa: N818
    """The edge wants nothing more of this attempt; the argument says why."""


class Session:
    """One attempt on a link: claim, grant, events up, credit and kill down."""

    def __init__(self, link: EdgeLink, number: int) -> None:
        self.number = number
        self.link = link
        self.credit = self._window = 0
        self.over: Exception | None = None
        self.opened = asyncio.get_running_loop().time()
        self._granted: asyncio.Future[pb.Grant] = asyncio.get_running_loop().create_future()
        self._more_credit = asyncio.Event()
        self._on_over: Callable[[], object] | None = None
        self._urgent = True
        # Whether the edge has been told how it ends.
        self._complete = False

    async def grant(self) -> pb.Grant:
        """Wait for the right to call the provider, at most about 5 s.

        Raises `Killed`, or `EdgeLost` when nobody answers.
        """
        grant = await self._granted
        if self.over is not None:  # a kill came with the grant
            raise self.over
        return grant

    def when_over(self, callback: Callable[[], object] | None) -> None:
        """Call `callback` when the session is killed or its edge is lost, if need be now."""
        self._on_over = callback
        if callback is not None and self.over is not None:
            callback()

    def send(self, events: list[event_pb2.Event], *, last: bool = False) -> None:
        """Queue events; the first content and the last event are waited for."""
        if self.over is not None:
            return
        self._complete = self._complete or last
        encoded = [event.SerializeToString() for event in events]
        size = sum(map(len, encoded))
        if size > MAX_TEXT:
            cut = (piece for event in events for piece in pieces(event))
            encoded = [piece.SerializeToString() for piece in cut]
        self.credit -= size
        self.link.queue(self.number, encoded, size, urgent=self._urgent or last)
        if self._urgent and not (len(events) == 1 and events[0].HasField("started")):
            self._urgent = False

    async def wait_credit(self) -> None:
        """Wait until the edge wants more. Raises `Killed` or `EdgeLost`.

        Several calls of an attempt may wait: each by itself, as one of them may be given up.
        """
        while self.credit <= 0:
            if self.over is not None:
                raise self.over
            self._more_credit.clear()
            await self._more_credit.wait()

    def hand_back(self, reason: str) -> None:
        """Give the attempt up: the edge lets another worker have it."""
        if self.over is None and not self._complete:
            self._complete = True
            self.link.hand_back(self.number, reason)

    def close(self) -> None:
        """Nothing more will be sent. If the edge still waits for a last event: hand it back."""
        self.hand_back("ended without an answer")
        self.link.sessions.pop(self.number, None)

    # What the link calls.

    def granted(self, grant: pb.Grant) -> None:
        self.credit = self._window = grant.credit_bytes
        if not self._granted.done():
            self._granted.set_result(grant)

    def expire(self, now: float) -> None:
        if not self._granted.done() and now - self.opened > GRANT_S:
            self.end(EdgeLost())

    def credited(self, size: int) -> None:
        # The edge returns what frames weigh, which is a little more than was taken for the events:
        # without a bound the window would grow with the answer (R9).
        self.credit = min(self.credit + size, self._window)
        self._wake()

    def end(self, why: Exception) -> None:
        if self.over is not None:
            return
        self.over = why
        if not self._granted.done():
            self._granted.set_exception(why)
            self._granted.exception()  # somebody may have stopped waiting already
        self._wake()
        if self._on_over is not None:
            self._on_over()

    def _wake(self) -> None:
        self._more_credit.set()


class EdgeLink:
    """The stream to one edge; opened with its first session, gone with its last breath."""

    def __init__(self, address: str, token: str, hello: pb.Hello) -> None:
        self.address = address
        self.sessions: dict[int, Session] = {}
        self.alive = True
        # Whether the edge has said anything.
        self.reached = False
        self._hello = hello
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._loop = asyncio.get_running_loop()
        self._numbers = 0
        self._outbox = Outbox()
        self._wake = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None
        self._urgent = False
        self._closing = False
        self._gauges: pb.WorkerGauges | None = None
        self._heard = self._loop.time()
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = pb_grpc.DeliveryServiceStub(self._channel)
        self._task = asyncio.create_task(self._run(), name=f"edge {address}")

    def open(self, job: job_pb2.Job, *, alone: bool) -> Session:
        """A session that claims this job. Raises `EdgeLost` when the link is dead."""
        if not self.alive:
            raise EdgeLost
        self._numbers += 1
        session = self.sessions[self._numbers] = Session(self, self._numbers)
        claim = pb.Claim(
            request_id=job.request_id, attempt=job.attempt, secret=job.claim_secret, alone=alone
        )
        self.control(pb.Frame(session=session.number, claim=claim))
        return session

    def control(self, frame: pb.Frame) -> None:
        """Queue a frame that is waited for."""
        self._outbox.add(frame)
        self._flush_soon(urgent=True)

    def hand_back(self, number: int, reason: str) -> None:
        """Queue a frame that gives a session up; what it has not sent yet is of no use."""
        self._outbox.drop(number)
        self.control(pb.Frame(session=number, hand_back=pb.HandBack(reason=reason)))

    def queue(self, number: int, events: list[bytes], size: int, *, urgent: bool) -> None:
        """Queue a session's encoded events, `size` bytes of them."""
        self._outbox.add_events(number, events, size)
        self._flush_soon(urgent=urgent)

    def _flush_soon(self, *, urgent: bool) -> None:
        count = len(self.sessions)
        if count <= BUSY_SESSIONS:
            self._wake.set()
        elif self._tick is None or (urgent and not self._urgent):
            if self._tick is not None:
                self._tick.cancel()
            self._urgent = urgent
            each, most = (URGENT_S, MAX_URGENT_S) if urgent else (TICK_S, MAX_TICK_S)
            self._tick = self._loop.call_later(min(each * count, most), self._wake.set)

    def heartbeat(self, gauges: pb.WorkerGauges) -> None:
        """Say how things are, and give up an edge that is silent."""
        self._gauges = gauges
        self._wake.set()
        now = self._loop.time()
        for session in list(self.sessions.values()):
            session.expire(now)
        if self.sessions and self._loop.time() - self._heard > SILENCE_S:
            _log.warning("edge %s is silent; giving up what it asked for", self.address)
            self._task.cancel()

    async def fetch_body(self, job: job_pb2.Job) -> generation_pb2.Request:
        """The body of a large job (R10). Raises `EdgeLost`."""
        ask = pb.FetchBodyRequest(
            request_id=job.request_id, attempt=job.attempt, secret=job.claim_secret
        )
        try:
            call = self._stub.FetchBody(ask, metadata=self._metadata, timeout=30)
            return _whole([response.data async for response in call], job.body_reference.size)
        except (grpc.aio.AioRpcError, DecodeError) as exc:
            _log.warning("no body of %s from %s: %s", job.request_id, self.address, _why(exc))
            raise EdgeLost from exc

    async def fetch_attachment(self, job: job_pb2.Job, number: int) -> AsyncGenerator[bytes, None]:
        """A file of the request in pieces, no faster than they are taken. Raises `EdgeLost`."""
        ask = pb.FetchBodyRequest(
            request_id=job.request_id,
            attempt=job.attempt,
            secret=job.claim_secret,
            attachment=number,
        )
        call = self._stub.FetchBody(ask, metadata=self._metadata)
        try:
            async for response in call:
                yield response.data
        except grpc.aio.AioRpcError as exc:
            _log.warning("no file of %s from %s: %s", job.request_id, self.address, _why(exc))
            raise EdgeLost from exc
        finally:
            call.cancel()

    async def close(self) -> None:
        """Send what is queued and hang up; takes 2 s at most."""
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task], timeout=CLOSE_S)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        # Not the stub's, which would encode: messages are encoded already.
        deliver: Any = self._channel.stream_stream(
            _DELIVER, response_deserializer=pb.DeliverResponse.FromString
        )
        call: _Call = deliver(metadata=self._metadata)
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._channel.channel_ready()
                # The edge speaks first: writing to a call that it refuses would hide the reason.
                await call.read()
            self.reached = True
            await call.write(pb.DeliverRequest(hello=self._hello).SerializeToString())
            writer = asyncio.create_task(self._write(call), name=f"to edge {self.address}")
            while True:
                message = await call.read()
                if not isinstance(message, pb.DeliverResponse):
                    break
                self._received(message)
        except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as exc:
            level = logging.ERROR if _refused(exc) else logging.INFO
            _log.log(level, "edge %s: %s", self.address, _why(exc))
        finally:
            self.alive = False
            if writer is not None:
                writer.cancel()
            call.cancel()
            sessions, self.sessions = self.sessions, {}
            for session in sessions.values():
                session.end(EdgeLost())
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._channel.close()

    async def _write(self, call: _Call) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._tick is not None:
                    self._tick.cancel()
                    self._tick = None
                    self._urgent = False
                gauges, self._gauges = self._gauges, None
                message, more = self._outbox.message(gauges)
                if more:
                    self._wake.set()
                await call.write(message)
                if self._closing and not self._outbox:
                    await call.write(pb.DeliverRequest(leaving=True).SerializeToString())
                    # The edge reads to the end and hangs up; to cancel would drop what it has not.
                    await call.done_writing()
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader ends, and with it the link

    def _received(self, message: pb.DeliverResponse) -> None:
        self._heard = self._loop.time()
        for control in message.controls:
            session = self.sessions.get(control.session)
            if session is None:
                if control.HasField("grant"):  # to a claim that was given up
                    self.hand_back(control.session, "the grant came too late")
                continue
            match control.WhichOneof("action"):
                case "grant":
                    session.granted(control.grant)
                case "credit_bytes":
                    session.credited(control.credit_bytes)
                case "kill":
                    self.sessions.pop(control.session, None)
                    self._outbox.drop(control.session)
                    session.end(Killed(control.kill.reason))


def _whole(pieces: list[bytes], size: int) -> generation_pb2.Request:
    body = b"".join(pieces)
    if len(body) != size:
        raise DecodeError(f"{len(body)} bytes instead of {size}")
    return generation_pb2.Request.FromString(body)


def _refused(exc: Exception) -> bool:
    """Whether the edge does not know us: nothing will work until somebody mends the settings."""
    unknown = grpc.StatusCode.UNAUTHENTICATED
    return isinstance(exc, grpc.aio.AioRpcError) and exc.code() == unknown


def _why(exc: Exception) -> str:
    if isinstance(exc, grpc.aio.AioRpcError):
        return exc.details() or exc.code().name
    return "unreachable" if isinstance(exc, TimeoutError) else str(exc)
