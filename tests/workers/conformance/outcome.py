"""Folds a stream of hub events into what the caller is told, checking the laws of streams."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from tests.workers.conformance.recordings import Recording
from workers.provider import Dialect

FINISH = {
    event_pb2.FINISH_REASON_STOP: "stop",
    event_pb2.FINISH_REASON_LENGTH: "length",
    event_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    event_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


@dataclass
class Choice:
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Outcome:
    """What the events say, all together."""

    model: str = ""
    choices: dict[int, Choice] = field(default_factory=lambda: defaultdict(Choice))
    usage: dict[str, int] | None = None
    estimated: bool = False
    completed: bool = False


def decode(dialect: Dialect, recording: Recording, answer: bytes, size: int) -> Outcome:
    """The outcome of an answer that arrives in pieces of `size` bytes; raises what the decoder does."""
    request = generation_pb2.Request()
    request.generate.model = recording.model
    request.generate.stream = recording.stream
    decoder = dialect.decoder(request, recording.headers)
    events: list[event_pb2.Event] = []
    try:
        for start in range(0, len(answer), size):
            events += decoder.feed(answer[start : start + size])
        events += decoder.close()
    except InferenceError:
        # Even what came before the failure keeps the laws.
        assert not fold(events).completed
        raise
    return fold(events)


def fold(events: Iterable[event_pb2.Event]) -> Outcome:
    """Applies the events in order; an assertion fails where a law of streams is broken."""
    outcome = Outcome()
    started = False
    for event in events:
        kind = event.WhichOneof("kind")
        assert not outcome.completed, f"{kind} after the terminal event"
        assert started == (kind != "started"), f"{kind} when started={started}"
        started = True
        if kind == "started":
            outcome.model = event.started.model
        elif kind == "completed":
            _complete(outcome, event.completed.usage)
        else:
            assert kind not in (None, "failed"), "a decoder raises its failures"
            _apply(outcome.choices, event)
    if outcome.completed:
        assert sorted(outcome.choices) == list(range(len(outcome.choices)))
        for choice in outcome.choices.values():
            assert choice.finish_reason, "completed without a finish reason"
            for call in choice.tool_calls:
                call["arguments"] = json.loads(call["arguments"] or "{}")
    return outcome


def _complete(outcome: Outcome, usage: event_pb2.Usage) -> None:
    classes = {name.name: value for name, value in usage.ListFields()}
    assert all(value >= 0 for value in classes.values() if isinstance(value, int))
    outcome.completed = True
    outcome.estimated = usage.estimated
    outcome.usage = {
        "prompt": usage.input_tokens
        + usage.cache_read_tokens
        + usage.cache_write_tokens
        + usage.input_audio_tokens,
        "completion": usage.output_tokens + usage.reasoning_tokens + usage.output_audio_tokens,
        "cached": usage.cache_read_tokens,
        "reasoning": usage.reasoning_tokens,
    }


def _apply(choices: dict[int, Choice], event: event_pb2.Event) -> None:
    kind = event.WhichOneof("kind")
    assert kind is not None
    choice = choices[getattr(event, kind).choice]
    assert choice.finish_reason is None, f"{kind} after the choice finished"
    if kind == "text":
        choice.text += event.text.text
    elif kind == "reasoning":
        choice.reasoning += event.reasoning.text
    elif kind == "refusal":
        choice.refusal += event.refusal.text
    elif kind == "tool_call":
        call = event.tool_call
        assert 0 <= call.index <= len(choice.tool_calls), "tool call indexes are contiguous"
        if call.index == len(choice.tool_calls):
            assert call.call_id, "the first delta of a tool call has its id"
            assert call.name, "the first delta of a tool call has its name"
            choice.tool_calls.append({"id": call.call_id, "name": call.name, "arguments": ""})
        choice.tool_calls[call.index]["arguments"] += call.arguments
    elif kind == "choice_finished":
        choice.finish_reason = FINISH[event.choice_finished.reason]
