"""Who is asking: from an `authorization` value to the record of an API key, out of memory.

A key is read once, when it is first seen; after that the change stream keeps it current, so that
the hot path touches no network and known keys go on working while NATS is away.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from broker import keys
from broker.bus import BusError
from broker.errors import InferenceError
from broker.keys import KeyRecord

# Records kept; beyond that the one that was used longest ago goes.
CAPACITY = 10_000
# How long a key that does not exist is not looked up again, in seconds.
UNKNOWN_S = 5.0
LOOKUP_S = 2.0
# Made-up keys cost one read each: this bounds what they can do to the bucket.
LOOKUPS = 64
# The longest secret that is looked at, in bytes.
SECRET_BYTES = 512


class KeySource(Protocol):
    """Where records are kept; both raise `BusError` or `TimeoutError` when it cannot be reached."""

    async def get(self, digest: str) -> KeyRecord | None: ...

    async def watch(self, callback: Callable[[str, KeyRecord | None], None]) -> None: ...


class Authenticator:
    """Finds the record of a key, for HTTP and gRPC alike."""

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._known: OrderedDict[str, KeyRecord] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()  # digest -> loop time to ask again
        self._lookups: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._overtaken: set[str] = set()  # of those, the ones a change came in for
        self._slots = asyncio.Semaphore(LOOKUPS)

    async def follow(self) -> None:
        """Keep the records current until cancelled; a task of the process."""
        await self._source.watch(self.learn)

    def learn(self, digest: str, record: KeyRecord | None) -> None:
        """Take note of a change: a new, changed or revoked key; None when it was deleted."""
        self._unknown.pop(digest, None)
        if digest in self._lookups:
            self._overtaken.add(digest)
        elif digest not in self._known and len(self._known) >= CAPACITY:
            return
        if record is None:
            self._known.pop(digest, None)
        else:
            self._keep(digest, record)

    async def authenticate(self, authorization: bytes | str | None) -> KeyRecord:
        """The record of the key in `Bearer <key>`.

        Raises `InferenceError`: `invalid_api_key`, or `broker_unavailable` where a key that was
        never seen cannot be read.
        """
        digest = keys.digest(_secret(authorization))
        record = self._known.get(digest)
        if record is None:
            record = await self._find(digest)
        else:
            self._known.move_to_end(digest)
        if record is None:
            raise InferenceError("invalid_api_key", "the API key is not known here")
        if record.revoked:
            raise InferenceError("invalid_api_key", f"the API key {record.id} was revoked")
        return record

    async def _find(self, digest: str) -> KeyRecord | None:
        """The record of a key not in memory; many askers share one read."""
        loop = asyncio.get_running_loop()
        if self._unknown.get(digest, 0.0) > loop.time():
            return None
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = loop.create_task(self._read(digest))
            lookup.add_done_callback(lambda _: self._read_over(digest))
        # The read goes on when this asker leaves: others may wait for it too.
        return await asyncio.shield(lookup)

    async def _read(self, digest: str) -> KeyRecord | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_S), self._slots:
                record = await self._source.get(digest)
        except (BusError, TimeoutError) as exc:
            raise InferenceError(
                "broker_unavailable",
                "API keys cannot be checked at the moment; try again shortly",
                retry_after=1.0,
            ) from exc
        if digest in self._overtaken:
            return self._known.get(digest)  # the change is newer than the read
        if record is not None:
            self._keep(digest, record)
        else:
            self._unknown[digest] = loop.time() + UNKNOWN_S
            if len(self._unknown) > CAPACITY:
                self._unknown.popitem(last=False)
        return record

    def _read_over(self, digest: str) -> None:
        self._lookups.pop(digest, None)
        self._overtaken.discard(digest)

    def _keep(self, digest: str, record: KeyRecord) -> None:
        self._known[digest] = record
        self._known.move_to_end(digest)
        if len(self._known) > CAPACITY:
            self._known.popitem(last=False)


def authorization(headers: Mapping[bytes, bytes]) -> bytes | None:
    """What authenticates a request: `authorization`, or the key in `x-api-key`."""
    given = headers.get(b"authorization")
    if given is None and (key := headers.get(b"x-api-key")) is not None:
        return b"Bearer " + key
    return given


def _secret(authorization: bytes | str | None) -> str:
    """The key in an `authorization` value; raises `invalid_api_key` saying how to send one."""
    if not authorization:
        raise InferenceError(
            "invalid_api_key", "no API key was given; send it as 'Authorization: Bearer <key>'"
        )
    try:
        text = authorization.decode() if isinstance(authorization, bytes) else authorization
    except UnicodeDecodeError:
        text = ""
    scheme, _, secret = text.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret or len(secret) > SECRET_BYTES:
        raise InferenceError(
            "invalid_api_key", "the API key has to be sent as 'Authorization: Bearer <key>'"
        )
    return secret
