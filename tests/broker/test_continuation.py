"""A cut answer is continued where it can be joined without a seam, and only there."""

from __future__ import annotations

from typing import Any

import pytest

from broker.continuation import Continuation, prefilled
from broker.errors import InferenceError
from broker.resume import Transcript
from broker.v1 import content_pb2, event_pb2, generation_pb2

Event = event_pb2.Event
SHOWN = "The quick brown fox jumps"
STOP = Event(choice_finished=event_pb2.ChoiceFinished(reason=event_pb2.FINISH_REASON_STOP))


def text(piece: str, **more: Any) -> Event:
    return Event(text=event_pb2.TextDelta(text=piece, **more))


def transcript(*events: Event) -> Transcript:
    shown = Transcript()
    for event in events or (text(SHOWN),):
        shown.show(event.WhichOneof("kind") or "", event)
    return shown


def request(**fields: Any) -> generation_pb2.Request:
    asked = generation_pb2.Request(generate=generation_pb2.GenerateRequest(model="m", **fields))
    if "messages" not in fields:
        question = content_pb2.Part(text=content_pb2.Text(text="go"))
        asked.generate.messages.add(role=content_pb2.ROLE_USER, parts=[question])
    return asked


def test_the_request_ends_with_what_was_shown_and_allows_as_much_less() -> None:
    asked = request(max_tokens=100, stream=True)
    begun = prefilled(
        asked.SerializeToString(), transcript(text("The quick brown "), text("foxes \n"))
    )
    assert begun is not None
    made = generation_pb2.Request.FromString(begun[0]).generate
    last = made.messages[-1]
    assert (last.role, last.continued) == (content_pb2.ROLE_ASSISTANT, True)
    assert last.parts[0].text.text == "The quick brown foxes"
    assert made.max_tokens == 100 - 6
    assert made.messages[:-1] == asked.generate.messages
    assert made.stream


_FORM = generation_pb2.ResponseFormat(kind=generation_pb2.ResponseFormat.KIND_JSON_SCHEMA)
_CALL = Event(tool_call=event_pb2.ToolCallDelta(name="f", arguments="{"))
_ASSISTANT = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        pytest.param({}, (text("Too short"),), id="too little to tell a new beginning by"),
        pytest.param({}, (text(" " * 50),), id="blank"),
        pytest.param({}, (text(SHOWN), _CALL), id="a tool call"),
        pytest.param({}, (text(SHOWN), STOP), id="finished"),
        pytest.param({}, (text(SHOWN), text("x", choice=1)), id="two answers"),
        pytest.param({"n": 2}, (), id="two answers wanted"),
        pytest.param({"response_format": _FORM}, (), id="a form of its own"),
        pytest.param({"messages": [_ASSISTANT]}, (), id="prefilled by the caller"),
        pytest.param({"messages": []}, (), id="no messages"),
        pytest.param({"max_output_tokens": 7}, (), id="nothing left to say"),
    ],
)
def test_what_cannot_be_continued_is_not(asked: dict[str, Any], shown: tuple[Event, ...]) -> None:
    assert prefilled(request(**asked).SerializeToString(), transcript(*shown)) is None


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("shown", "answered", "expected"),
    [
        pytest.param(SHOWN, " over it", " over it", id="plain"),
        pytest.param(SHOWN, SHOWN + " over it", " over it", id="repeated first"),
        pytest.param(SHOWN + " ", " over it", "over it", id="space comes again"),
        pytest.param(SHOWN + " ", "over it", "over it", id="space does not"),
        pytest.param(SHOWN + "\n\n", SHOWN + "\n\n\nX", "\nX", id="repeated with its spaces"),
        pytest.param(SHOWN + "\n ", "\nX", "X", id="some of the spaces"),
        pytest.param(SHOWN, "The end", "The end", id="begins alike"),
        pytest.param(SHOWN, SHOWN, "", id="nothing to add"),
    ],
)
def test_the_joint_shows_nothing_twice(shown: str, answered: str, expected: str, size: int) -> None:
    continuation = Continuation(shown, shown.rstrip())
    joined = ""
    for start in range(0, len(answered), size):
        event = continuation.check("text", text(answered[start : start + size]))
        joined += event.text.text if event is not None else ""
    assert continuation.check("choice_finished", STOP) == STOP
    continuation.finish()
    assert joined == expected


def test_an_end_that_may_be_a_repetition_is_an_error() -> None:
    continuation = Continuation(SHOWN, SHOWN)
    assert continuation.check("text", text("The quick")) is None
    with pytest.raises(InferenceError, match="cannot be joined"):
        continuation.check("choice_finished", STOP)


def test_thoughts_are_left_out_and_a_call_follows_the_text() -> None:
    continuation = Continuation(SHOWN, SHOWN)
    thought = Event(reasoning=event_pb2.ReasoningDelta(text="hm"))
    assert continuation.check("reasoning", thought) is None
    call = Event(tool_call=event_pb2.ToolCallDelta(call_id="c", name="f"))
    checked = continuation.check("tool_call", call)
    assert checked is not None
    assert (checked.tool_call.item, checked.tool_call.call_id) == (1, "c")


def test_what_was_shown_counts_as_output_by_estimate() -> None:
    usage = event_pb2.Usage(input_tokens=30, output_tokens=5)
    Continuation(SHOWN, SHOWN).count(usage)
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (23, 12, True)
    cached = event_pb2.Usage(input_tokens=2, cache_read_tokens=28, output_tokens=5)
    Continuation(SHOWN, SHOWN).count(cached)
    assert (cached.input_tokens, cached.output_tokens) == (0, 7)
