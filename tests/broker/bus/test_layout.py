"""The layout: complete, as designed, and the same however often and by how many it is made."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

from broker import subjects
from broker.bus import Bus
from broker.bus.layout import (
    ACK_WAIT_S,
    MAX_INLINE_BODY,
    MAX_MESSAGE,
    STREAMS,
    ensure_layout,
    ensure_pool,
)
from tests.broker.bus.server import NatsServer

_DAY = 86_400
# What has to hold of each stream, and why.
STREAMS_MUST: dict[str, dict[str, Any]] = {
    # A bounded queue that says so at once, per model, whose jobs are swept by their TTL.
    "INT": {
        "subjects": ["req.int.*.*.*"],
        "retention": RetentionPolicy.WORK_QUEUE,
        "discard": DiscardPolicy.NEW,
        "discard_new_per_subject": True,
        "max_msgs_per_subject": 10_000,
        "max_msgs": 50_000,
        "allow_msg_ttl": True,
        "duplicate_window": 120,
        "max_msg_size": MAX_MESSAGE,
    },
    "BG": {
        "subjects": ["req.bg.*.*.*"],
        "retention": RetentionPolicy.WORK_QUEUE,
        "discard": DiscardPolicy.NEW,
    },
    "BAT": {
        "subjects": ["req.bat.*.*.*"],
        "retention": RetentionPolicy.WORK_QUEUE,
        "discard": DiscardPolicy.NEW,
        "allow_atomic": True,
    },
    "SCHED": {"allow_msg_schedules": True, "discard": DiscardPolicy.OLD},
    # Write-once results.
    "RES": {
        "subjects": ["res.*.*"],
        "max_msgs_per_subject": 1,
        "discard": DiscardPolicy.NEW,
        "discard_new_per_subject": True,
        "allow_direct": True,
    },
    "EVENTS": {"subjects": ["events.*"]},
    "USAGE": {"subjects": ["usage.*"], "duplicate_window": 600},
    "SPEND": {"allow_msg_counter": True, "duplicate_window": 600},
    "RATE": {"allow_msg_counter": True, "max_age": 180},
    "DLQ": {"subjects": ["dlq.*.*.*"]},
}
LEASES = {subjects.WORKERS, subjects.BREAKER, subjects.CAPACITY, subjects.IDEMPOTENCY}
BUCKETS = LEASES | {
    subjects.CFG,
    subjects.KEYS,
    subjects.BATCHES,
    subjects.RESPONSES,
    subjects.FILES,
}


async def names(bus: Bus) -> list[str]:
    return sorted(str(info.config.name) for info in await bus.js.streams_info())


async def config(bus: Bus, stream: str) -> Any:
    return (await bus.js.stream_info(stream)).config


async def test_every_asset_of_the_design_exists_on_file_storage(bus: Bus) -> None:
    assert set(STREAMS) == set(STREAMS_MUST)
    expected = {
        *STREAMS,
        *(f"KV_{bucket}" for bucket in BUCKETS),
        *(f"OBJ_{store}" for store in subjects.OBJECT_STORES),
    }
    assert set(await names(bus)) == expected
    for info in await bus.js.streams_info():
        assert info.config.storage == StorageType.FILE, info.config.name


@pytest.mark.parametrize("name", STREAMS_MUST)
async def test_a_stream_has_the_settings_that_it_needs(bus: Bus, name: str) -> None:
    found = await config(bus, name)
    assert {key: getattr(found, key) for key in STREAMS_MUST[name]} == STREAMS_MUST[name]


async def test_what_is_stored_outlives_what_it_belongs_to(bus: Bus) -> None:
    age = {name: (await config(bus, name)).max_age for name in STREAMS}
    batch_window = 14 * _DAY
    assert age["INT"] > 3600  # the longest deadline of a request
    assert min(age["BAT"], age["SCHED"], age["RES"]) > batch_window


@pytest.mark.parametrize("bucket", sorted(BUCKETS))
async def test_a_lease_that_expires_leaves_a_marker_and_no_history(bus: Bus, bucket: str) -> None:
    found = await config(bus, f"KV_{bucket}")
    assert bool(found.subject_delete_marker_ttl) == (bucket in LEASES | {subjects.FILES})
    if bucket in LEASES:
        assert found.max_msgs_per_subject == 1


async def test_doing_it_again_changes_nothing_and_loses_nothing(bus: Bus) -> None:
    await bus.js.publish("req.int.sim.main._", b"job")
    await (await bus.kv(subjects.CFG)).put("a", b"b")
    before = [(i.config, i.state.messages) for i in await bus.js.streams_info()]
    await ensure_layout(bus, 1)
    await ensure_pool(bus, "sim", "main", 4)
    after = [(i.config, i.state.messages) for i in await bus.js.streams_info()]
    assert before == after


async def test_two_broker_processes_may_do_it_at_once(nats: NatsServer) -> None:
    buses = [await nats.bus() for _ in range(4)]
    try:
        await asyncio.gather(*(ensure_layout(bus, 1) for bus in buses))
        await asyncio.gather(*(ensure_pool(bus, "sim", "main", 4) for bus in buses))
        assert len(await names(buses[0])) == len(STREAMS) + len(BUCKETS) + len(
            subjects.OBJECT_STORES
        )
    finally:
        for bus in buses:
            await bus.close()


async def test_a_stream_of_an_older_version_gets_the_present_settings(bus: Bus) -> None:
    old = await config(bus, "INT")
    await bus.js.update_stream(old, max_msgs_per_subject=7)
    assert (await config(bus, "INT")).max_msgs_per_subject == 7
    await ensure_layout(bus, 1)
    assert (await config(bus, "INT")).max_msgs_per_subject == 10_000


async def test_a_lost_stream_comes_back(bus: Bus) -> None:
    await bus.js.delete_stream("USAGE")
    await bus.js.delete_stream("KV_workers")
    await ensure_layout(bus, 1)
    assert {"USAGE", "KV_workers"} <= set(await names(bus))


@pytest.mark.parametrize(("lane", "stream"), subjects.LANES.items())
async def test_a_pool_has_one_consumer_per_lane(bus: Bus, lane: str, stream: str) -> None:
    info = await bus.js.consumer_info(stream, subjects.consumer(lane, "sim", "main"))
    assert info.config.filter_subject == f"req.{lane}.sim.main.*"
    assert info.config.max_deliver == -1  # poison is counted by losses
    assert info.config.max_waiting == 2048
    assert info.config.ack_wait == (3 * ACK_WAIT_S if lane == "bat" else ACK_WAIT_S)


async def test_a_pool_that_grows_may_have_more_in_flight(bus: Bus) -> None:
    name = subjects.consumer("int", "sim", "main")
    assert (await bus.js.consumer_info("INT", name)).config.max_ack_pending == 1000
    await ensure_pool(bus, "sim", "main", 1000)
    assert (await bus.js.consumer_info("INT", name)).config.max_ack_pending == 4000


async def test_pools_with_unusual_names_do_not_collide_with_the_lanes(bus: Bus) -> None:
    await ensure_pool(bus, "my.vllm", "a b", 4)
    await bus.js.publish(subjects.job("int", "my.vllm", "a b", "x.y"), b"job")
    name = subjects.consumer("int", "my.vllm", "a b")
    assert (await bus.js.consumer_info("INT", name)).num_pending == 1


async def test_the_largest_body_inside_a_job_fits_into_every_lane(bus: Bus) -> None:
    job = bytes(MAX_INLINE_BODY + 64 * 1024)
    for lane in subjects.LANES:
        await bus.js.publish(subjects.job(lane, "sim", "main", "_"), job)


async def test_a_scheduled_job_comes_into_its_lane_when_it_is_due(bus: Bus) -> None:
    sub = await bus.js.pull_subscribe_bind(subjects.consumer("bat", "sim", "main"), "BAT")
    due = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    headers = {
        "Nats-Schedule": f"@at {due.strftime('%Y-%m-%dT%H:%M:%SZ')}",
        "Nats-Schedule-Target": "due.bat.sim.main._",
    }
    await bus.js.publish("sched.bat.line1", b"line", headers=headers)
    (message,) = await sub.fetch(1, timeout=10)
    assert (message.subject, message.data) == ("req.bat.sim.main._", b"line")
