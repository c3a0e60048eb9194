"""Reads the USAGE stream from its beginning, for whoever projects it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from broker.bus.connection import Bus, BusError
from broker.v1 import record_pb2

_log = logging.getLogger(__name__)

_STREAM = "USAGE"


async def usage_groups(
    bus: Bus, tenant_filter: str = "usage.*"
) -> AsyncIterator[record_pb2.RecordGroup]:
    """Every group that is stored now, in order. Those that cannot be read are skipped, and counted.

    Raises `BusError`.
    """
    try:
        async for group in _groups(bus, tenant_filter):
            yield group
    except (NatsError, TimeoutError) as exc:
        raise BusError(f"cannot read the stream {_STREAM}: {exc or type(exc).__name__}") from exc


async def _groups(bus: Bus, tenant_filter: str) -> AsyncIterator[record_pb2.RecordGroup]:
    last = (await bus.js.stream_info(_STREAM)).state.last_seq
    info = await bus.js.add_consumer(
        _STREAM,
        ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
            filter_subject=tenant_filter,
            inactive_threshold=30,
            mem_storage=True,
            num_replicas=1,
        ),
    )
    waiting = info.num_pending or 0
    unreadable = 0
    subscription = await bus.js.pull_subscribe_bind(info.name, _STREAM)
    try:
        while waiting > 0:
            for message in await subscription.fetch(min(waiting, 256), timeout=5):
                waiting -= 1
                if message.metadata.sequence.stream > last:
                    return
                try:
                    group = record_pb2.RecordGroup.FromString(message.data)
                except DecodeError:
                    unreadable += 1
                    continue
                yield group
    finally:
        if unreadable:
            _log.warning("%d groups of usage records cannot be read and are left out", unreadable)
        await subscription.unsubscribe()
        await bus.js.delete_consumer(_STREAM, info.name)
