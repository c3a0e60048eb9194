"""Every recorded stream of the chat format in other chunks, and tool calls however they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from broker.errors import InferenceError
from tests.workers.conformance.outcome import Outcome, decode
from tests.workers.conformance.recordings import Recording, all_recordings
from tests.workers.conformance.sequences import (
    CHANGES,
    CUTS,
    Calls,
    Change,
    Chunk,
    chunks_of,
    stream_of,
)
from workers import registry
from workers.dialects.openai_chat import DIALECT

STREAMS = [
    recording
    for recording in all_recordings()
    if recording.is_event_stream
    and "error" not in recording.expected
    and registry.provider(recording.provider).dialect is DIALECT
]
CALLS: Calls = [("call_1", "f", '{"a":1}'), ("call_2", "g", ""), ("call_3", "f", '{"b":"ü"}')]
BASE = {"id": "1", "model": "m"}


def told(recording: Recording, answer: bytes, size: int = 4096) -> Outcome:
    return decode(DIALECT, recording, answer, size)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("recording", STREAMS, ids=lambda recording: recording.id)
def test_a_stream_means_the_same_in_other_chunks(recording: Recording, change: Change) -> None:
    answer = stream_of(change(chunks_of(recording.answer)))
    assert told(recording, answer, 7) == told(recording, recording.answer)


@pytest.mark.parametrize("recording", STREAMS, ids=lambda recording: recording.id)
def test_a_stream_means_the_same_without_its_end_mark(recording: Recording) -> None:
    chunks = chunks_of(recording.answer)
    named = any(choice.get("finish_reason") for c in chunks for choice in c.get("choices") or ())
    cut = stream_of(chunks, end="")
    if named:
        assert told(recording, cut) == told(recording, recording.answer)
    else:
        with pytest.raises(InferenceError):
            told(recording, cut)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__.strip("_"))
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize("count", [1, 3])
def test_tool_calls_are_the_same_however_they_are_cut(
    cut: Callable[[Calls], Iterator[list[Chunk]]], finish: str, count: int
) -> None:
    said = [{**BASE, "choices": [_choice({"tool_calls": calls})]} for calls in cut(CALLS[:count])]
    opening = {**BASE, "choices": [_choice({"role": "assistant", "content": None})]}
    end = {**BASE, "choices": [{**_choice({}), "finish_reason": finish}]}
    outcome = told(STREAMS[0], stream_of([opening, *said, end]))
    [choice] = outcome.choices.values()
    wanted = [
        {"id": "call_1", "name": "f", "arguments": {"a": 1}},
        {"id": "call_2", "name": "g", "arguments": {}},
        {"id": "call_3", "name": "f", "arguments": {"b": "ü"}},
    ]
    assert choice.tool_calls == wanted[:count]


def _choice(delta: Chunk) -> Chunk:
    return {"index": 0, "delta": delta, "finish_reason": None}
