"""What an outbox makes is what protobuf reads."""

from __future__ import annotations

import pytest

from broker.v1 import delivery_service_pb2 as pb
from broker.v1 import event_pb2
from workers.outbox import MAX_MESSAGE, Outbox


def text(piece: str) -> event_pb2.Event:
    return event_pb2.Event(text=event_pb2.TextDelta(text=piece))


def put(outbox: Outbox, session: int, *events: event_pb2.Event) -> None:
    encoded = [event.SerializeToString() for event in events]
    outbox.add_events(session, encoded, sum(map(len, encoded)))


def read(outbox: Outbox) -> pb.DeliverRequest:
    raw, more = outbox.message(None)
    assert not more
    return pb.DeliverRequest.FromString(raw)


# Lengths around those where a number takes one byte more.
@pytest.mark.parametrize("session", [1, 127, 128, 16_383, 16_384, 2**40])
@pytest.mark.parametrize("length", [0, 1, 119, 127, 128, 16_370, 16_384, 200_000])
def test_events_are_read_as_they_were_put(session: int, length: int) -> None:
    events = [text("x" * length), text("é"), event_pb2.Event(completed=event_pb2.Completed())]
    outbox = Outbox()
    put(outbox, session, *events)
    expected = pb.Frame(session=session, events=pb.Events(events=events))
    assert read(outbox) == pb.DeliverRequest(frames=[expected])


def test_frames_come_first_and_each_session_has_one_frame_of_events() -> None:
    outbox = Outbox()
    put(outbox, 1, text("a"))
    put(outbox, 2, text("b"))
    put(outbox, 1, text("c"))
    outbox.add(pb.Frame(session=2, hand_back=pb.HandBack(reason="draining")))
    message, _ = outbox.message(pb.WorkerGauges(busy=3))
    assert pb.DeliverRequest.FromString(message) == pb.DeliverRequest(
        frames=[
            pb.Frame(session=2, hand_back=pb.HandBack(reason="draining")),
            pb.Frame(session=1, events=pb.Events(events=[text("a"), text("c")])),
            pb.Frame(session=2, events=pb.Events(events=[text("b")])),
        ],
        gauges=pb.WorkerGauges(busy=3),
    )
    assert not outbox


def test_an_empty_outbox_makes_the_empty_message_of_a_heartbeat() -> None:
    assert Outbox().message(None) == (b"", False)


def test_what_is_dropped_is_not_sent() -> None:
    outbox = Outbox()
    put(outbox, 1, text("a"))
    outbox.drop(1)
    assert not outbox
    assert read(outbox) == pb.DeliverRequest()


def test_a_backlog_goes_in_turns_and_in_order() -> None:
    outbox = Outbox()
    piece = "x" * (MAX_MESSAGE // 4)
    for number in range(6):
        for session in (1, 2):
            put(outbox, session, text(f"{number}{piece}"))
    said: dict[int, str] = {1: "", 2: ""}
    messages = 0
    while outbox:
        raw, more = outbox.message(None)
        assert more is bool(outbox)
        assert len(raw) < 2 * MAX_MESSAGE
        messages += 1
        for frame in pb.DeliverRequest.FromString(raw).frames:
            said[frame.session] += "".join(e.text.text[0] for e in frame.events.events)
    assert said == {1: "012345", 2: "012345"}
    assert messages == 3
