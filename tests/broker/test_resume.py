"""A second run continues exactly where the shown part of the first one ended, or is refused."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InferenceError
from broker.resume import CONTENT, Transcript
from broker.v1 import event_pb2

Event = event_pb2.Event
# What a channel is: kind, choice, index of the tool call (or 1 for a summary of the reasoning).
Channel = tuple[str, int, int]
# A tool's name, and its arguments; other channels have no name.
Answer = dict[Channel, tuple[str, str]]


def delta(channel: Channel, text: str, name: str = "", run: int = 1) -> Event:
    kind, choice, index = channel
    if kind == "tool_call":
        call = event_pb2.ToolCallDelta(choice=choice, index=index, arguments=text, name=name)
        call.call_id = f"call_{run}_{index}" if name else ""
        return Event(tool_call=call)
    if kind == "choice_finished":
        reason = event_pb2.FinishReason.Value(text)
        return Event(choice_finished=event_pb2.ChoiceFinished(choice=choice, reason=reason))
    if kind == "reasoning":
        reasoning = event_pb2.ReasoningDelta(choice=choice, text=text, summary=bool(index))
        return Event(reasoning=reasoning)
    if kind == "refusal":
        return Event(refusal=event_pb2.RefusalDelta(choice=choice, text=text))
    return Event(text=event_pb2.TextDelta(choice=choice, text=text))


TEXT: Channel = ("text", 0, 0)
STOP = delta(("choice_finished", 0, 0), "FINISH_REASON_STOP")
LENGTH = delta(("choice_finished", 0, 0), "FINISH_REASON_LENGTH")


def text(piece: str) -> Event:
    return delta(TEXT, piece)


def kind_of(event: Event) -> str:
    return event.WhichOneof("kind") or ""


def shown(*events: Event) -> Transcript:
    """A transcript whose answer is about to be run again."""
    transcript = Transcript()
    for event in events:
        transcript.show(kind_of(event), event)
    transcript.rewind()
    return transcript


def replay(transcript: Transcript, events: list[Event]) -> list[Event]:
    """What the caller gets to see of the next run."""
    out = []
    for event in events:
        copy = Event.FromString(event.SerializeToString())
        checked = transcript.check(kind_of(copy), copy)
        if checked is not None:
            out.append(checked)
            transcript.show(kind_of(checked), checked)
    transcript.finish()
    return out


class Reader:
    """A caller: puts deltas together, and minds what must come once."""

    def __init__(self) -> None:
        self.channels: dict[Channel, str] = defaultdict(str)
        self.names: dict[Channel, list[str]] = defaultdict(list)
        self.finishes: dict[int, list[int]] = defaultdict(list)
        self.after_finish = False

    def read(self, events: list[Event]) -> Reader:
        for event in events:
            kind = kind_of(event)
            body = getattr(event, kind)
            if kind == "choice_finished":
                self.finishes[body.choice].append(body.reason)
                continue
            index = body.index if kind == "tool_call" else 0
            if kind == "reasoning":
                index = int(body.summary)
            channel = (kind, body.choice, index)
            self.after_finish |= bool(self.finishes[body.choice])
            self.channels[channel] += body.arguments if kind == "tool_call" else body.text
            if kind == "tool_call" and body.name:
                self.names[channel].append(body.name)
        return self


# Strategies: an answer, any way of cutting it into deltas, any point at which it broke off.

few_words = st.text(alphabet="ab \n\0é", max_size=12)
channels = st.one_of(
    st.tuples(st.sampled_from(["text", "refusal"]), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("reasoning"), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.just("tool_call"), st.integers(0, 1), st.integers(0, 2)),
)
answers = st.dictionaries(channels, st.tuples(st.sampled_from(["f", "g"]), few_words), max_size=5)
finishes = st.sampled_from(["FINISH_REASON_STOP", "FINISH_REASON_LENGTH"])


@st.composite
def cut(draw: st.DrawFn, answer: Answer, finish: str | None, run: int = 1) -> list[Event]:
    """The answer as events: each channel in pieces of any size, channels in any order."""
    queues: list[list[Event]] = []
    for channel, (name, whole) in answer.items():
        points = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[a:b] for a, b in zip([0, *points], [*points, len(whole)], strict=True)]
        queue = [delta(channel, piece) for piece in pieces]
        if channel[0] == "tool_call":
            first = delta(channel, pieces[0], name, run)
            queue[0] = first
        queues.append(queue)
    events = []
    while queues:
        queue = draw(st.sampled_from(queues))
        events.append(queue.pop(0))
        queues = [left for left in queues if left]
    if finish is not None:
        choices = sorted({choice for _, choice, _ in answer} | {0})
        events += [delta(("choice_finished", choice, 0), finish) for choice in choices]
    return events


@given(data=st.data(), answer=answers, finish=finishes)
def test_any_cutting_of_the_same_answer_gives_exactly_the_missing_rest(
    data: st.DataObject, answer: Answer, finish: str
) -> None:
    first = data.draw(cut(answer, finish))
    seen = first[: data.draw(st.integers(0, len(first)))]
    second = data.draw(cut(answer, finish, run=2))
    rest = replay(shown(*seen), second)
    reader = Reader().read(seen + rest)
    assert {c: t for c, t in reader.channels.items() if t} == {
        c: t for c, (_, t) in answer.items() if t
    }
    assert dict(reader.names) == {c: [n] for c, (n, _) in answer.items() if c[0] == "tool_call"}
    assert all(len(reasons) == 1 for reasons in reader.finishes.values() if reasons)
    # The ids of calls that were shown stay.
    for event in rest:
        if kind_of(event) == "tool_call":
            opened = any(
                kind_of(e) == "tool_call"
                and (e.tool_call.choice, e.tool_call.index)
                == (event.tool_call.choice, event.tool_call.index)
                for e in seen
            )
            assert not (opened and event.tool_call.call_id)


@given(data=st.data(), answer=answers, finish=finishes)
def test_a_second_and_a_third_break_resume_as_well(
    data: st.DataObject, answer: Answer, finish: str
) -> None:
    transcript = Transcript()
    seen: list[Event] = []
    for run in range(3):
        events = data.draw(cut(answer, finish, run=run))
        for event in events[: data.draw(st.integers(0, len(events)))]:
            checked = transcript.check(kind_of(event), event)
            if checked is not None:
                seen.append(checked)
                transcript.show(kind_of(checked), checked)
        transcript.rewind()
    seen += replay(transcript, data.draw(cut(answer, finish)))
    reader = Reader().read(seen)
    assert {c: t for c, t in reader.channels.items() if t} == {
        c: t for c, (_, t) in answer.items() if t
    }
    assert not reader.after_finish


@given(data=st.data(), answer=answers, other=answers, finish=finishes, other_finish=finishes)
def test_any_other_answer_is_refused_and_no_text_is_doubled(
    data: st.DataObject, answer: Answer, other: Answer, finish: str, other_finish: str
) -> None:
    first = data.draw(cut(answer, finish))
    seen = first[: data.draw(st.integers(0, len(first)))]
    reader = Reader().read(seen)
    second = data.draw(cut(other, other_finish, run=2))
    transcript = shown(*seen)
    rest: list[Event] = []
    refusal: InferenceError | None = None
    try:
        for event in second:
            checked = transcript.check(kind_of(event), event)
            if checked is not None:
                rest.append(checked)
        transcript.finish()
    except InferenceError as exc:
        refusal = exc
    before = {channel: said for channel, said in reader.channels.items() if said}
    reader.read(rest)
    # Where something was added, it continues what the second run said.
    for channel, said in reader.channels.items():
        if said != before.get(channel, ""):
            assert other[channel][1].startswith(said)
    assert not reader.after_finish
    if refusal is not None:
        assert (refusal.reason, refusal.phase) == ("worker_lost", "content")
    else:
        assert {c: t for c, t in reader.channels.items() if t} == {
            c: t for c, (_, t) in other.items() if t
        }
        for reasons in reader.finishes.values():
            assert len(reasons) <= 1


DIFFERENT = [
    ("another text", [text("Hello")], [text("Help!"), STOP]),
    ("a shorter text", [text("Hello")], [text("Hel"), STOP]),
    ("no text", [text("Hello")], [STOP]),
    ("another case", [text("Hello")], [text("hello"), STOP]),
    ("another finish", [text("Hi"), STOP], [text("Hi"), LENGTH]),
    ("a longer text though it was finished", [text("Hi"), STOP], [text("Hi there"), STOP]),
    (
        "a tool call though it was finished",
        [text("Hi"), STOP],
        [text("Hi"), delta(("tool_call", 0, 0), "{}", "f"), STOP],
    ),
    (
        "another tool",
        [delta(("tool_call", 0, 0), "{}", "f")],
        [delta(("tool_call", 0, 0), "{}", "g"), STOP],
    ),
    (
        "a tool whose name only begins the same",
        [delta(("tool_call", 0, 0), "", "f")],
        [delta(("tool_call", 0, 0), "", "ff"), STOP],
    ),
    (
        "other arguments",
        [delta(("tool_call", 0, 0), '{"a":1', "f")],
        [delta(("tool_call", 0, 0), '{"a":2}', "f"), STOP],
    ),
    (
        "the calls in another order",
        [delta(("tool_call", 0, 0), "", "f"), delta(("tool_call", 0, 1), "", "g")],
        [delta(("tool_call", 0, 0), "", "g"), delta(("tool_call", 0, 1), "", "f"), STOP],
    ),
    (
        "reasoning instead of its summary",
        [delta(("reasoning", 0, 1), "so")],
        [delta(("reasoning", 0, 0), "so"), STOP],
    ),
    ("the other choice", [delta(("text", 1, 0), "Hi")], [text("Hi"), STOP]),
]


@pytest.mark.parametrize(
    ("first", "second"), [row[1:] for row in DIFFERENT], ids=[row[0] for row in DIFFERENT]
)
def test_a_different_answer_is_refused(first: list[Event], second: list[Event]) -> None:
    with pytest.raises(InferenceError) as told:
        replay(shown(*first), second)
    assert told.value.reason == "worker_lost"
    assert told.value.phase == "content"


def test_a_finish_reason_is_not_shown_before_the_text_it_finishes() -> None:
    transcript = shown(text("Hello world"))
    assert transcript.check("text", text("Hello")) is None
    with pytest.raises(InferenceError):
        transcript.check("choice_finished", STOP)


def test_nothing_is_held_back_when_nothing_was_shown() -> None:
    events = [text("a"), text("b"), STOP]
    assert replay(shown(), events) == events


def test_one_event_may_hold_the_shown_part_and_the_rest() -> None:
    assert replay(shown(text("Hel"), text("lo ")), [text("Hello world"), STOP]) == [
        text("world"),
        STOP,
    ]


INCOMPARABLE = [
    Event(audio=event_pb2.AudioDelta(data=b"x")),
    Event(image=event_pb2.ImageDelta()),
    Event(blob=event_pb2.BlobEvent()),
    Event(opaque=event_pb2.OpaqueEvent()),
    Event(annotation=event_pb2.AnnotationEvent(json=b"{}")),
    Event(text=event_pb2.TextDelta(text="x", logprobs=b"[]")),
    Event(refusal=event_pb2.RefusalDelta(text="x", logprobs=b"[]")),
]


@pytest.mark.parametrize("event", INCOMPARABLE, ids=kind_of)
def test_what_cannot_be_compared_makes_an_answer_not_resumable(event: Event) -> None:
    transcript = Transcript()
    assert transcript.resumable
    transcript.show(kind_of(event), event)
    assert not transcript.resumable


def test_the_fast_way_to_show_text_is_the_same_as_the_general_one() -> None:
    events = [
        text("a"),
        delta(("text", 1, 0), "b"),
        text("c"),
        Event(text=event_pb2.TextDelta(text="d", choice=2)),
    ]
    fast = Transcript()
    for event in events:
        fast.show_text(event.text)
    fast.rewind()
    general = shown(*events)
    assert fast._expected == general._expected
    assert fast.resumable
    fast.show_text(event_pb2.TextDelta(text="x", logprobs=b"[]"))
    assert not fast.resumable


def test_every_event_of_the_hub_is_content_or_known_not_to_be() -> None:
    kinds = {f.name for f in Event.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert kinds - CONTENT == {"started", "completed", "failed"}
