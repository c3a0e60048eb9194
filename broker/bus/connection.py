"""One connection to NATS, with the settings that measurements asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import BucketNotFoundError, ServiceUnavailableError
from nats.js.kv import KeyValue

from broker.bus import lean

if TYPE_CHECKING:
    from broker.config import NatsSettings

_log = logging.getLogger(__name__)

# Streams with message TTL, counters and schedules: servers before this ignore them silently.
NEEDED_API_LEVEL = 4
# Beyond this many bytes the client itself is left to wait for the server.
_MAX_UNFLUSHED = 1 << 20
# How long the broker process may take to lay out the bus.
PATIENCE_S = 15.0
DEFAULT_URL = "nats://127.0.0.1:4222"


class BusError(Exception):
    """NATS cannot be used; the message says what to do."""


class _Client(Client):
    """The client without its way of failing between a connection's end and the news of it."""

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        try:
            return await super()._flush_pending(force_flush)
        except (OSError, RuntimeError):
            # RuntimeError is uvloop's word for writing to a transport that is closed. As after the
            # news: what is pending waits for the reconnect, and who waits for an answer times out.
            return None


class Bus:
    """A connection, and who wants to know when it comes back."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream(timeout=5)
        self._on_reconnect: dict[object, Callable[[], None]] = {}
        self._buckets: dict[str, KeyValue] = {}
        self.closing = False
        # The connection is open and nothing comes through; publishers find out (`Publisher`).
        self.silent = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self.nc.is_connected

    @property
    def answers(self) -> bool:
        """Whether the server can be reached, as far as is known."""
        return self.nc.is_connected and not self.silent

    def post(self, subject: str, payload: bytes, *, reply: str = "", headers: str = "") -> bool:
        """Publish now; `headers` are lines that end in CRLF.

        What `nc.publish` does for a connection in good order, at 60 % of its price: no coroutines,
        and no patterns over headers of our own. False when the rest of what it knows is needed.
        """
        nc = self.nc
        flusher, kicks = nc._flusher_task, nc._flush_queue
        if (
            flusher is None
            or flusher.done()
            or kicks is None
            or not nc.is_connected
            or nc.is_draining_pubs
            or nc._pending_data_size > _MAX_UNFLUSHED
            or len(payload) > nc.max_payload
        ):
            return False
        route = f"{subject} {reply}" if reply else subject
        if headers:
            head = f"NATS/1.0\r\n{headers}\r\n".encode()
            line = f"HPUB {route} {len(head)} {len(head) + len(payload)}\r\n".encode()
            command = b"".join((line, head, payload, b"\r\n"))
        else:
            command = b"PUB %b %d\r\n%b\r\n" % (route.encode(), len(payload), payload)
        nc._pending.append(command)
        nc._pending_data_size += len(command)
        nc.stats["out_msgs"] += 1
        nc.stats["out_bytes"] += len(payload)
        if kicks.empty():
            kicks.put_nowait(flusher.get_loop().create_future())
        return True

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], object]:
        """Call `callback` after every reconnect: ephemeral consumers are gone by then.

        Returns what ends that. Who does not outlive the connection has to, or is kept with it.
        """
        place = object()
        self._on_reconnect[place] = callback
        return partial(self._on_reconnect.pop, place, None)

    async def kv(self, bucket: str) -> KeyValue:
        """The bucket; waits up to 15 s for the broker process to create it. Raises `BusError`."""
        known = self._buckets.get(bucket)
        if known is not None:
            return known
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            why = "is a broker process running?"
            try:
                self._buckets[bucket] = await self.js.key_value(bucket)
                return self._buckets[bucket]
            except BucketNotFoundError:
                pass
            except (NatsError, TimeoutError) as exc:
                why = str(exc)
            if asyncio.get_running_loop().time() > deadline:
                raise BusError(f"bucket {bucket!r} cannot be used: {why}")
            await asyncio.sleep(0.25)

    async def check_server(self) -> int:
        """JetStream API level of the server; raises `BusError` when it is too old (below 4)."""
        try:
            info = await self.js.account_info()
        except ServiceUnavailableError as exc:
            raise BusError("NATS runs without JetStream; start nats-server with -js") from exc
        except (NatsError, TimeoutError) as exc:
            raise BusError(f"NATS does not answer: {exc}; check MILLRACE_NATS") from exc
        level = getattr(info.api, "level", None) or 0
        if level < NEEDED_API_LEVEL:
            version = self.nc._server_info.get("version", "unknown")
            raise BusError(
                f"nats-server {version} is too old (JetStream API level {level}, "
                f"needed {NEEDED_API_LEVEL}); use nats-server 2.12 or newer"
            )
        return level

    async def close(self) -> None:
        """Flush what is pending and leave; never raises."""
        self.closing = True
        if self.nc.is_closed:
            return
        # RuntimeError: uvloop's word for writing to a transport that is closing.
        with contextlib.suppress(NatsError, TimeoutError, OSError, RuntimeError):
            await asyncio.wait_for(self.nc.flush(), 2)
        with contextlib.suppress(NatsError, OSError, RuntimeError):
            await self.nc.close()

    def _reconnected(self) -> None:
        for callback in list(self._on_reconnect.values()):
            try:
                callback()
            except Exception:  # noqa: BLE001 - one's trouble is not to keep the news from others
                _log.exception("after a reconnect")


async def connect(settings: NatsSettings, *, name: str, patience_s: float = 10.0) -> Bus:
    """Connect as `name`; tries for `patience_s`, then raises `BusError` saying what to check."""
    holder: list[Bus] = []

    async def reconnected() -> None:
        _log.info("reconnected to NATS")
        for bus in holder:
            bus._reconnected()

    async def disconnected() -> None:
        if any(not bus.closing for bus in holder):
            _log.warning("lost the connection to NATS; reconnecting")

    error_seen: list[Exception] = []

    async def error(exc: Exception) -> None:
        if not holder:
            error_seen[:] = [exc]
        if any(not bus.closing for bus in holder):
            # Each of ten attempts a second to reconnect fails; that it was lost has been said.
            level = logging.WARNING if nc.is_connected else logging.DEBUG
            _log.log(level, "NATS: %s", exc or type(exc).__name__)

    if (settings.url or "").startswith(("ws://", "wss://")):
        lean.use_websockets()
    nc = _Client()
    try:
        # With endless reconnects the client would try for ever inside its first connect, too.
        async with asyncio.timeout(patience_s):
            await nc.connect(
                **_options(settings, name),
                reconnected_cb=reconnected,
                disconnected_cb=disconnected,
                error_cb=error,
            )
    except (NatsError, OSError, TimeoutError) as exc:
        why = error_seen[-1] if error_seen else exc
        await _quietly(nc.close)
        raise BusError(
            f"cannot reach NATS at {_where(settings)}: {why or type(why).__name__}; "
            "check MILLRACE_NATS and that nats-server runs"
        ) from exc
    bus = Bus(nc)
    holder.append(bus)
    return bus


def _options(settings: NatsSettings, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "servers": settings.servers or [DEFAULT_URL],
        "name": name,
        "allow_reconnect": True,
        # The client's default gives up for good after 60 tries of 2 s.
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "connect_timeout": 2,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "inbox_prefix": f"_INBOX.{name.split('-', maxsplit=1)[0]}".encode(),
        "skip_subject_validation": True,
    }
    for field in ("user", "password", "token"):
        if value := getattr(settings, field, None):
            options[field] = value
    if settings.nkey_seed:
        options["nkeys_seed"] = str(settings.nkey_seed)
    if settings.creds:
        options["user_credentials"] = str(settings.creds)
    if settings.tls_ca or settings.tls_cert:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
        options["tls"] = context
    return options


def _where(settings: NatsSettings) -> str:
    """The addresses, without credentials."""
    return ", ".join(url.rpartition("@")[2] for url in settings.servers or [DEFAULT_URL])


async def _quietly(close: Callable[[], Awaitable[None]]) -> None:
    try:
        await close()
    except (NatsError, OSError):
        _log.debug("closing a broken connection failed")
