"""A worker that stood still tells nobody that its provider was slow."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import delivery_service_pb2, job_pb2
from tests.workers.emulation.upstream import Events, Outcome, ask
from tests.workers.parameters.cells import Settings
from workers import registry, standstill
from workers.attempt import Attempt
from workers.keys import Keys
from workers.standstill import Standstill


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "_LOOK_S", 0.02)
    monkeypatch.setattr(standstill, "_LATE_S", 0.6)


async def test_time_in_which_nothing_ran_is_noticed_at_once_and_only_then() -> None:
    clock, still = asyncio.get_running_loop(), Standstill()
    still.start()
    begun = clock.time()
    await asyncio.sleep(0.1)
    assert still.since(begun) == 0
    time.sleep(1.3)
    assert still.since(begun) > 1  # before its own look came
    await asyncio.sleep(0.1)
    assert 1 < still.since(begun) < 2
    assert still.since(clock.time()) == 0
    still.close()


@pytest.mark.parametrize(
    ("reason", "slept", "then_s", "told"),
    [
        ("connect_timeout", True, 0, "worker_lost"),
        ("first_token_timeout", True, 0, "worker_lost"),
        ("stalled", True, 0, "worker_lost"),
        ("connect_timeout", False, 0, "connect_timeout"),
        ("upstream_overloaded", True, 0, "upstream_overloaded"),
        # What was over before the time began to run: 0.3 s each.
        ("connect_timeout", True, 0.5, "connect_timeout"),
        ("first_token_timeout", True, 0.5, "first_token_timeout"),
        ("stalled", True, 0.5, "stalled"),
    ],
)
async def test_a_limit_that_ran_out_meanwhile_is_not_blamed_on_the_provider(
    reason: str, slept: bool, then_s: float, told: str
) -> None:
    still = Standstill()
    still.start()

    class Upstream:
        async def open(self, *_: Any, **__: Any) -> Any:
            await asyncio.sleep(0.05)
            if slept:
                time.sleep(0.8)
            await asyncio.sleep(then_s)
            raise InferenceError(reason, "the provider was slow")

    events = Events()
    job = job_pb2.Job(request_id="r", attempt=1)
    provider = registry.load(Settings("openai", "http://127.0.0.1:1/v1"))
    one = Attempt(job, events, provider, "w", standstill=still)
    upstream: Any = Upstream()
    fetcher: Any = None
    limits = delivery_service_pb2.TimeLimits(connect_ms=300, first_token_ms=300, stall_ms=300)
    grant = delivery_service_pb2.Grant(remaining_ms=9_000, limits=limits)
    await one.run(ask(stream=True), grant, upstream, Keys(("k",)), fetcher)
    still.close()
    assert Outcome(events.events, one.record).failure.reason == told
    assert one.record.reason == told
