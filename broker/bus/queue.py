"""The work queue's two ends: publish with the PubAck as a callback, and a standing pull.

Plain publish and subscribe, no `fetch`: one request per job at each end is what the budget
allows, and `publish_async` never resolves on a server error (nats.py #985).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from broker.bus.clock import Clock
from broker.bus.connection import Bus
from broker.tasks import Tasks, Work, keep

_log = logging.getLogger(__name__)


class ApiError(msgspec.Struct):
    """An error of the JetStream API."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """What the stream answered. `unavailable`: no stream answered, or none in time."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None
    unavailable: bool = False


decode_ack = msgspec.json.Decoder(PubAck).decode
# No token of a message is that.
_PROBE = "probe"
_UNAVAILABLE = PubAck(unavailable=True)

STREAM_FULL = 10077
TOO_LARGE = 10054
# "Wrong last sequence", of the stream and of a subject: somebody else wrote first.
WRONG_LAST = frozenset({10071, 10164})
# The version line and the empty line around header lines.
_HEADER_FRAME = 14


class Publisher:
    """Publishes into streams; each message gets one outcome: PubAck, error or `unavailable`."""

    def __init__(self, bus: Bus, *, timeout_s: float = 1.0) -> None:
        self._bus = bus
        self.clock = Clock(bus)
        self._timeout = timeout_s
        self._waiting: dict[str, tuple[float, Callable[[PubAck], None]]] = {}
        self._count = 0
        self._prefix = ""
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False
        # Since when answers are missing, 0 = they are not.
        self._doubts = 0.0

    async def start(self) -> None:
        """Subscribe to the answers."""
        # Asked for each time, it costs a system call (in Python 3.11).
        self._loop = asyncio.get_running_loop()
        self._prefix = self._bus.nc.new_inbox()
        self._skip = len(self._prefix) + 1
        await self._bus.nc.subscribe(f"{self._prefix}.*", cb=self._answered)
        self._sweeper = keep(self._sweep, "pubacks")

    async def send(
        self, subject: str, payload: bytes, on_ack: Callable[[PubAck], None], **headers: str
    ) -> None:
        """Publish; `on_ack` is called later, never from within. Header names have `_` for `-`."""
        if self._closed:
            self._loop.call_soon(on_ack, _UNAVAILABLE)
            return
        self._count += 1
        token = f"{self._count:x}"
        self._waiting[token] = (self._loop.time() + self._timeout, on_ack)
        reply = f"{self._prefix}.{token}"
        lines = "".join(
            [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        )
        if len(lines) + len(payload) > self._bus.nc.max_payload - _HEADER_FRAME:
            # The client counts the payload alone, and the server hangs up on what is too large.
            why = "larger than NATS takes"
            self._settle(token, PubAck(error=ApiError(TOO_LARGE, TOO_LARGE, why)))
            return
        if lines.count("\n") == len(headers) and self._bus.post(
            subject, payload, reply=reply, headers=lines
        ):
            return
        try:
            await self._bus.nc.publish(
                subject,
                payload,
                reply=reply,
                headers={name.replace("_", "-"): value for name, value in headers.items()},
            )
        except NatsError as exc:
            _log.warning("publish to %s failed: %s", subject, exc)
            self._settle(token, _UNAVAILABLE)

    async def request(self, subject: str, payload: bytes, **headers: str) -> PubAck:
        """Publish and wait for the answer."""
        future: asyncio.Future[PubAck] = self._loop.create_future()

        def done(ack: PubAck) -> None:
            if not future.done():
                future.set_result(ack)

        await self.send(subject, payload, done, **headers)
        return await future

    async def close(self) -> None:
        """Stop; whoever still waits, or sends later, is told `unavailable`."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for token in list(self._waiting):
            self._settle(token, _UNAVAILABLE)

    async def _answered(self, msg: Msg) -> None:
        if self._doubts or self._bus.silent:
            self._doubts = 0.0
            self._bus.silent = False
        token = msg.subject[self._skip :]
        if not msg.data:  # no responders: no stream listens to this subject, or it has no leader
            self._settle(token, _UNAVAILABLE)
            return
        try:
            ack = decode_ack(msg.data)
        except msgspec.DecodeError:
            ack = PubAck(error=ApiError(description="unreadable PubAck"))
        self._settle(token, ack)

    def _settle(self, token: str, ack: PubAck) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            self._loop.call_soon(waiting[1], ack)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeout / 4)
            now = loop.time()
            # Insertion order is time order.
            overdue = []
            for token, (limit, _) in self._waiting.items():
                if limit > now:
                    break
                overdue.append(token)
            for token in overdue:
                self._settle(token, _UNAVAILABLE)
            if overdue or self._doubts:
                self._doubt(now)

    def _doubt(self, now: float) -> None:
        """Ask whether anything comes through at all: by a message to ourselves."""
        self._doubts = self._doubts or now
        if now - self._doubts > self._timeout:
            self._bus.silent = True
        self._bus.post(f"{self._prefix}.{_PROBE}", b"?")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivered message and how to settle it."""

    subject: str
    data: bytes
    reply: str

    @property
    def deliveries(self) -> int:
        """How many times it was delivered, this time included."""
        parts = self.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<deliveries>... ; a domain and an account hash come before.
        return int(parts[6] if len(parts) > 9 else parts[4])


# Pulls of one puller that may stand at a time.
_MAX_PULLS = 8
_LEAVE_S = 2.0

ACK = b"+ACK"
IN_PROGRESS = b"+WPI"


def nak(delay_s: float) -> bytes:
    """The answer that hands a job back, to come again after `delay_s`."""
    return b'-NAK {"delay": %d}' % int(delay_s * 1e9)


class _Inbox:
    """Where the messages of one pull at a time arrive.

    The server serves standing pulls in turns, and a delivery does not say whose it is: charged to
    the wrong one, credits are counted that the server no longer has, or has besides.
    """

    __slots__ = ("credits", "seen", "serial", "subject", "subscription")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.subscription: Subscription | None = None
        self.serial = 0
        self.credits = 0
        self.seen = 0.0


class Puller:
    """A standing pull on one consumer: `pull(n)` asks for n more, `on_message` gets each.

    Recovers by itself from reconnects, leader changes and lost requests: each pull asks for idle
    heartbeats, and a pull that has not been heard of for two of them is given up. `on_credit` is
    called when credits came back unused or a pull can be made again: its owner may want to pull.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        on_message: Callable[[Delivery], None],
        on_credit: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._on_message = on_message
        self._on_credit = on_credit
        self._expires = 30.0
        self._heartbeat = 5.0
        self._inboxes: list[_Inbox] = []
        self._serial = 0
        # Somebody wanted to pull when it was not possible.
        self._wanted = False
        # Inboxes of a broken connection are being left: what they still get is not known yet.
        self._leaving = 0
        self._closed = False
        self._tasks = Tasks()
        self._watcher: asyncio.Task[None] | None = None
        self._unheard: Callable[[], object] = lambda: None
        self.credits = 0

    async def start(self) -> None:
        """Begin to watch over pulls."""
        self._unheard = self._bus.on_reconnect(self._start_over)
        self._watcher = keep(self._watch, f"pull {self._subject}")

    def pull(self, batch: int) -> None:
        """Ask for up to `batch` more messages, or call `on_credit` once that is possible."""
        inbox = self._free_inbox()
        if inbox is None:
            self._wanted = True
            return
        self._serial += 1
        inbox.serial = self._serial
        inbox.credits = batch
        inbox.seen = asyncio.get_running_loop().time()
        self.credits += batch
        self._spawn(self._ask(inbox, batch))

    async def close(self) -> None:
        """Leave: nothing is pulled any more, and all that was delivered went to `on_message`."""
        self._closed = True
        self._unheard()
        if self._watcher is not None:
            self._watcher.cancel()
        inboxes, self._inboxes = self._inboxes, []
        for inbox in inboxes:
            self._spawn(self._leave(inbox))
        await self._tasks.close(2 * _LEAVE_S)

    def _free_inbox(self) -> _Inbox | None:
        if self._closed or self._leaving or not self._bus.connected:
            return None
        for inbox in self._inboxes:
            if not inbox.credits:
                return inbox
        if len(self._inboxes) >= _MAX_PULLS:
            return None
        inbox = _Inbox(self._bus.nc.new_inbox())
        self._inboxes.append(inbox)
        return inbox

    async def _ask(self, inbox: _Inbox, batch: int) -> None:
        body = msgspec.json.encode(
            {
                "batch": batch,
                "expires": int(self._expires * 1e9),
                "idle_heartbeat": int(self._heartbeat * 1e9),
            }
        )
        reply = f"{inbox.subject}.{inbox.serial}"
        try:
            if inbox.subscription is None:
                received = partial(self._received, inbox)
                inbox.subscription = await self._bus.nc.subscribe(f"{inbox.subject}.*", cb=received)
                if not inbox.credits:  # given up meanwhile
                    await self._leave(inbox)
                    return
            await self._bus.nc.publish(self._subject, body, reply=reply)
        except NatsError as exc:
            _log.warning("pull failed: %s", exc)
            self._later(inbox)

    async def _received(self, inbox: _Inbox, msg: Msg) -> None:
        status = msg.headers.get("Status") if msg.headers and not msg.data else None
        if status is None:
            if inbox.credits:
                inbox.credits -= 1
                self.credits -= 1
                inbox.seen = asyncio.get_running_loop().time()
            self._on_message(Delivery(msg.subject, msg.data, msg.reply))
            if self._wanted and not inbox.credits:
                self._unused()
            return
        if msg.subject.rpartition(".")[2] != str(inbox.serial):
            return  # of an earlier pull
        if status == "100":
            inbox.seen = asyncio.get_running_loop().time()
        elif status in {"503", "409"}:
            # No leader or consumer gone: at once would be a hot loop (measured 4,700 pulls/s).
            self._later(inbox)
        else:
            self._forget(inbox)
            self._unused()

    def _later(self, inbox: _Inbox) -> None:
        serial = inbox.serial

        def again() -> None:
            if inbox.serial == serial:
                self._forget(inbox)
                self._unused()

        asyncio.get_running_loop().call_later(0.25, again)

    def _forget(self, inbox: _Inbox) -> None:
        self.credits -= inbox.credits
        inbox.credits = 0

    def _unused(self) -> None:
        self._wanted = False
        if not self._closed:
            self._on_credit()

    def _start_over(self) -> None:
        """Reconnected: the server may have kept our pulls, or may be another one."""
        inboxes, self._inboxes = self._inboxes, []
        for inbox in inboxes:
            self._forget(inbox)
        self._leaving += 1
        self._spawn(self._leave_all(inboxes))

    async def _leave_all(self, inboxes: list[_Inbox]) -> None:
        try:
            await asyncio.gather(*(self._leave(inbox) for inbox in inboxes))
        finally:
            self._leaving -= 1
        self._unused()

    async def _leave(self, inbox: _Inbox) -> None:
        """Unsubscribe, which ends the pull, and take what was delivered before the server knew."""
        self._forget(inbox)
        subscription, inbox.subscription = inbox.subscription, None
        if subscription is None:
            return
        try:
            async with asyncio.timeout(_LEAVE_S):
                await subscription.drain()  # type: ignore[no-untyped-call]
        except (NatsError, TimeoutError, OSError, RuntimeError) as exc:
            _log.debug("an inbox was left in haste: %s", exc)
            # Else it would be subscribed again after a reconnect.
            self._bus.nc._remove_sub(subscription._id)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            limit = asyncio.get_running_loop().time() - 2.2 * self._heartbeat
            stale = [inbox for inbox in self._inboxes if inbox.credits and inbox.seen < limit]
            for inbox in stale:
                # Left, not used again: should its pull be alive, it ends now.
                self._inboxes.remove(inbox)
                self._spawn(self._leave(inbox))
                self._forget(inbox)
            if stale:
                self._unused()

    def _spawn(self, work: Work) -> None:
        self._tasks.spawn(work, f"pull {self._subject}")
