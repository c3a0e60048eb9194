"""Delayed jobs are due by the server's clock, whatever the clock here says."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from broker import subjects
from broker.bus import Bus, clock
from broker.bus.background import publish
from broker.bus.clock import Clock
from broker.bus.queue import Publisher
from broker.routing import Target
from broker.v1 import job_pb2

HOUR = 3600.0


def now() -> float:
    return time.time_ns() / 1e9


@pytest.fixture(params=[-HOUR, 0.0, HOUR])
def off_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How far the clock here is ahead."""
    off: float = request.param
    monkeypatch.setattr(clock, "_here", lambda: now() + off)
    return off


async def test_the_clock_here_is_compared_with_the_servers(bus: Bus, off_s: float) -> None:
    told = Clock(bus)
    assert abs(await told.ahead_s() - off_s) < 60
    assert abs(await told.now() - now()) < 60


async def test_a_delayed_job_is_due_when_the_server_says(bus: Bus, off_s: float) -> None:
    publisher = Publisher(bus)
    await publisher.start()
    job = job_pb2.Job(request_id="batch_req_a_1", attempt=2)
    target = Target("sim", "main", "m", listed=True)
    await publish(publisher, job, target, lane=subjects.BATCH, delay_s=300)
    subject = subjects.job(subjects.BATCH, "sim", "main", "m")
    name = subjects.schedule(subjects.BATCH, job.request_id, subject)
    kept = await bus.js.get_last_msg("SCHED", name)
    due = (kept.headers or {})["Nats-Schedule"].removeprefix("@at ")
    assert abs(datetime.fromisoformat(due).timestamp() - now() - 300) < 60
    await publisher.close()
