"""What becomes of a background response while NATS is away: real NATS, worker and provider."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from broker import subjects
from broker.bus import Bus
from broker.bus.responses import Responses
from broker.settings import FetchSettings, ProviderSettings
from broker.v1 import content_pb2, generation_pb2, job_pb2, stored_pb2
from tests.broker.bus.server import NatsServer, until
from tests.workers.edge_standin import TOKEN
from tests.workers.sim.raw import Sim
from tests.workers.sim.raw import start as start_sim
from workers import ending
from workers.fetch import Fetcher
from workers.registry import load
from workers.runner import Runner

MODEL = "sim-tokens=100,delay_ms=50"


@pytest.fixture
def sim() -> Iterator[Sim]:
    sim = start_sim()
    yield sim
    sim.process.send_signal(signal.SIGTERM)
    sim.process.wait(timeout=5)
    assert sim.process.stdout is not None
    sim.process.stdout.close()


@pytest.fixture
async def runner(bus: Bus, sim: Sim) -> AsyncIterator[Runner]:
    settings = ProviderSettings(name="sim", kind="sim", base_url=sim.base_url, slots=4)
    runner = Runner(bus, load(settings), settings, TOKEN, fetcher=Fetcher(FetchSettings()))
    await runner.start()
    yield runner
    await runner.drain(0)
    await runner.close()


async def queue(bus: Bus) -> None:
    """Have a response run in the background."""
    request = generation_pb2.Request()
    request.generate.model = MODEL
    request.generate.stream = True
    message = request.generate.messages.add(role=content_pb2.ROLE_USER)
    message.parts.add().text.text = "hello"
    route = job_pb2.Route(provider="sim", pool="main", model=MODEL)
    record = stored_pb2.StoredResponse(
        id="resp_1",
        owner="t",
        tenant="t",
        status=stored_pb2.RESPONSE_STATUS_QUEUED,
        request=request,
        route=route,
    )
    await Responses(bus).responses.create(record)
    job = job_pb2.Job(
        request_id="resp_1",
        attempt=1,
        tenant="t",
        owner="t",
        route=route,
        remaining_ms=60_000,
        request=request,
        plan=job_pb2.Plan(candidates=[job_pb2.Candidate(route=route)]),
    )
    await bus.js.publish(subjects.job("bg", "sim", "main", "_"), job.SerializeToString())


async def test_an_outage_of_nats_is_no_lost_worker(
    nats: NatsServer, bus: Bus, sim: Sim, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "PATIENCE_S", 0.3)
    await queue(bus)
    await until(lambda: sim.stats()["open"] == 1, "it runs")
    nats.kill()
    await until(lambda: sim.stats()["open"] == 0, "it is given up")
    await nats.start()
    seen: list[stored_pb2.StoredResponse] = []

    async def completed() -> bool:
        kept = await Responses(bus).responses.get("t", "resp_1")
        if kept is None:
            return False
        seen.append(kept.record)
        return kept.record.status == stored_pb2.RESPONSE_STATUS_COMPLETED

    await until(completed, "it is answered", 40)
    assert seen[-1].attempt == 2
    running = [record for record in seen if record.attempt == 2 and record.claim.worker]
    assert running
    assert {record.claim.losses for record in running} == {0}
