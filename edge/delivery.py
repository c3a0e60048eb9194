"""The edge's end of the delivery plane: the gRPC server that workers dial.

The reader of a link never awaits a consumer, and one writer task per link sends whatever
controls are ready in one message: two concurrent writes would kill the call, one message per
control would cost ten times as much.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import grpc

from broker.v1 import delivery_service_pb2 as pb
from broker.v1 import delivery_service_pb2_grpc as pb_grpc
from edge.attempt import Attempt
from edge.exchange import Exchange

_log = logging.getLogger(__name__)

# A worker that says nothing for this long is lost, though its socket may be open (R3).
SILENCE_S = 10.0
# Above this many sessions on a link, controls wait for company: so long for each, at most.
BUSY_SESSIONS = 8
TICK_S, MAX_TICK_S = 0.000_0625, 0.004
# Bytes of events a session may send before its consumer took any (R9).
CREDIT_BYTES = 1 << 20
_PIECE = 256 << 10
_Context = grpc.aio.ServicerContext[Any, Any]
OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second edge must not share our port silently
    # The largest event that a worker cannot cut: an upstream's whole answer, and a bit.
    ("grpc.max_receive_message_length", 72 << 20),
    ("grpc.max_send_message_length", 72 << 20),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]


class Desk(Protocol):
    """Where claims find the exchanges they are about."""

    @property
    def exchanges(self) -> Mapping[str, Exchange]:
        """Every accepted request that has not ended, by id."""

    def limits(self, exchange: Exchange, attempt: Attempt) -> pb.TimeLimits:
        """How long the upstream call of an attempt may be silent."""

    def worker_lost(self, provider: str, pool: str) -> None:
        """A worker's link broke or fell silent."""


class _Session:
    """A granted attempt on a link."""

    __slots__ = ("attempt", "exchange", "link", "number")

    def __init__(self, link: Link, number: int, exchange: Exchange, attempt: Attempt) -> None:
        self.link = link
        self.number = number
        self.exchange = exchange
        self.attempt = attempt

    @property
    def worker(self) -> str:
        return self.link.worker

    def kill(self, reason: str) -> None:
        self.link.sessions.pop(self.number, None)
        self.link.send(pb.Control(session=self.number, kill=pb.Kill(reason=reason)))

    def credit(self, size: int) -> None:
        self.link.send(pb.Control(session=self.number, credit_bytes=size))


class Link:
    """One worker's stream to this edge."""

    def __init__(self, desk: Desk, hello: pb.Hello) -> None:
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._outgoing: list[pb.Control] = []
        self._wake = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None
        self.worker = hello.worker
        self.provider = hello.provider
        self.pool = hello.pool
        self.sessions: dict[int, _Session] = {}
        self.heard = self._loop.time()
        self.gauges = pb.WorkerGauges()
        # It said goodbye: what it had was handed back.
        self.leaving = False

    def send(self, control: pb.Control) -> None:
        """Queue a control for the writer; with many sessions it waits a little for company."""
        self._outgoing.append(control)
        count = len(self.sessions)
        if count <= BUSY_SESSIONS:
            self._wake.set()
        elif self._tick is None:
            delay = min(TICK_S * count, MAX_TICK_S)
            self._tick = self._loop.call_later(delay, self._wake.set)

    def heartbeat(self) -> None:
        """Say something, even if there is nothing to say."""
        self._wake.set()

    async def write(self, context: _Context) -> None:
        """The one writer: everything that is ready goes out as one message."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._tick is not None:
                self._tick.cancel()
                self._tick = None
            controls, self._outgoing = self._outgoing, []
            await context.write(pb.DeliverResponse(controls=controls))

    def received(self, message: pb.DeliverRequest) -> None:
        """Route the frames of one message. Never waits."""
        self.heard = self._loop.time()
        self.leaving = message.leaving
        if message.HasField("gauges"):
            self.gauges = message.gauges
        for frame in message.frames:
            number = frame.session
            match frame.WhichOneof("payload"):
                case "events":
                    session = self.sessions.get(number)
                    if session is None:
                        self._refuse(number, "unknown")
                        continue
                    events = frame.events.events
                    session.exchange.on_events(session.attempt, events, frame.ByteSize())
                    if session.attempt.session is not session:
                        self.sessions.pop(number, None)
                case "claim":
                    self._claim(number, frame.claim)
                case "hand_back":
                    session = self.sessions.pop(number, None)
                    if session is not None:
                        session.exchange.handed_back(session.attempt)

    def lose(self) -> None:
        """The worker is gone or silent: its sessions are lost, later frames of them are refused."""
        sessions, self.sessions = self.sessions, {}
        for session in sessions.values():
            session.exchange.lost(session.attempt)

    def _claim(self, number: int, claim: pb.Claim) -> None:
        """Grant one session per (request, attempt), and only the current one (R1)."""
        exchange = self._desk.exchanges.get(claim.request_id)
        attempt = exchange.current(claim.attempt) if exchange is not None else None
        if exchange is None:
            self._refuse(number, "unknown")
        elif attempt is None or attempt.session is not None:
            self._refuse(number, "superseded")
        elif not hmac.compare_digest(attempt.secret, claim.secret):
            _log.warning("claim with a wrong secret from %s", self.worker)
            self._refuse(number, "refused")
        else:
            session = self.sessions[number] = _Session(self, number, exchange, attempt)
            exchange.granted(attempt, session, alone=claim.alone)
            grant = pb.Grant(
                remaining_ms=exchange.remaining_ms(),
                credit_bytes=CREDIT_BYTES,
                limits=self._desk.limits(exchange, attempt),
                credential=exchange.provider_keys.get(attempt.target.provider, ""),
            )
            self.send(pb.Control(session=number, grant=grant))

    def _refuse(self, number: int, reason: str) -> None:
        self.send(pb.Control(session=number, kill=pb.Kill(reason=reason)))


class DeliveryServer(pb_grpc.DeliveryServiceServicer):
    """Accepts workers that know the fleet token (R20)."""

    def __init__(self, desk: Desk, fleet_token: str) -> None:
        self._desk = desk
        self._token = fleet_token
        self._beside: list[Callable[[grpc.aio.Server], object]] = []
        self._server: grpc.aio.Server | None = None
        self.links: set[Link] = set()

    def serve_beside(self, add: Callable[[grpc.aio.Server], object]) -> None:
        """Have `add` put another service on this port, before it is listened on."""
        self._beside.append(add)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises `OSError` when it is taken."""
        self._server = grpc.aio.server(options=OPTIONS)
        pb_grpc.add_DeliveryServiceServicer_to_server(self, self._server)
        for add in self._beside:
            add(self._server)
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as exc:
            raise OSError(f"cannot listen on {host}:{port} for workers: {exc}") from exc
        await self._server.start()
        return bound

    async def close(self) -> None:
        """Close every link at once: the engine has drained before."""
        if self._server is not None:
            await self._server.stop(0)

    def check(self) -> None:
        """Heartbeat, and declare silent links lost; called every second."""
        now = asyncio.get_running_loop().time()
        for link in self.links:
            link.heartbeat()
            if link.sessions and now - link.heard > SILENCE_S:
                _log.warning("worker %s is silent; its requests run elsewhere", link.worker)
                link.lose()
                self._desk.worker_lost(link.provider, link.pool)

    async def Deliver(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.DeliverRequest],
        context: _Context,
    ) -> None:
        """One worker, for as long as it lives."""
        await authenticate(context, self._token)
        # A worker waits for this: had it written to a call that is refused, it would not learn why.
        await context.write(pb.DeliverResponse())
        first = await context.read()
        if not isinstance(first, pb.DeliverRequest) or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message has no hello")
        link = Link(self._desk, first.hello)
        self.links.add(link)
        writer = asyncio.create_task(link.write(context), name=f"link {link.worker}")
        try:
            link.received(first)
            while True:
                message = await context.read()
                if not isinstance(message, pb.DeliverRequest):
                    break
                link.received(message)
        finally:
            self.links.discard(link)
            writer.cancel()
            if link.sessions:
                _log.warning("lost worker %s with %d requests", link.worker, len(link.sessions))
            link.lose()
            if not link.leaving:
                self._desk.worker_lost(link.provider, link.pool)

    async def FetchBody(  # noqa: N802
        self,
        request: pb.FetchBodyRequest,
        context: _Context,
    ) -> AsyncIterator[pb.FetchBodyResponse]:
        """The body of a large job, or a file that came with it, in pieces (R10)."""
        await authenticate(context, self._token)
        exchange = self._desk.exchanges.get(request.request_id)
        attempt = exchange.current(request.attempt) if exchange is not None else None
        if (
            exchange is None
            or attempt is None
            or not hmac.compare_digest(attempt.secret, request.secret)
        ):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such attempt")
        content: bytes | memoryview = exchange.raw
        if request.HasField("attachment"):
            if not 0 <= request.attachment < len(exchange.attachments):
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such attachment")
            content = exchange.attachments[request.attachment]
        raw = memoryview(content)
        for start in range(0, len(raw), _PIECE):
            if not exchange.wants(attempt):
                await context.abort(grpc.StatusCode.NOT_FOUND, "the attempt is over")
            yield pb.FetchBodyResponse(data=bytes(raw[start : start + _PIECE]))


async def authenticate(context: grpc.aio.ServicerContext[Any, Any], fleet_token: str) -> None:
    """End the call of a peer that does not know the fleet token (R20)."""
    metadata = dict(context.invocation_metadata() or ())
    shown = str(metadata.get("authorization", ""))
    if not hmac.compare_digest(shown.encode(), f"Bearer {fleet_token}".encode()):
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong fleet token")
