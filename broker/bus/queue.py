"""The work queue's two ends: publish with the PubAck as a callback, and a standing pull.

Plain publish and subscribe, no `fetch`: one request per job at each end is what the budget
allows, and `publish_async` never resolves on a server error (nats.py #985).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from broker.bus.connection import Bus

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


_decode_ack = msgspec.json.Decoder(PubAck).decode
_UNAVAILABLE = PubAck(unavailable=True)

STREAM_FULL = 10077
TOO_LARGE = 10054


class Publisher:
    """Publishes into streams; each message gets one outcome: PubAck, error or `unavailable`."""

    def __init__(self, bus: Bus, *, timeout_s: float = 1.0) -> None:
        self._bus = bus
        self._timeout = timeout_s
        self._waiting: dict[str, tuple[float, Callable[[PubAck], None]]] = {}
        self._count = 0
        self._prefix = ""
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Subscribe to the answers."""
        self._prefix = self._bus.nc.new_inbox()
        self._skip = len(self._prefix) + 1
        await self._bus.nc.subscribe(f"{self._prefix}.*", cb=self._answered)
        self._sweeper = asyncio.create_task(self._sweep(), name="pubacks")

    async def send(
        self, subject: str, payload: bytes, on_ack: Callable[[PubAck], None], **headers: str
    ) -> None:
        """Publish; `on_ack` is called later, never from within. Header names have `_` for `-`."""
        if self._closed:
            asyncio.get_running_loop().call_soon(on_ack, _UNAVAILABLE)
            return
        self._count += 1
        token = f"{self._count:x}"
        self._waiting[token] = (asyncio.get_running_loop().time() + self._timeout, on_ack)
        try:
            await self._bus.nc.publish(
                subject,
                payload,
                reply=f"{self._prefix}.{token}",
                headers={k.replace("_", "-"): v for k, v in headers.items()},
            )
        except MaxPayloadError as exc:
            self._settle(token, PubAck(error=ApiError(TOO_LARGE, TOO_LARGE, str(exc))))
        except NatsError as exc:
            _log.warning("publish to %s failed: %s", subject, exc)
            self._settle(token, _UNAVAILABLE)

    async def request(self, subject: str, payload: bytes, **headers: str) -> PubAck:
        """Publish and wait for the answer."""
        future: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()

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
        token = msg.subject[self._skip :]
        if not msg.data:  # no responders: no stream listens to this subject, or it has no leader
            self._settle(token, _UNAVAILABLE)
            return
        try:
            ack = _decode_ack(msg.data)
        except msgspec.DecodeError:
            ack = PubAck(error=ApiError(description="unreadable PubAck"))
        self._settle(token, ack)

    def _settle(self, token: str, ack: PubAck) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            asyncio.get_running_loop().call_soon(waiting[1], ack)

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


@dataclass(slots=True)
class _Pull:
    credits: int
    seen: float


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


ACK = b"+ACK"
IN_PROGRESS = b"+WPI"


def nak(delay_s: float) -> bytes:
    """The answer that hands a job back, to come again after `delay_s`."""
    return b'-NAK {"delay": %d}' % int(delay_s * 1e9)


class Puller:
    """A standing pull on one consumer: `pull(n)` asks for n more, `on_message` gets each.

    Recovers by itself from reconnects, leader changes and lost requests: each pull asks for idle
    heartbeats, and a pull that has not been heard of for two of them is given up.
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
        # Called when credits came back unused: the owner may want to pull again.
        self._on_credit = on_credit
        self._expires = 30.0
        self._heartbeat = 5.0
        self._pulls: dict[str, _Pull] = {}
        self._count = 0
        self._watcher: asyncio.Task[None] | None = None
        self._subscription: Any = None
        self.credits = 0

    async def start(self) -> None:
        """Subscribe to the inbox that deliveries come to."""
        self._inbox = self._bus.nc.new_inbox()
        self._subscription = await self._bus.nc.subscribe(f"{self._inbox}.*", cb=self._received)
        self._watcher = asyncio.create_task(self._watch(), name=f"pull {self._subject}")
        self._bus.on_reconnect(self._forget_all)

    async def pull(self, batch: int) -> None:
        """Ask for up to `batch` more messages."""
        self._count += 1
        token = str(self._count)
        self._pulls[token] = _Pull(batch, asyncio.get_running_loop().time())
        self.credits += batch
        body = msgspec.json.encode(
            {
                "batch": batch,
                "expires": int(self._expires * 1e9),
                "idle_heartbeat": int(self._heartbeat * 1e9),
            }
        )
        try:
            await self._bus.nc.publish(self._subject, body, reply=f"{self._inbox}.{token}")
        except NatsError as exc:
            _log.warning("pull failed: %s", exc)
            self._later(token)

    async def close(self) -> None:
        """Stop watching. Deliveries that still arrive go to `on_message`, to be handed back."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def unsubscribe(self) -> None:
        """Leave: what the server still delivers stays in the queue."""
        if self._subscription is not None and not self._bus.nc.is_closed:
            await self._subscription.unsubscribe()

    async def _received(self, msg: Msg) -> None:
        status = msg.headers.get("Status") if msg.headers and not msg.data else None
        if status is None:
            # A delivery carries its stored subject, not our token: charge the oldest pull.
            for token, pull in self._pulls.items():
                pull.credits -= 1
                pull.seen = asyncio.get_running_loop().time()
                self.credits -= 1
                if pull.credits <= 0:
                    del self._pulls[token]
                break
            self._on_message(Delivery(msg.subject, msg.data, msg.reply))
            return
        token = msg.subject.rpartition(".")[2]
        if status == "100":
            if token in self._pulls:
                self._pulls[token].seen = asyncio.get_running_loop().time()
        elif status in {"503", "409"}:
            # No leader or consumer gone: at once would be a hot loop (measured 4,700 pulls/s).
            self._later(token)
        else:
            self._forget(token)
            self._on_credit()

    def _later(self, token: str) -> None:
        def again() -> None:
            self._forget(token)
            self._on_credit()

        asyncio.get_running_loop().call_later(0.25, again)

    def _forget(self, token: str) -> None:
        pull = self._pulls.pop(token, None)
        if pull is not None:
            self.credits -= pull.credits

    def _forget_all(self) -> None:
        for token in list(self._pulls):
            self._forget(token)
        self._on_credit()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            limit = asyncio.get_running_loop().time() - 2.2 * self._heartbeat
            stale = [token for token, pull in self._pulls.items() if pull.seen < limit]
            for token in stale:
                self._forget(token)
            if stale:
                self._on_credit()
