"""The edge's end of the delivery plane, over real gRPC from a worker that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from broker.errors import InferenceError
from broker.v1 import delivery_service_pb2 as pb
from broker.v1 import delivery_service_pb2_grpc as pb_grpc
from edge import delivery
from edge.attempt import Attempt
from edge.delivery import CREDIT_BYTES, OPTIONS, DeliveryServer, Link
from edge.exchange import Exchange
from tests.edge.story import DONE, Story, started, text, texts, until

TOKEN = "fleet-token"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
HELLO = pb.Hello(worker="w1", provider="a", pool="main")


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One for all: gRPC still tells the loop of a test that has ended of what came late."""
    yield
    await asyncio.sleep(0.1)


class Desk:
    """One accepted request, published and not yet claimed."""

    def __init__(self) -> None:
        self.story = Story()
        self.story.exchange.launch()
        self.exchanges: dict[str, Exchange] = {"req_1": self.story.exchange}
        self.allowed = pb.TimeLimits(connect_ms=1000, first_token_ms=2000, stall_ms=3000)
        self.lost: list[tuple[str, str]] = []

    def limits(self, exchange: Exchange, attempt: Attempt) -> pb.TimeLimits:
        return self.allowed

    def worker_lost(self, provider: str, pool: str) -> None:
        self.lost.append((provider, pool))

    def claim(self, *, secret: bytes | None = None, attempt: int = 0) -> pb.Claim:
        current = self.story.attempt
        return pb.Claim(
            request_id="req_1",
            attempt=attempt or current.number,
            secret=current.secret if secret is None else secret,
        )


class Worker:
    """Says what a test wants, and keeps what the edge says."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        self.stub = pb_grpc.DeliveryServiceStub(self._channel)
        self.controls: list[pb.Control] = []
        self.call: Any = None

    async def dial(self) -> None:
        self.call = self.stub.Deliver(metadata=AUTHORIZED)
        assert await self.call.read() == pb.DeliverResponse()
        await self.call.write(pb.DeliverRequest(hello=HELLO))

    async def say(self, *frames: pb.Frame, gauges: pb.WorkerGauges | None = None) -> None:
        await self.call.write(pb.DeliverRequest(frames=frames, gauges=gauges))

    async def claim(self, number: int, claim: pb.Claim) -> pb.Control:
        await self.say(pb.Frame(session=number, claim=claim))
        return await self.told()

    async def told(self) -> pb.Control:
        """The next control."""
        async with asyncio.timeout(3):
            while not self.controls:
                self.controls.extend((await self.call.read()).controls)
        return self.controls.pop(0)

    async def events(self, number: int, *events: Any) -> None:
        await self.say(pb.Frame(session=number, events=pb.Events(events=events)))

    async def hang_up(self) -> None:
        await self._channel.close()


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def server(desk: Desk) -> AsyncIterator[DeliveryServer]:
    server = DeliveryServer(desk, TOKEN)
    yield server
    await server.close()


@pytest.fixture
async def port(server: DeliveryServer) -> int:
    return await server.start("127.0.0.1", 0)


@pytest.fixture
async def worker(port: int) -> AsyncIterator[Worker]:
    worker = Worker(port)
    await worker.dial()
    yield worker
    await worker.hang_up()


def link_of(server: DeliveryServer) -> Link:
    (link,) = server.links
    return link


# Leaving.


async def test_a_worker_that_says_goodbye_is_not_lost_and_one_that_hangs_up_is(
    desk: Desk, server: DeliveryServer, port: int
) -> None:
    polite, rude = Worker(port), Worker(port)
    for worker in (polite, rude):
        await worker.dial()
    await until(lambda: len(server.links) == 2)
    await polite.call.write(pb.DeliverRequest(leaving=True))
    await polite.call.done_writing()
    await until(lambda: len(server.links) == 1)
    assert desk.lost == []
    await rude.call.done_writing()
    await until(lambda: desk.lost == [("a", "main")])
    await polite.hang_up()
    await rude.hang_up()


# Claims (R1).


async def test_the_current_attempt_is_granted_with_its_time_and_credit(
    desk: Desk, worker: Worker
) -> None:
    control = await worker.claim(7, desk.claim())
    assert control.session == 7
    assert control.grant.credit_bytes == CREDIT_BYTES
    assert 0 < control.grant.remaining_ms <= 60_000
    assert control.grant.limits == desk.allowed


async def test_an_attempt_is_granted_once(desk: Desk, worker: Worker, port: int) -> None:
    assert (await worker.claim(1, desk.claim())).HasField("grant")
    assert (await worker.claim(2, desk.claim())).kill.reason == "superseded"
    other = Worker(port)
    await other.dial()
    assert (await other.claim(1, desk.claim())).kill.reason == "superseded"
    await other.hang_up()
    # The first one still has it.
    await worker.events(1, started(), text("x"), DONE)
    assert texts(await desk.story.read()) == "x"


@pytest.mark.parametrize("attempt", [1, 3])
async def test_a_claim_of_another_attempt_than_the_current_is_superseded(
    desk: Desk, worker: Worker, attempt: int
) -> None:
    desk.story.run()
    desk.story.exchange.lost(desk.story.attempt)
    assert desk.story.attempt.number == 2
    assert (await worker.claim(1, desk.claim(attempt=attempt))).kill.reason == "superseded"
    assert (await worker.claim(2, desk.claim())).HasField("grant")


async def test_a_claim_of_a_request_nobody_waits_for_is_unknown(desk: Desk, worker: Worker) -> None:
    claim = desk.claim()
    desk.exchanges.clear()
    assert (await worker.claim(1, claim)).kill.reason == "unknown"


@pytest.mark.parametrize("secret", [b"", b"wrong", b"\0" * 16])
async def test_a_claim_without_the_jobs_secret_is_refused(
    desk: Desk, worker: Worker, secret: bytes
) -> None:
    assert (await worker.claim(1, desk.claim(secret=secret))).kill.reason == "refused"
    assert desk.story.attempt.session is None
    assert (await worker.claim(2, desk.claim())).HasField("grant")


async def test_no_worker_without_the_fleet_token_is_listened_to(
    desk: Desk, server: DeliveryServer, port: int
) -> None:
    stranger = Worker(port)
    for metadata in ((), (("authorization", "Bearer another"),)):
        call = stranger.stub.Deliver(metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not server.links
    await stranger.hang_up()


async def test_a_worker_that_does_not_say_who_it_is_is_refused(port: int) -> None:
    stranger = Worker(port)
    call = stranger.stub.Deliver(metadata=AUTHORIZED)
    await call.read()
    await call.write(pb.DeliverRequest())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    await stranger.hang_up()


# Sessions.


async def test_events_of_a_session_that_is_not_known_are_answered_by_a_kill(
    desk: Desk, worker: Worker
) -> None:
    await worker.events(9, text("x"))
    control = await worker.told()
    assert (control.session, control.kill.reason) == (9, "unknown")


async def test_a_caller_that_leaves_kills_the_session_and_fences_what_comes_late(
    desk: Desk, worker: Worker, server: DeliveryServer
) -> None:
    await worker.claim(1, desk.claim())
    desk.story.exchange.close()
    assert (await worker.told()).kill.reason == "cancelled"
    await worker.events(1, text("x"))
    assert (await worker.told()).kill.reason == "unknown"
    assert not link_of(server).sessions


async def test_a_session_ends_with_its_last_event(
    desk: Desk, worker: Worker, server: DeliveryServer
) -> None:
    await worker.claim(1, desk.claim())
    await worker.events(1, started(), text("a"))
    assert texts(await desk.story.read()) == "a"
    assert list(link_of(server).sessions) == [1]
    await worker.events(1, DONE)
    await until(lambda: not link_of(server).sessions)
    assert len(desk.story.host.charges) == 1


async def test_a_large_answer_is_credited_while_it_is_read(desk: Desk, worker: Worker) -> None:
    await worker.claim(1, desk.claim())
    page = text("x" * (100 << 10))
    for _ in range(2):
        await worker.events(1, page)
        await desk.story.read()
    control = await worker.told()
    assert control.session == 1
    assert control.credit_bytes >= 200 << 10


async def test_what_a_worker_says_of_itself_is_kept(worker: Worker, server: DeliveryServer) -> None:
    await worker.say(gauges=pb.WorkerGauges(busy=3))
    await until(lambda: link_of(server).gauges.busy == 3)


# Losses (R3).


async def test_a_worker_that_hangs_up_loses_its_requests_at_once(
    desk: Desk, worker: Worker, server: DeliveryServer
) -> None:
    await worker.claim(1, desk.claim())
    await worker.hang_up()
    await until(lambda: len(desk.story.host.published) == 2)
    assert desk.story.plan.losses == 1
    assert desk.lost == [("a", "main")]
    assert not server.links


async def test_a_silent_worker_loses_its_requests_though_its_socket_is_open(
    desk: Desk, worker: Worker, server: DeliveryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await worker.claim(1, desk.claim())
    server.check()
    assert desk.story.plan.losses == 0
    monkeypatch.setattr(delivery, "SILENCE_S", 0.0)
    await asyncio.sleep(0.01)
    server.check()
    assert desk.story.plan.losses == 1
    assert desk.lost == [("a", "main")]
    # It wakes up: what it still sends is fenced out.
    await worker.events(1, text("late"))
    assert (await worker.told()).kill.reason == "unknown"


async def test_what_is_handed_back_runs_again_and_is_nobodys_failure(
    desk: Desk, worker: Worker, server: DeliveryServer
) -> None:
    await worker.claim(1, desk.claim())
    await worker.say(pb.Frame(session=1, hand_back=pb.HandBack(reason="draining")))
    await until(lambda: len(desk.story.host.published) == 2)
    assert desk.story.plan.losses == 0
    assert not link_of(server).sessions


async def test_a_hand_back_of_nothing_is_passed_over(desk: Desk, worker: Worker) -> None:
    await worker.say(pb.Frame(session=5, hand_back=pb.HandBack(reason="draining")))
    assert (await worker.claim(6, desk.claim())).HasField("grant")
    assert len(desk.story.host.published) == 1


# Bodies (R10).


async def body(
    worker: Worker, claim: pb.Claim, metadata: Any = AUTHORIZED, attachment: int | None = None
) -> bytes:
    ask = pb.FetchBodyRequest(
        request_id=claim.request_id,
        attempt=claim.attempt,
        secret=claim.secret,
        attachment=attachment,
    )
    call = worker.stub.FetchBody(ask, metadata=metadata)
    return b"".join([piece.data async for piece in call])


async def test_a_body_comes_in_pieces_and_whole(desk: Desk, worker: Worker) -> None:
    desk.story.exchange.shown.asked = bytes(range(256)) * 5_000
    assert await body(worker, desk.claim()) == desk.story.exchange.raw


async def test_a_body_is_given_to_nobody_but_who_has_the_job(desk: Desk, worker: Worker) -> None:
    wrong = [
        desk.claim(secret=b"wrong"),
        desk.claim(attempt=2),
        pb.Claim(request_id="req_2", attempt=1, secret=desk.claim().secret),
    ]
    for claim in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await body(worker, claim)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await body(worker, desk.claim(), metadata=())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_files_come_by_their_numbers_until_the_request_ends(
    desk: Desk, worker: Worker
) -> None:
    exchange = desk.story.exchange
    files: list[bytes | memoryview] = [memoryview(b"a" * 700_000), b"", b"c"]
    exchange.attachments = files
    claim = desk.claim()
    for number, content in enumerate(files):
        assert await body(worker, claim, attachment=number) == content
    for missing in (-1, 3):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await body(worker, claim, attachment=missing)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    exchange.close()
    assert not exchange.attachments


# The server.


async def test_a_port_that_is_taken_is_an_error_and_not_shared(desk: Desk, port: int) -> None:
    second = DeliveryServer(desk, TOKEN)
    with pytest.raises(OSError, match="cannot listen"):
        await second.start("127.0.0.1", port)
    await second.close()


async def test_closing_the_server_ends_its_links(
    desk: Desk, worker: Worker, server: DeliveryServer
) -> None:
    await worker.claim(1, desk.claim())
    await server.close()
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await worker.call.read()
    await until(lambda: not server.links)
    assert isinstance(desk.story.exchange._error, InferenceError | None)
