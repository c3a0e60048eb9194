"""Stop sequences where the provider knows none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.v1 import event_pb2
from tests.workers.emulation.upstream import Chat, ask, attempt
from workers.emulation.stop import StopCut

Event = event_pb2.Event
STOP, LENGTH = event_pb2.FINISH_REASON_STOP, event_pb2.FINISH_REASON_LENGTH


def text(piece: str, choice: int = 0, logprobs: bytes = b"") -> Event:
    return Event(text=event_pb2.TextDelta(text=piece, choice=choice, logprobs=logprobs))


END = [
    Event(choice_finished=event_pb2.ChoiceFinished(reason=LENGTH)),
    Event(completed=event_pb2.Completed(usage=event_pb2.Usage(output_tokens=9))),
]


def fed(pieces: Sequence[str], stops: Sequence[str]) -> list[Event]:
    """The events of a stream of these pieces, up to the last that is asked for."""
    step = StopCut(ask(), stops)
    shown: list[Event] = []
    for event in [*map(text, pieces), *END]:
        shown += step.over([event])
        if shown and shown[-1].HasField("completed"):
            break
    return shown


def shown_text(events: Sequence[Event]) -> str:
    return "".join(event.text.text for event in events)


def first_cut(whole: str, stops: Sequence[str]) -> str:
    found = [at for stop in stops if (at := whole.find(stop)) >= 0]
    return whole[: min(found)] if found else whole


@given(
    pieces=st.lists(st.text("ab.", max_size=4), max_size=12),
    stops=st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_text_ends_before_the_first_stop_sequence_however_it_is_split(
    pieces: list[str], stops: list[str]
) -> None:
    events = fed(pieces, stops)
    whole = "".join(pieces)
    # Where the pieces end inside two sequences at once, the one that is whole first counts.
    expected = {first_cut(whole[:end], stops) for end in range(len(whole) + 1)}
    got = shown_text(events)
    assert got in expected
    assert not any(stop in got for stop in stops)
    cut = any(stop in whole for stop in stops)
    assert (got == whole) == (not cut)
    finished = [e.choice_finished for e in events if e.HasField("choice_finished")]
    assert [f.reason for f in finished] == [STOP if cut else LENGTH]


def test_no_more_than_a_possible_beginning_is_held_back() -> None:
    step = StopCut(ask(), ["END", "stop"])
    assert shown_text(list(step.over([text("to the EN")]))) == "to the "
    assert shown_text(list(step.over([text("GLISH s")]))) == "ENGLISH "
    assert shown_text(list(step.over(END))) == "s"


def test_a_whole_answer_keeps_the_usage_that_was_reported() -> None:
    step = StopCut(ask(), ["."])
    events = list(step.over([text("One. Two."), *END]))
    assert shown_text(events) == "One"
    assert [e.WhichOneof("kind") for e in events] == ["text", "choice_finished", "completed"]
    assert events[1].choice_finished.stop_sequence == "."
    assert events[-1].completed.usage == event_pb2.Usage(output_tokens=9)


def test_each_choice_is_cut_by_itself_and_the_answer_ends_with_the_last() -> None:
    step = StopCut(ask(n=2), ["."])
    events = list(step.over([text("a.", 0), text("b", 1), text("more", 0)]))
    assert not events[-1].HasField("completed")
    events += step.over([text("c.", 1)])
    assert [(e.text.choice, e.text.text) for e in events if e.HasField("text")] == [
        *((0, "a"), (1, "b"), (1, "c")),
    ]
    assert events[-1].completed.usage.estimated


def test_log_probabilities_stay_with_their_text() -> None:
    step = StopCut(ask(), ["END"])
    events = list(step.over([text("E", logprobs=b"[1]"), text("x", logprobs=b"[2]")]))
    assert [(e.text.text, e.text.logprobs) for e in events] == [("Ex", b"[1,2]")]


async def test_a_stream_is_cut_and_the_provider_told_to_stop() -> None:
    async with Chat(lambda _: ["One, ", "two E", "N", "D three"], endless=True).serve() as chat:
        request = ask(stream=True, stop=["END"])
        async with asyncio.timeout(5):
            got = await attempt("xai", chat.url, request, "grok-4")
            while chat.open:
                await asyncio.sleep(0.01)
    assert "stop" not in chat.bodies[0]
    assert chat.cut_off == 1
    assert (got.text(), got.finishes) == ("One, two ", {0: STOP})
    assert "stop" not in got.events[0].started.dropped_params
    used = got.events[-1].completed.usage
    assert used.estimated
    assert used.output_tokens == 3
    assert got.record.usage == used


async def test_a_whole_answer_is_cut() -> None:
    async with Chat(lambda _: "One, two END three").serve() as chat:
        got = await attempt("xai", chat.url, ask(stop=["END"]), "grok-4")
    assert (got.text(), got.finishes) == ("One, two ", {0: STOP})
    assert (got.record.usage.input_tokens, got.record.usage.estimated) == (7, False)


@pytest.mark.parametrize("model", ["grok-3", "grok-4-fast-non-reasoning"])
async def test_models_that_know_stop_sequences_get_them(model: str) -> None:
    async with Chat(lambda _: "One").serve() as chat:
        got = await attempt("xai", chat.url, ask(stop=["END"]), model)
    assert chat.bodies[0]["stop"] == ["END"]
    assert got.text() == "One"
