"""Streams, buckets, object stores and consumers, created idempotently by the broker process.

Settings were measured; the reasons stand beside them. `max_bytes` reserves disk, and an update
reserves it anew, so only small streams have it; the server's file store limit bounds the rest.
Everything is on file storage: memory
buckets vanish when a single server restarts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
from nats.errors import Error as NatsError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
    StreamSource,
    SubjectTransform,
)
from nats.js.errors import APIError, KeyNotFoundError, NotFoundError

from broker import presence, subjects
from broker.bus.connection import Bus, BusError
from broker.files import LONGEST_S
from broker.presence import PoolRecord

_MB, _GB, _DAY = 1 << 20, 1 << 30, 86_400
# Room for headers under the server's max_payload of 1 MiB.
MAX_MESSAGE = _MB - 4096
# What travels inside a job; larger bodies go by reference (R10).
MAX_INLINE_BODY = 512 * 1024
# A job that nobody acks comes again after this long; leases are extended every third of it.
ACK_WAIT_S = 20.0
# Per subject, so that one model's backlog never fills the lane for the others.
MAX_QUEUED_PER_SUBJECT = 10_000
MAX_QUEUED = 50_000
# A large part is written before the record that names it, which may be written again.
_SPARE_S = 2.0 * _DAY
# How long responses are kept unless the settings say otherwise.
RETENTION_S = 30.0 * _DAY
# How long lines of batches wait at most.
LONGEST_BATCH_S = 16.0 * _DAY
_STREAM_EXISTS = 10058


def _streams(replicas: int, retention_s: float = RETENTION_S) -> list[StreamConfig]:
    file: dict[str, Any] = {"storage": StorageType.FILE, "num_replicas": replicas}
    queue: dict[str, Any] = {
        **file,
        "retention": RetentionPolicy.WORK_QUEUE,
        "discard": DiscardPolicy.NEW,
        "allow_msg_ttl": True,
        "max_msg_size": MAX_MESSAGE,
    }
    write_once: dict[str, Any] = {
        "max_msgs_per_subject": 1,
        "discard": DiscardPolicy.NEW,
        "discard_new_per_subject": True,
        "allow_direct": True,
    }
    return [
        StreamConfig(
            name="INT",
            subjects=["req.int.*.*.*"],
            max_msgs=MAX_QUEUED,
            max_bytes=_GB,
            max_msgs_per_subject=MAX_QUEUED_PER_SUBJECT,
            discard_new_per_subject=True,
            # Longer than the longest deadline: message TTLs do the sweeping (R11).
            max_age=2 * 3600,
            duplicate_window=120,
            **queue,
        ),
        StreamConfig(
            name="BG",
            subjects=["req.bg.*.*.*"],
            # A job that waits for its provider goes no sooner than its response (R18).
            max_age=retention_s + _SPARE_S,
            duplicate_window=600,
            sources=[_due("bg")],
            **queue,
        ),
        StreamConfig(
            name="BAT",
            subjects=["req.bat.*.*.*"],
            # Outlives the longest batch window of 14 days (R18).
            max_age=LONGEST_BATCH_S,
            duplicate_window=600,
            allow_atomic=True,
            sources=[_due("bat")],
            **queue,
        ),
        # Message schedules refuse "discard new", so delayed retries cannot live in their queue.
        StreamConfig(
            name="SCHED",
            subjects=["sched.*.*", "due.*.*.*.*"],
            allow_msg_schedules=True,
            allow_msg_ttl=True,
            max_age=LONGEST_BATCH_S,
            **file,
        ),
        StreamConfig(
            name="RES",
            subjects=["res.*.*"],
            max_age=30 * _DAY,
            duplicate_window=120,
            **write_once,
            **file,
        ),
        StreamConfig(
            name="EVENTS",
            subjects=["events.*"],
            max_age=retention_s,
            duplicate_window=min(120, retention_s),
            allow_direct=True,
            **file,
        ),
        StreamConfig(
            name="USAGE",
            subjects=["usage.*"],
            max_age=400 * _DAY,
            compression=StoreCompression.S2,
            duplicate_window=600,
            **file,
        ),
        StreamConfig(
            name="SPEND",
            subjects=["spend.*.*"],
            allow_msg_counter=True,
            allow_direct=True,
            max_msgs_per_subject=1,
            duplicate_window=600,
            max_age=400 * _DAY,
            **file,
        ),
        StreamConfig(
            name="RATE",
            subjects=["rate.*.*"],
            allow_msg_counter=True,
            allow_direct=True,
            max_msgs_per_subject=1,
            max_age=180,
            **file,
        ),
        StreamConfig(
            name="DLQ", subjects=["dlq.*.*.*"], max_bytes=256 * _MB, max_age=14 * _DAY, **file
        ),
    ]


def _due(lane: str) -> StreamSource:
    """Scheduled jobs that came due, moved into their lane."""
    transform = SubjectTransform(
        src=f"due.{lane}.*.*.*",
        dest=f"req.{lane}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}",
    )
    return StreamSource(name="SCHED", subject_transforms=[transform])


def _buckets(replicas: int, retention_s: float = RETENTION_S) -> list[KeyValueConfig]:
    plain = {subjects.CFG: 16, subjects.KEYS: 4, subjects.BATCHES: 1}
    # A lease's shortest TTL is the marker's, and history above 1 would lengthen it.
    leases = (subjects.WORKERS, subjects.BREAKER, subjects.CAPACITY, subjects.IDEMPOTENCY)
    expiring = (*leases, subjects.FILES)
    common: dict[str, Any] = {"storage": StorageType.FILE, "replicas": replicas, "direct": True}
    return [
        *(KeyValueConfig(bucket=name, history=n, **common) for name, n in plain.items()),
        *(KeyValueConfig(bucket=b, history=1, limit_marker_ttl=1, **common) for b in expiring),
        KeyValueConfig(bucket=subjects.RESPONSES, history=1, ttl=retention_s, **common),
    ]


async def ensure_layout(bus: Bus, replicas: int, retention_s: float = RETENTION_S) -> None:
    """Create what is missing and update what differs. Raises `BusError` naming what failed.

    `retention_s` is how long responses, their logs and their large parts are kept.
    """
    for config in _streams(replicas, retention_s):
        with _naming(f"stream {config.name}"):
            try:
                await bus.js.add_stream(config)
            except APIError as exc:
                if exc.err_code != _STREAM_EXISTS:
                    raise
                await bus.js.update_stream(config)
    for bucket in _buckets(replicas, retention_s):
        with _naming(f"bucket {bucket.bucket}"):
            await _ensure_bucket(bus, bucket)
    # Nothing of a response goes before the response does, nor of a file; some files never go. Large
    # answers of a batch wait for its end.
    kept = {subjects.BLOBS: max(retention_s, LONGEST_BATCH_S) + _SPARE_S, subjects.FILES: 0.0}
    for store in subjects.OBJECT_STORES:
        ttl = kept.get(store, LONGEST_S + _SPARE_S)
        with _naming(f"object store {store}"):
            try:
                info = await bus.js.stream_info(f"OBJ_{store}")
            except NotFoundError:
                await bus.js.create_object_store(
                    store, config=ObjectStoreConfig(replicas=replicas, ttl=ttl)
                )
            else:
                await _keep_for(bus, info.config, ttl)


async def _ensure_bucket(bus: Bus, config: KeyValueConfig) -> None:
    try:
        info = await bus.js.stream_info(f"KV_{config.bucket}")
    except NotFoundError:
        await bus.js.create_key_value(config)
    else:
        await _keep_for(bus, info.config, config.ttl or 0.0)


async def _keep_for(bus: Bus, config: StreamConfig, ttl: float) -> None:
    """Change how long an existing bucket keeps what it has; 0 is for ever."""
    if (config.max_age or 0.0) == ttl:
        return
    window = min(120.0, ttl or 120.0)
    await bus.js.update_stream(config.evolve(max_age=ttl, duplicate_window=window))


async def ensure_pool(bus: Bus, provider: str, pool: str, slots: int) -> None:
    """Create or update the consumers of a pool, one per lane, and record that it exists.

    `max_ack_pending` is a loose backstop of four times the slots: leases are the real cap, and a
    delayed nak holds its place for as long as it waits. Raises `BusError` naming what failed.
    """
    for lane, stream in subjects.LANES.items():
        config = ConsumerConfig(
            durable_name=subjects.consumer(lane, provider, pool),
            filter_subject=subjects.job_filter(lane, provider, pool),
            ack_policy=AckPolicy.EXPLICIT,
            # Batch lines wait for nobody; someone waits for everything else.
            ack_wait=3 * ACK_WAIT_S if lane == subjects.BATCH else ACK_WAIT_S,
            # Poison is counted by losses, not by deliveries: those grow with every hand-back.
            max_deliver=-1,
            max_ack_pending=max(1000, 4 * slots),
            max_waiting=2048,
        )
        with _naming(f"consumer {config.durable_name}"):
            await bus.js.add_consumer(stream, config)


async def remember_pool(bus: Bus, record: PoolRecord) -> None:
    """Write down that a pool exists, and what its workers say of it. Raises `BusError`."""
    key = subjects.pool_key(record.provider, record.pool)
    with _naming(f"record of pool {record.provider}/{record.pool}"):
        kv = await bus.kv(subjects.CFG)
        with contextlib.suppress(KeyNotFoundError, msgspec.DecodeError):
            if presence.decode_pool((await kv.get(key)).value or b"") == record:
                return
        await kv.put(key, presence.encode(record))


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Whatever NATS says, or does not say, becomes a `BusError` about `what`."""
    try:
        yield
    except APIError as exc:
        raise BusError(f"{what}: {exc.description or exc}") from exc
    except (NatsError, TimeoutError) as exc:
        raise BusError(f"{what}: {exc}") from exc


STREAMS = tuple(config.name or "" for config in _streams(1))
