"""A worker from its pull to its ack: a real NATS and provider, and an edge that a test plays."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from broker import presence, subjects
from broker.bus import Bus
from broker.capacity import Allowance, Share
from broker.settings import FetchSettings, ProviderSettings
from broker.v1 import content_pb2, generation_pb2, job_pb2, record_pb2
from broker.v1 import delivery_service_pb2 as pb
from tests.broker.bus.server import until
from tests.ports import free_port
from tests.workers.edge_standin import TOKEN, EdgeStandIn
from tests.workers.sim.raw import Sim
from tests.workers.sim.raw import start as start_sim
from workers import runner as runner_module
from workers.delivery import EdgeLink
from workers.dialects.openai_chat.parameters import CHAT, ONE_CHOICE
from workers.fetch import Fetcher
from workers.registry import load
from workers.runner import Runner

Start = Callable[..., Awaitable[Runner]]


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One for all: gRPC still tells the loop of a test that has ended of what came late."""
    yield
    await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def provider() -> Iterator[Sim]:
    sim = start_sim()
    yield sim
    sim.process.send_signal(signal.SIGTERM)
    sim.process.wait(timeout=5)
    assert sim.process.stdout is not None
    sim.process.stdout.close()


@pytest.fixture
def sim(provider: Sim) -> Sim:
    provider.until(lambda stats: stats["open"] == 0)
    provider.request("POST", "/stats/reset")
    return provider


@pytest.fixture
async def edge() -> AsyncIterator[EdgeStandIn]:
    edge = EdgeStandIn()
    await edge.start()
    yield edge
    await edge.stop()


@pytest.fixture
async def start(bus: Bus, sim: Sim) -> AsyncIterator[Start]:
    started: list[Runner] = []

    async def start(slots: int = 4, **changes: Any) -> Runner:
        settings = ProviderSettings(name="sim", kind="sim", base_url=sim.base_url, slots=slots)
        provider = replace(load(settings), **changes)
        runner = Runner(bus, provider, settings, TOKEN, fetcher=Fetcher(FetchSettings()))
        await runner.start()
        started.append(runner)
        return runner

    yield start
    for runner in started:
        if not runner._slots.draining:  # the test's own matter then
            await leave(runner, 0)


async def leave(runner: Runner, grace_s: float) -> None:
    await runner.drain(grace_s)
    await runner.close()


def job(edge: EdgeStandIn, number: int = 1, model: str = "sim", **fields: Any) -> job_pb2.Job:
    request = generation_pb2.Request()
    request.generate.model = model
    request.generate.stream = True
    message = request.generate.messages.add(role=content_pb2.ROLE_USER)
    message.parts.add().text.text = "hello"
    return job_pb2.Job(
        **{
            "request_id": f"req_{number}",
            "attempt": 1,
            "tenant": "t",
            "route": job_pb2.Route(provider="sim", pool="main", model=model),
            "remaining_ms": 60_000,
            "delivery_address": edge.address,
            "claim_secret": b"s" * 16,
            "request": request,
            **fields,
        }
    )


def line(model: str = "sim") -> job_pb2.BatchLine:
    body = b'{"model": "%b", "messages": [{"role": "user", "content": "hello"}]}' % model.encode()
    endpoint = "/v1/chat/completions"
    return job_pb2.BatchLine(batch_id="b", number=1, endpoint=endpoint, json=body)


async def publish(bus: Bus, *jobs: job_pb2.Job, lane: str = "int") -> None:
    for one in jobs:
        await bus.js.publish(subjects.job(lane, "sim", "main", "_"), one.SerializeToString())


async def left(bus: Bus) -> int:
    """Jobs in the stream: an acked one is gone."""
    return int((await bus.js.stream_info("INT")).state.messages)


async def settled(bus: Bus, but: int = 0) -> None:
    """All jobs are, except so many."""

    async def so_many() -> bool:
        return await left(bus) == but

    await until(so_many, "jobs are settled")


def claims(edge: EdgeStandIn) -> dict[str, int]:
    """Request -> the session that claimed it first."""
    found: dict[str, int] = {}
    for frame in edge.frames:
        if frame.HasField("claim"):
            found.setdefault(frame.claim.request_id, frame.session)
    return found


async def all_quiet(runner: Runner) -> None:
    def quiet() -> bool:
        gauges = runner.gauges()
        return not (gauges.busy or gauges.held or gauges.calls or gauges.records)

    await until(quiet, "all gauges are 0")


# R1.


async def test_no_call_before_the_grant_and_no_ack_before_the_record(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    edge.on_claim = None
    runner = await start()
    await publish(bus, job(edge))
    await until(lambda: claims(edge), "it claims")
    await asyncio.sleep(0.1)
    assert sim.stats()["calls"] == 0
    session = claims(edge)["req_1"]
    await edge.grant(session, pb.Claim())
    await until(lambda: edge.kinds(session)[-1] == "completed", "it is answered")
    await settled(bus)
    assert sim.stats()["finished"] == 1
    message = await bus.js.get_last_msg("USAGE", subjects.usage("t"))
    (record,) = record_pb2.RecordGroup.FromString(message.data or b"").attempts
    assert (record.request_id, record.attempt, record.worker) == ("req_1", 1, runner.name)
    assert record.outcome == record_pb2.OUTCOME_COMPLETED
    await all_quiet(runner)


async def test_a_claim_that_is_refused_settles_the_job_without_a_call(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    edge.on_claim = lambda number, _claim: edge.kill(number, "superseded")
    runner = await start()
    await publish(bus, *[job(edge, n) for n in range(10)])
    await until(lambda: len(claims(edge)) == 10, "all are claimed")
    await settled(bus)
    await all_quiet(runner)
    assert sim.stats()["calls"] == 0


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of edges that were dialled; each try is quick."""
    monkeypatch.setattr(runner_module, "EDGE_RETRY_S", 0.3)
    monkeypatch.setattr("workers.delivery.CONNECT_S", 0.2)
    dialled: list[str] = []

    def dial(address: str, *rest: Any) -> EdgeLink:
        dialled.append(address)
        return EdgeLink(address, *rest)

    monkeypatch.setattr("workers.edges.EdgeLink", dial)
    return dialled


async def test_a_job_of_an_edge_that_is_gone_is_offered_three_times_then_dropped(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim, dialled: list[str]
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    runner = await start()
    await publish(bus, job(edge, delivery_address=gone))
    await until(lambda: dialled, "it was tried")
    assert await left(bus) == 1
    await settled(bus)
    assert dialled == [gone] * 3
    await all_quiet(runner)
    assert sim.stats()["calls"] == 0


async def test_jobs_that_had_no_room_are_offered_to_their_edge_no_less_often(
    bus: Bus, edge: EdgeStandIn, start: Start, dialled: list[str]
) -> None:
    """Each time that a gate hands one on is a delivery, too."""
    gone = f"127.0.0.1:{free_port()}"
    runner = await start()
    none = Allowance("sim", "", "sim", 1, slots=0, shares={runner.name: Share(slots=0)})
    runner.gate.told(none, runner.name)
    await publish(bus, job(edge, delivery_address=gone))

    async def deliveries() -> int:
        info = await bus.js.consumer_info("INT", subjects.consumer("int", "sim", "main"))
        return int(info.delivered.consumer_seq if info.delivered else 0)

    async def often() -> bool:
        return await deliveries() >= 4

    await until(often, "it was handed on", 15)
    assert dialled == []
    runner.gate.forgotten("", "sim")
    await settled(bus)
    assert dialled == [gone] * 3


async def test_no_job_is_dropped_while_its_edge_lives(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim, dialled: list[str]
) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    lease = presence.encode(presence.EdgeLease(edge="e", address=address))
    await (await bus.kv(subjects.WORKERS)).put(subjects.edge_key("e"), lease)
    await start()
    await publish(bus, job(edge, delivery_address=address))
    await until(lambda: len(dialled) > 4, "it was tried again and again")
    assert await left(bus) == 1
    await edge.stop()
    await edge.start(port)
    await settled(bus)
    assert edge.kinds(1)[-1] == "completed"


async def test_what_is_no_job_is_dropped_and_holds_nothing(
    bus: Bus, edge: EdgeStandIn, start: Start
) -> None:
    runner = await start()
    for lane in subjects.LANES:
        subject = subjects.job(lane, "sim", "main", "_")
        await bus.js.publish(subject, b"\xff\xff\xff")
    await publish(bus, job(edge))

    async def over() -> bool:
        infos = [await bus.js.stream_info(stream) for stream in subjects.LANES.values()]
        return not any(info.state.messages for info in infos)

    await until(over, "all are settled")
    assert edge.kinds(1)[-1] == "completed"
    await all_quiet(runner)


async def test_what_a_bug_ends_is_told_and_held_no_longer(
    bus: Bus, edge: EdgeStandIn, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease would be extended for ever, and no other worker have it."""
    runner = await start()
    none = Allowance("sim", "", "none", 1, slots=0, shares={runner.name: Share(slots=0)})
    runner.gate.told(none, runner.name)
    await publish(bus, job(edge, 1, "none", line=line("none")), lane="bat")
    await until(lambda: len(runner._batch._waiting), "the line waits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.batch.Batch._publish_next", lambda *_: 1 / 0)
        patch.setattr("workers.edges.EdgeLink", lambda *_: 1 / 0)
        await publish(bus, job(edge, 2))
        await until(lambda: "ZeroDivisionError" in caplog.text, "the job has failed")
        await runner._batch.close()
        await all_quiet(runner)
    assert caplog.text.count("ZeroDivisionError") == 2


async def test_a_killed_attempt_closes_its_call_and_leaves_a_record(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    runner = await start()
    await publish(bus, job(edge, model="tokens=500,delay_ms=20"))
    await until(lambda: "text" in edge.kinds(1), "it streams")
    await edge.kill(claims(edge)["req_1"])
    await until(lambda: sim.stats()["aborted"] == 1, "the provider sees it leave")
    await settled(bus)
    await all_quiet(runner)
    assert edge.kinds(1)[-1] == "text"
    message = await bus.js.get_last_msg("USAGE", subjects.usage("t"))
    (record,) = record_pb2.RecordGroup.FromString(message.data or b"").attempts
    assert record.outcome == record_pb2.OUTCOME_CANCELLED


async def test_a_killed_attempt_of_several_calls_is_no_failed_one(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    """Its calls wait for a reader, and each hears that there will be none."""
    edge.credit = 400
    runner = await start(parameters=CHAT.but(ONE_CHOICE))
    asked = job(edge, model="tokens=500,delay_ms=5")
    asked.request.generate.n = 3
    await publish(bus, asked)
    await until(lambda: [s.credit <= 0 for s in runner._sessions.values()] == [True], "all wait")
    await asyncio.sleep(0.1)
    await edge.kill(claims(edge)["req_1"])
    await until(lambda: sim.stats()["aborted"] == 3, "the provider sees it leave")
    await settled(bus)
    await all_quiet(runner)
    message = await bus.js.get_last_msg("USAGE", subjects.usage("t"))
    (record,) = record_pb2.RecordGroup.FromString(message.data or b"").attempts
    assert record.outcome == record_pb2.OUTCOME_CANCELLED


# Slots.


async def test_no_slot_stays_free_while_jobs_wait_though_none_ends(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    """A few freed slots are left to the pull that stands; its credit may then be used up."""
    slow = "tokens=500,delay_ms=20"
    runner = await start(slots=16)
    await publish(bus, *[job(edge, n) for n in range(3)])
    await publish(bus, *[job(edge, n, slow) for n in range(3, 13)])
    await until(lambda: len(claims(edge)) == 13 and runner._slots.busy == 10, "three have ended")
    await publish(bus, *[job(edge, n, slow) for n in range(13, 19)])
    await until(lambda: runner._slots.busy == 16, "every slot is used", 3)


# R7, R10.


async def test_an_edge_that_dies_takes_its_calls_with_it(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    runner = await start()
    await publish(bus, *[job(edge, n, "tokens=500,delay_ms=20") for n in range(3)])
    await until(lambda: sim.stats()["calls"] == 3, "all run")
    await edge.stop()
    await until(lambda: sim.stats()["aborted"] == 3, "all calls are closed", 2)
    await settled(bus)
    await all_quiet(runner)


async def test_a_large_job_is_called_with_the_body_that_its_edge_keeps(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    raw = job(edge, model="echo").request.SerializeToString()
    edge.body = [raw[:10], raw[10:]]
    await start()
    reference = job_pb2.BodyReference(size=len(raw))
    large = job(edge, model="echo")
    large.body_reference.CopyFrom(reference)
    await publish(bus, large)
    await until(lambda: edge.kinds(1)[-1:] == ["completed"], "it is answered")
    assert "".join(e.text.text for e in edge.events(1)) == "hello"


async def test_a_body_that_cannot_be_had_is_handed_back_without_a_call(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    edge.body = [b"\xff\xff\xff"]
    runner = await start()
    large = job(edge)
    large.body_reference.CopyFrom(job_pb2.BodyReference(size=3))
    await publish(bus, large)
    await until(lambda: edge.kinds(1) == ["claim", "hand_back"], "it is handed back")
    await settled(bus)
    await all_quiet(runner)
    assert sim.stats()["calls"] == 0


# R6.


async def test_a_suspect_runs_when_nothing_else_does_and_says_so(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    slow = "tokens=20,delay_ms=20"
    runner = await start()
    await publish(bus, job(edge, 1, slow))
    await until(lambda: sim.stats()["calls"] == 1, "the first runs")
    await publish(bus, job(edge, 2, slow, losses=2))
    await until(lambda: runner._slots.reserved, "the suspect waits")
    await publish(bus, job(edge, 3, slow))
    await until(lambda: len(claims(edge)) == 3, "all have run")
    await settled(bus)
    assert sim.stats()["most_open"] == 1
    assert {f.claim.request_id: f.claim.alone for f in edge.frames if f.HasField("claim")} == {
        "req_1": False,
        "req_2": True,
        "req_3": False,
    }
    await all_quiet(runner)


@pytest.mark.parametrize("lane", ["int", "bat", "direct"])
async def test_a_suspect_that_waits_holds_no_seat_that_another_needs(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim, lane: str
) -> None:
    """Another that goes on making calls would never end, and the suspect never begin."""
    model = "tokens=5,delay_ms=20"
    runner = await start(parameters=CHAT.but(ONE_CHOICE))

    def allow(slots: int) -> None:
        share = {runner.name: Share(slots=slots)}
        runner.gate.told(Allowance("sim", "", model, 1, slots=slots, shares=share), runner.name)

    allow(9)
    many = job(edge, 1, model)
    many.request.generate.n = 24
    await publish(bus, many)
    await until(lambda: sim.stats()["calls"] == 8, "the first calls are made")
    suspect = job(edge, 2, model, losses=2)
    if lane == "bat":
        suspect.line.CopyFrom(line(model))
    if lane == "direct":
        subject, offered = subjects.direct("sim", "main"), suspect.SerializeToString()
        assert (await bus.nc.request(subject, offered, timeout=2)).data == b"taken"
    else:
        await publish(bus, suspect, lane=lane)
    await until(lambda: runner._slots.reserved, "the suspect waits")
    allow(1)
    await until(lambda: sim.stats()["finished"] == 25, "both have made all of their calls")
    await all_quiet(runner)


async def test_suspects_that_come_together_run_one_after_the_other(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    await publish(bus, *[job(edge, n, losses=2) for n in range(4)])
    runner = await start()
    await until(lambda: len(claims(edge)) == 4, "all have run")
    await settled(bus)
    assert sim.stats()["most_open"] == 1
    await all_quiet(runner)


# R15.


async def test_a_draining_worker_finishes_what_runs_and_takes_nothing_more(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    runner = await start()
    await publish(bus, job(edge, 1, "tokens=20,delay_ms=20"))
    await until(lambda: sim.stats()["calls"] == 1, "it runs")
    leaving = asyncio.create_task(leave(runner, 10))
    await until(lambda: runner._puller.credits == 0, "it stopped pulling")
    await publish(bus, job(edge, 2))
    await leaving
    assert edge.kinds(1)[-1] == "completed"
    assert list(claims(edge)) == ["req_1"]
    await settled(bus, but=1)  # which is another worker's


async def test_what_outlasts_the_grace_period_is_handed_back(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    runner = await start()
    await publish(bus, job(edge, 1, "tokens=500,delay_ms=20"))
    await until(lambda: "text" in edge.kinds(1), "it runs")
    await leave(runner, 0.05)
    assert edge.kinds(1)[-1] == "hand_back"
    await until(lambda: sim.stats()["aborted"] == 1, "its call is closed")
    await settled(bus)


async def test_a_claim_that_is_not_answered_yet_is_handed_back_too(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    """Else its edge would take the broken link for a lost worker, and count it against the job."""
    edge.on_claim = None
    runner = await start()
    await publish(bus, job(edge))
    await until(lambda: claims(edge), "it claims")
    await leave(runner, 0.05)
    assert edge.kinds(1) == ["claim", "hand_back"]
    assert sim.stats()["calls"] == 0
    assert await left(bus) == 1  # comes again, to another worker


async def test_a_suspect_that_waits_for_its_turn_is_handed_back(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    runner = await start()
    await publish(bus, job(edge, 1, "tokens=500,delay_ms=20"))
    await until(lambda: sim.stats()["calls"] == 1, "another one runs")
    await publish(bus, job(edge, 2, losses=2))
    await until(lambda: runner._slots.reserved, "the suspect waits")
    await leave(runner, 0.05)
    assert list(claims(edge)) == ["req_1"]
    puller = await bus.js.pull_subscribe(
        "", stream="INT", durable=subjects.consumer("int", "sim", "main")
    )
    (again,) = await puller.fetch(1, timeout=5)
    assert job_pb2.Job.FromString(again.data).request_id == "req_2"


# R14.


async def test_an_offer_without_the_stream_is_taken_while_there_is_room(
    bus: Bus, edge: EdgeStandIn, start: Start, sim: Sim
) -> None:
    runner = await start(slots=1)
    subject = subjects.direct("sim", "main")

    async def offer(number: int) -> bytes:
        offered = job(edge, number, "tokens=20,delay_ms=20").SerializeToString()
        return bytes((await bus.nc.request(subject, offered, timeout=2)).data)

    assert [await offer(1), await offer(2)] == [b"taken", b"busy"]
    await until(lambda: edge.kinds(1)[-1:] == ["completed"], "the first is answered")
    await all_quiet(runner)
    assert await offer(3) == b"taken"
