"""API keys in the bucket `keys`: digest of the secret -> record. The secret itself is never kept.

Every edge reads a key once when it first sees it and follows changes from then on, so revoking
takes effect everywhere within milliseconds, and within `CHECK_S` if a change was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from broker import keys, subjects
from broker.bus.connection import Bus, BusError
from broker.bus.steady import mapped
from broker.keys import KeyRecord

_log = logging.getLogger(__name__)

# How often a follower asks whether it missed a change, in seconds.
CHECK_S = 30.0

Changed = Callable[[str, KeyRecord | None], None]
# Digest, record, revision.
_Entry = tuple[str, KeyRecord, int]
_Entries = list[_Entry]


class UnknownKeyError(Exception):
    """No API key has this id."""


class Keyring:
    """Creates, finds, lists and revokes API keys. All methods raise `BusError` without NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def create(
        self, name: str, tenant: str = keys.DEFAULT_TENANT, *, weight: int = 1
    ) -> tuple[str, KeyRecord]:
        """Make a key; the secret is returned here and nowhere again."""
        secret = keys.generate(secrets.token_bytes(keys.RANDOM_BYTES))
        return secret, await self.add(secret, name, tenant, weight=weight)

    async def add(
        self, secret: str, name: str, tenant: str = keys.DEFAULT_TENANT, *, weight: int = 1
    ) -> KeyRecord:
        """Make a chosen secret a key; one that exists is returned as it is, revoked or not."""
        digest = keys.digest(secret)
        record = KeyRecord(
            id=keys.identifier(digest),
            name=name,
            tenant=tenant,
            weight=weight,
            created_at=datetime.now(UTC).timestamp(),
        )
        with mapped("create an API key"):
            bucket = await self._bus.kv(subjects.KEYS)
            try:
                await bucket.create(digest, keys.encode(record))
            except KeyWrongLastSequenceError:
                return keys.decode((await bucket.get(digest)).value or b"")
        return record

    async def get(self, digest: str) -> KeyRecord | None:
        """The record of this digest, by one direct read; revoked ones too."""
        with mapped("read an API key"):
            bucket = await self._bus.kv(subjects.KEYS)
            try:
                return _record(await bucket.get(digest))
            except KeyNotFoundError:
                return None

    async def list(self) -> list[KeyRecord]:
        """All records, oldest first, revoked ones too."""
        found = [record for _, record, _ in await self._all()]
        return sorted(found, key=lambda record: (record.created_at, record.id))

    async def revoke(self, key_id: str) -> KeyRecord:
        """Make a key useless for ever; raises `UnknownKeyError`."""
        digest, record, revision = await self._find(key_id)
        if record.revoked:
            return record
        now = datetime.now(UTC).timestamp()
        revoked = msgspec.structs.replace(record, revoked=True, revoked_at=now, provider_keys={})
        return await self._update(digest, revoked, revision)

    async def find(self, key_id: str) -> KeyRecord:
        """The record with this id; raises `UnknownKeyError`."""
        return (await self._find(key_id))[1]

    async def set_provider_key(self, key_id: str, provider: str, stored: str | None) -> KeyRecord:
        """Keep an encrypted provider key with an API key, None for none any more.

        Raises `UnknownKeyError`.
        """
        digest, record, revision = await self._find(key_id)
        kept = {name: text for name, text in record.provider_keys.items() if name != provider}
        if stored is not None:
            kept[provider] = stored
        changed = msgspec.structs.replace(record, provider_keys=kept)
        return await self._update(digest, changed, revision)

    async def _find(self, key_id: str) -> _Entry:
        for entry in await self._all():
            if entry[1].id == key_id:
                return entry
        raise UnknownKeyError(f"no API key has the id {key_id!r}; see: millrace key list")

    async def _update(self, digest: str, record: KeyRecord, revision: int) -> KeyRecord:
        """Replace a record, unless somebody else did meanwhile."""
        with mapped("change an API key"):
            bucket = await self._bus.kv(subjects.KEYS)
            await bucket.update(digest, keys.encode(record), last=revision)
        return record

    async def watch(self, callback: Changed) -> None:
        """Report every key now, and every change from now on, until cancelled; never raises.

        `callback(digest, record)` must not block; a record None means the key was deleted. After
        a reconnect all keys are reported again, since changes may have been missed meanwhile.
        """
        reconnected = asyncio.Event()
        unheard = self._bus.on_reconnect(reconnected.set)
        try:
            while True:
                reconnected.clear()
                try:
                    await self._follow(callback, reconnected)
                except (BusError, NatsError, OSError) as exc:
                    _log.warning("lost track of API key changes, starting again: %s", exc)
                    await asyncio.sleep(0.5)
        finally:
            unheard()

    async def _follow(self, callback: Changed, reconnected: asyncio.Event) -> None:
        """Report until there is a reason to start over with a new watcher."""
        bucket = await self._bus.kv(subjects.KEYS)
        watcher: Any = await bucket.watchall()
        seen = 0
        loop = asyncio.get_running_loop()
        check_at = loop.time() + CHECK_S
        over = asyncio.ensure_future(reconnected.wait())
        update = asyncio.ensure_future(watcher.__anext__())
        try:
            while not reconnected.is_set():
                await asyncio.wait(
                    {over, update},
                    timeout=check_at - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if update.done():
                    entry = update.result()
                    update = asyncio.ensure_future(watcher.__anext__())
                    if entry is not None:
                        seen = max(seen, entry.revision or 0)
                        callback(entry.key, _record(entry))
                elif loop.time() >= check_at:
                    if (await bucket.status()).stream_info.state.last_seq > seen:
                        return
                    check_at = loop.time() + CHECK_S
        finally:
            over.cancel()
            update.cancel()
            with contextlib.suppress(NatsError, OSError):
                await watcher.stop()

    async def _all(self) -> _Entries:
        """Every digest with its record and revision."""
        found: _Entries = []
        with mapped("list API keys"):
            bucket = await self._bus.kv(subjects.KEYS)
            watcher: Any = await bucket.watchall()
            try:
                # The first None says that everything stored so far has been seen.
                while (entry := await watcher.updates(timeout=5)) is not None:
                    if (record := _record(entry)) is not None:
                        found.append((entry.key, record, entry.revision or 0))
            finally:
                await watcher.stop()
        return found


def _record(entry: KeyValue.Entry) -> KeyRecord | None:
    """The record of an entry; None when deleted, or when nobody can read it."""
    if entry.operation is not None or not entry.value:
        return None
    try:
        return keys.decode(entry.value)
    except msgspec.DecodeError:
        _log.warning("the record of API key %s cannot be read", keys.identifier(entry.key))
        return None
