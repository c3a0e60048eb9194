"""The worker's end of the delivery plane, over real gRPC to an edge that a test plays."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from broker.v1 import content_pb2, event_pb2, generation_pb2, job_pb2
from broker.v1 import delivery_service_pb2 as pb
from tests.ports import free_port
from tests.workers.edge_standin import TOKEN, EdgeStandIn, until
from workers import delivery
from workers.delivery import EdgeLink, EdgeLost, Killed, Session
from workers.pieces import MAX_TEXT

Event = event_pb2.Event
HELLO = pb.Hello(worker="w1", provider="sim", pool="main")
JOB = job_pb2.Job(request_id="r1", attempt=2, claim_secret=b"s" * 16)


def of_size(size: int) -> job_pb2.Job:
    """`JOB` with a body of so many bytes that its edge keeps."""
    return job_pb2.Job(
        request_id="r1",
        attempt=2,
        claim_secret=b"s" * 16,
        body_reference=job_pb2.BodyReference(size=size),
    )


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One for all: gRPC still tells the loop of a test that has ended of what came late."""
    yield
    await asyncio.sleep(0.1)


@pytest.fixture
async def edge() -> AsyncIterator[EdgeStandIn]:
    edge = EdgeStandIn()
    await edge.start()
    yield edge
    edge.reading.set()
    await edge.stop()


@pytest.fixture
async def link(edge: EdgeStandIn) -> AsyncIterator[EdgeLink]:
    link = EdgeLink(edge.address, TOKEN, HELLO)
    yield link
    await link.close()


async def granted(link: EdgeLink) -> Session:
    session = link.open(JOB, alone=False)
    await asyncio.wait_for(session.grant(), 3)
    return session


def text(piece: str) -> Event:
    return Event(text=event_pb2.TextDelta(text=piece))


DONE = Event(completed=event_pb2.Completed())


# Claims.


async def test_a_claim_shows_its_secret_and_is_granted(edge: EdgeStandIn, link: EdgeLink) -> None:
    session = link.open(JOB, alone=True)
    grant = await asyncio.wait_for(session.grant(), 3)
    assert grant.remaining_ms == 60_000
    assert edge.hellos == [HELLO]
    assert edge.frames[0].claim == pb.Claim(
        request_id="r1", attempt=2, secret=b"s" * 16, alone=True
    )


async def test_a_refused_claim_is_killed_with_its_reason(edge: EdgeStandIn, link: EdgeLink) -> None:
    edge.on_claim = lambda number, _claim: edge.kill(number, "superseded")
    session = link.open(JOB, alone=False)
    with pytest.raises(Killed, match="superseded"):
        await asyncio.wait_for(session.grant(), 3)
    assert link.sessions == {}


async def test_a_grant_and_a_kill_that_come_together_are_a_kill(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    async def both(number: int, _claim: pb.Claim) -> None:
        await edge.say(
            pb.Control(session=number, grant=pb.Grant(remaining_ms=1000, credit_bytes=10)),
            pb.Control(session=number, kill=pb.Kill(reason="cancelled")),
        )

    edge.on_claim = both
    session = link.open(JOB, alone=False)
    with pytest.raises(Killed):
        await asyncio.wait_for(session.grant(), 3)


async def test_whoever_asks_to_be_told_of_the_end_is_told_though_it_has_come(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    session = await granted(link)
    await edge.kill(session.number)
    await until(lambda: session.over is not None, "it was killed")
    told: list[int] = []
    session.when_over(lambda: told.append(1))
    assert told == [1]


async def test_an_edge_that_does_not_answer_a_claim_is_given_up(
    edge: EdgeStandIn, link: EdgeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "GRANT_S", 0.1)
    edge.on_claim = None
    session = link.open(JOB, alone=False)
    await until(lambda: edge.frames, "the claim arrived")
    await asyncio.sleep(0.15)
    link.heartbeat(pb.WorkerGauges())
    with pytest.raises(EdgeLost):
        await asyncio.wait_for(session.grant(), 1)


async def test_a_grant_that_comes_too_late_is_handed_back(
    edge: EdgeStandIn, link: EdgeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the edge would wait for its answer until the deadline."""
    monkeypatch.setattr(delivery, "GRANT_S", 0.1)
    edge.on_claim = None
    session = link.open(JOB, alone=False)
    await until(lambda: edge.frames, "the claim arrived")
    await asyncio.sleep(0.15)
    link.heartbeat(pb.WorkerGauges())
    with pytest.raises(EdgeLost):
        await asyncio.wait_for(session.grant(), 1)
    session.close()
    await edge.grant(session.number, pb.Claim())
    await until(lambda: edge.kinds(session.number) == ["claim", "hand_back"], "it is handed back")


async def test_a_session_that_ends_without_its_last_event_is_handed_back(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    session = await granted(link)
    session.send([text("a")])
    session.close()
    await until(lambda: "hand_back" in edge.kinds(session.number), "it is handed back")


async def test_a_session_that_has_ended_costs_no_further_frame(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    whole = await granted(link)
    whole.send([text("a"), DONE], last=True)
    whole.close()
    killed = await granted(link)
    await edge.kill(killed.number)
    await until(lambda: killed.over is not None, "it was killed")
    killed.close()
    back = await granted(link)
    back.hand_back("draining")
    back.close()
    await until(lambda: edge.kinds(back.number) == ["claim", "hand_back"], "it is handed back")
    await asyncio.sleep(0.05)
    assert edge.kinds(whole.number) == ["claim", "text", "completed"]
    assert edge.kinds(killed.number) == ["claim"]
    assert edge.kinds(back.number) == ["claim", "hand_back"]


# Events.


async def test_events_arrive_in_order_and_share_messages(edge: EdgeStandIn, link: EdgeLink) -> None:
    sessions = [await granted(link) for _ in range(20)]
    before = len(edge.messages)
    for n in range(50):
        for session in sessions:
            session.send([text(f"{n} ")])
    for session in sessions:
        session.send([DONE], last=True)
    await until(lambda: all(edge.kinds(s.number)[-1] == "completed" for s in sessions), "all came")
    expected = "".join(f"{n} " for n in range(50))
    for session in sessions:
        assert "".join(e.text.text for e in edge.events(session.number)) == expected
    assert len(edge.messages) - before < 20


LARGE = "0123456789abcdef" * 20_000  # 320 kB
WIDE = "é" * 200_000
CALL = event_pb2.ToolCallDelta(
    index=4, call_id="c", name="f", arguments=LARGE, kind=content_pb2.TOOL_KIND_CUSTOM
)
LARGE_EVENTS = [
    ("text", Event(text=event_pb2.TextDelta(text=LARGE, choice=1, item=2, logprobs=b"[1]"))),
    ("text", Event(text=event_pb2.TextDelta(text=WIDE))),
    ("reasoning", Event(reasoning=event_pb2.ReasoningDelta(text=LARGE, summary=True, part=3))),
    ("refusal", Event(refusal=event_pb2.RefusalDelta(text=LARGE))),
    ("tool_call", Event(tool_call=CALL)),
    ("audio", Event(audio=event_pb2.AudioDelta(id="a", data=LARGE.encode(), transcript="t"))),
]


@pytest.mark.parametrize(("kind", "event"), LARGE_EVENTS, ids=[row[0] for row in LARGE_EVENTS])
async def test_a_large_event_is_cut_and_says_the_same(
    edge: EdgeStandIn, link: EdgeLink, kind: str, event: Event
) -> None:
    field = {"tool_call": "arguments", "audio": "data"}.get(kind, "text")
    session = await granted(link)
    session.send([event, DONE], last=True)
    await until(lambda: edge.kinds(session.number)[-1] == "completed", "all came")
    pieces = edge.events(session.number)[:-1]
    assert len(pieces) > 1
    assert max(piece.ByteSize() for piece in pieces) <= MAX_TEXT + 100
    # Put together they are the event again: what is given once is in the first piece alone.
    whole = Event()
    for piece in pieces:
        joined = getattr(getattr(whole, kind), field) + getattr(getattr(piece, kind), field)
        whole.MergeFrom(piece)
        setattr(getattr(whole, kind), field, joined)
    assert whole == event
    once = {"text": "logprobs", "tool_call": "call_id", "audio": "transcript"}.get(kind)
    if once:
        assert not any(getattr(getattr(piece, kind), once) for piece in pieces[1:])


async def test_an_event_that_cannot_be_cut_arrives_however_large(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    picture = event_pb2.ImageDelta()
    picture.image.data = bytes(40 << 20)
    session = await granted(link)
    session.send([Event(image=picture), DONE], last=True)
    await until(lambda: edge.kinds(session.number)[-1:] == ["completed"], "it came", 10)
    assert len(edge.events(session.number)[0].image.image.data) == 40 << 20


async def test_many_large_answers_at_once_do_not_make_one_message_too_large(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    sessions = [await granted(link) for _ in range(40)]
    page = text("x" * (64 << 10))
    for _ in range(16):  # as much as their credit allows: 40 MiB in all
        for session in sessions:
            session.send([page])
    for session in sessions:
        session.send([DONE], last=True)
    await until(
        lambda: all(edge.kinds(s.number)[-1] == "completed" for s in sessions), "all came", 20
    )
    assert max(message.ByteSize() for message in edge.messages) < 4 << 20
    assert all(len(edge.events(s.number)) == 17 for s in sessions)
    assert link.alive


# Credit.


async def test_without_credit_a_sender_waits_until_it_is_given_some(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    edge.credit = 1000
    session = await granted(link)
    session.send([text("x" * 1200)])
    waiting = asyncio.create_task(session.wait_credit())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await edge.say(pb.Control(session=session.number, credit_bytes=100))
    await asyncio.sleep(0.05)
    assert not waiting.done()  # not enough yet
    await edge.say(pb.Control(session=session.number, credit_bytes=900))
    await asyncio.wait_for(waiting, 1)


async def test_of_several_that_wait_one_may_give_up_and_the_others_go_on(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    """An attempt may be several calls, which share its credit."""
    edge.credit = 10
    session = await granted(link)
    session.send([text("x" * 100)])
    waiting = [asyncio.create_task(session.wait_credit()) for _ in range(3)]
    await asyncio.sleep(0.02)
    waiting[1].cancel()
    await asyncio.wait(waiting[1:2], timeout=1)
    assert [task.done() for task in waiting] == [False, True, False]
    await edge.say(pb.Control(session=session.number, credit_bytes=1000))
    await asyncio.wait_for(asyncio.gather(waiting[0], waiting[2]), 5)


async def test_a_starved_sender_learns_of_the_kill_and_of_the_loss(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    edge.credit = 1
    first, second = await granted(link), await granted(link)
    for session in (first, second):
        session.send([text("xxxx")])
    waiting = [asyncio.create_task(s.wait_credit()) for s in (first, second)]
    await asyncio.sleep(0.02)
    await edge.kill(first.number)
    with pytest.raises(Killed):
        await asyncio.wait_for(waiting[0], 1)
    await edge.stop()
    with pytest.raises(EdgeLost):
        await asyncio.wait_for(waiting[1], 1)


async def test_credit_never_grows_beyond_what_was_granted(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    """The edge counts what frames weigh, the worker what events do: a little less."""
    edge.credit = 10_000
    session = await granted(link)
    for _ in range(200):
        session.send([text("xx")])
        await edge.say(pb.Control(session=session.number, credit_bytes=300))
    await until(lambda: len(edge.events(session.number)) == 200, "all came")
    await asyncio.sleep(0.05)
    assert session.credit == 10_000


async def test_one_sessions_starvation_is_nobody_elses(edge: EdgeStandIn, link: EdgeLink) -> None:
    edge.credit = 10
    starved, free = await granted(link), await granted(link)
    starved.send([text("x" * 100)])
    waiting = asyncio.create_task(starved.wait_credit())
    free.send([text("y"), DONE], last=True)
    await until(lambda: edge.kinds(free.number)[-1] == "completed", "the other went on")
    assert not waiting.done()
    waiting.cancel()


# Ends.


async def test_a_wrong_token_loses_its_claims_and_is_an_error_in_the_log(
    edge: EdgeStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        link = EdgeLink(edge.address, "another-token", HELLO)
        session = link.open(JOB, alone=False)
        with pytest.raises(EdgeLost):
            await asyncio.wait_for(session.grant(), 3)
        await until(lambda: not link.alive, "the link is dead")
        await link.close()
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert any("wrong fleet token" in message for message in errors)
    assert link._task.done()
    assert link._task.cancelled() or link._task.exception() is None


async def test_an_edge_that_is_not_there_is_given_up_soon() -> None:
    link = EdgeLink(f"127.0.0.1:{free_port()}", TOKEN, HELLO)
    session = link.open(JOB, alone=False)
    begun = time.monotonic()
    with pytest.raises(EdgeLost):
        await asyncio.wait_for(session.grant(), 5)
    assert time.monotonic() - begun < delivery.CONNECT_S + 1
    with pytest.raises(EdgeLost):
        link.open(JOB, alone=False)
    await link.close()


async def test_a_dead_edge_ends_every_session_at_once(edge: EdgeStandIn, link: EdgeLink) -> None:
    sessions = [await granted(link) for _ in range(3)]
    over: list[Session] = []
    for session in sessions:
        session.when_over(lambda session=session: over.append(session))  # type: ignore[misc]
    begun = time.monotonic()
    await edge.stop()
    await until(lambda: len(over) == 3, "all are told")
    assert time.monotonic() - begun < 1
    assert all(isinstance(session.over, EdgeLost) for session in sessions)
    assert not link.alive


async def test_a_silent_edge_is_lost_though_its_socket_is_open(
    edge: EdgeStandIn, link: EdgeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SILENCE_S", 0.3)
    session = await granted(link)
    await asyncio.sleep(0.2)
    link.heartbeat(pb.WorkerGauges())
    assert session.over is None
    await asyncio.sleep(0.2)
    link.heartbeat(pb.WorkerGauges())
    await until(lambda: isinstance(session.over, EdgeLost), "it is lost")
    await until(lambda: edge.ended == 1, "and hung up")


async def test_an_empty_message_is_a_sign_of_life(
    edge: EdgeStandIn, link: EdgeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SILENCE_S", 0.3)
    session = await granted(link)
    for _ in range(5):
        await asyncio.sleep(0.1)
        await edge.say()
        await asyncio.sleep(0.02)
        link.heartbeat(pb.WorkerGauges())
    assert session.over is None


async def test_a_link_without_sessions_may_be_silent(
    edge: EdgeStandIn, link: EdgeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SILENCE_S", 0.05)
    session = await granted(link)
    session.send([DONE], last=True)
    session.close()
    await asyncio.sleep(0.1)
    link.heartbeat(pb.WorkerGauges())
    await asyncio.sleep(0.05)
    assert link.alive


async def test_what_is_queued_arrives_before_the_worker_hangs_up(edge: EdgeStandIn) -> None:
    for _ in range(10):
        link = EdgeLink(edge.address, TOKEN, HELLO)
        session = await granted(link)
        session.send([text("x" * 1000)] * 50)
        session.hand_back("draining")
        await link.close()
        assert edge.kinds(session.number)[-1] == "hand_back"
        edge.frames.clear()
    await until(lambda: edge.ended == 10, "it hung up")
    assert edge.messages[-1].leaving


async def test_hanging_up_on_an_edge_that_does_not_read_ends_soon(edge: EdgeStandIn) -> None:
    link = EdgeLink(edge.address, TOKEN, HELLO)
    session = await granted(link)
    edge.reading.clear()
    for _ in range(64):
        session.send([text("x" * (64 << 10))])
    begun = time.monotonic()
    await link.close()
    assert time.monotonic() - begun < 4
    assert link._task.done()


async def test_a_restarted_edge_on_the_same_port_is_reached_by_a_new_link(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    await granted(link)
    port = edge.port
    await edge.stop()
    await until(lambda: not link.alive, "the old link is dead")
    await edge.start(port)
    again = EdgeLink(edge.address, TOKEN, HELLO)
    session = await granted(again)
    session.send([DONE], last=True)
    await until(lambda: edge.kinds(session.number)[-1] == "completed", "it came")
    await again.close()


async def test_one_worker_serves_two_edges_and_one_ending_leaves_the_other(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    other = EdgeStandIn()
    await other.start()
    second = EdgeLink(other.address, TOKEN, HELLO)
    mine, theirs = await granted(link), await granted(second)
    await edge.stop()
    await until(lambda: mine.over is not None, "one is lost")
    theirs.send([text("still here"), DONE], last=True)
    await until(lambda: other.kinds(theirs.number)[-1] == "completed", "the other goes on")
    await second.close()
    await other.stop()


async def test_closing_a_link_leaves_no_task(edge: EdgeStandIn) -> None:
    link = EdgeLink(edge.address, TOKEN, HELLO)
    await granted(link)
    await link.close()
    await asyncio.sleep(0)
    assert not {t for t in asyncio.all_tasks() if edge.address in t.get_name()}


# Bodies.


async def test_a_body_is_put_together_from_its_pieces(edge: EdgeStandIn, link: EdgeLink) -> None:
    request = generation_pb2.Request()
    request.generate.model = "x" * 3_000_000
    raw = request.SerializeToString()
    edge.body = [raw[i : i + 100_000] for i in range(0, len(raw), 100_000)]
    assert await link.fetch_body(of_size(len(raw))) == request
    with pytest.raises(EdgeLost):
        await link.fetch_body(of_size(len(raw) + 1))


async def test_a_file_comes_in_pieces(edge: EdgeStandIn, link: EdgeLink) -> None:
    edge.body = [b"a", b"bc"]
    assert [piece async for piece in link.fetch_attachment(JOB, 1)] == [b"a", b"bc"]


async def test_a_file_that_cannot_be_had_is_the_edges_loss(
    edge: EdgeStandIn, link: EdgeLink
) -> None:
    edge.body = grpc.StatusCode.NOT_FOUND
    with pytest.raises(EdgeLost):
        await anext(link.fetch_attachment(JOB, 1))


@pytest.mark.parametrize(
    "body", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL, [b"\xff\xff\xff"]]
)
async def test_a_body_that_cannot_be_had_is_the_edges_loss_not_a_crash(
    edge: EdgeStandIn, link: EdgeLink, body: list[bytes] | grpc.StatusCode
) -> None:
    edge.body = body
    with pytest.raises(EdgeLost):
        await link.fetch_body(of_size(3))
