"""Disjoint token classes add up to what OpenAI's clients expect."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import CompletionUsage

from broker.translate.chat_stream import ChatStream
from broker.translate.completions import CompletionStream
from broker.translate.usage import chat_usage
from broker.v1 import event_pb2, generation_pb2

NO_PROMPT_DETAILS = {"cached_tokens": 0, "audio_tokens": 0}
NO_COMPLETION_DETAILS = {
    "reasoning_tokens": 0,
    "audio_tokens": 0,
    "accepted_prediction_tokens": 0,
    "rejected_prediction_tokens": 0,
}

ROWS: list[tuple[dict[str, Any], tuple[int, int], dict[str, Any], dict[str, Any]]] = [
    ({}, (0, 0), {}, {}),
    ({"input_tokens": 10, "output_tokens": 3}, (10, 3), {}, {}),
    (
        {"input_tokens": 10, "cache_read_tokens": 5, "output_tokens": 3},
        (15, 3),
        {"cached_tokens": 5},
        {},
    ),
    (
        {"input_tokens": 1, "cache_read_tokens": 5, "cache_write_tokens": 7},
        (13, 0),
        {"cached_tokens": 5, "cache_write_tokens": 7},
        {},
    ),
    (
        # The hour's part is among cache_write_tokens already.
        {"cache_write_tokens": 7, "cache_write_1h_tokens": 4},
        (7, 0),
        {"cache_write_tokens": 7},
        {},
    ),
    (
        {"input_tokens": 10, "input_audio_tokens": 4, "output_audio_tokens": 2},
        (14, 2),
        {"audio_tokens": 4},
        {"audio_tokens": 2},
    ),
    ({"output_tokens": 3, "reasoning_tokens": 9}, (0, 12), {}, {"reasoning_tokens": 9}),
    (
        # Predicted tokens are among the output tokens already.
        {"output_tokens": 9, "accepted_prediction_tokens": 5, "rejected_prediction_tokens": 2},
        (0, 9),
        {},
        {"accepted_prediction_tokens": 5, "rejected_prediction_tokens": 2},
    ),
]


@pytest.mark.parametrize(("classes", "totals", "prompt", "completion"), ROWS)
def test_classes_add_up_to_openais_totals(
    classes: dict[str, Any],
    totals: tuple[int, int],
    prompt: dict[str, Any],
    completion: dict[str, Any],
) -> None:
    shown = msgspec.to_builtins(chat_usage(event_pb2.Usage(**classes)))
    assert shown == {
        "prompt_tokens": totals[0],
        "completion_tokens": totals[1],
        "total_tokens": sum(totals),
        "prompt_tokens_details": NO_PROMPT_DETAILS | prompt,
        "completion_tokens_details": NO_COMPLETION_DETAILS | completion,
    }
    CompletionUsage.model_validate(shown)


def test_an_estimate_says_so() -> None:
    shown = msgspec.to_builtins(chat_usage(event_pb2.Usage(output_tokens=1, estimated=True)))
    assert shown["estimated"] is True


_CLASSES = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "input_audio_tokens",
    "output_tokens",
    "reasoning_tokens",
    "output_audio_tokens",
)


@given(st.fixed_dictionaries({name: st.integers(0, 2**40) for name in _CLASSES}))
@settings(deadline=None, database=None, derandomize=True)
def test_every_token_is_counted_exactly_once(classes: dict[str, Any]) -> None:
    assert chat_usage(event_pb2.Usage(**classes)).total_tokens == sum(classes.values())


def cost_of(make: Any, request: generation_pb2.Request, nano: int | None) -> Any:
    """What the last chunk of a stream says that it cost."""
    completed = event_pb2.Completed(usage=event_pb2.Usage(input_tokens=1, output_tokens=1))
    if nano is not None:
        completed.cost.nano_usd = nano
    stream = make("id", 1, request)
    data = stream.feed([event_pb2.Event(completed=completed)]) + stream.finish()
    last = data.split(b"\n\n")[-3].removeprefix(b"data: ")
    return json.loads(last)["usage"].get("cost")


def test_a_stream_tells_its_cost_where_it_was_asked_for_its_usage_and_prices_are_known() -> None:
    chat, legacy = generation_pb2.Request(), generation_pb2.Request()
    chat.generate.stream_options.include_usage = True
    legacy.complete.include_usage = True
    for make, request in ((ChatStream.of, chat), (CompletionStream.of, legacy)):
        assert cost_of(make, request, 1_500_000) == 0.0015
        assert cost_of(make, request, None) is None
