from __future__ import annotations

import json
from typing import Any

import pytest

from broker.v1 import event_pb2
from tests.workers.chat_answers import (
    DONE,
    STOP,
    TOOLS_END,
    decode,
    delta,
    sse,
    stream,
    tool,
    unary,
)
from tests.workers.conformance.outcome import fold


def test_the_first_event_says_who_answers() -> None:
    chunk = {**delta(content="a"), "system_fingerprint": "fp", "service_tier": "default"}
    headers = {"x-request-id": "req_1", "x-ratelimit-limit-tokens": "9", "date": "now"}
    started = decode(sse(chunk, STOP, DONE), stream=True, headers=headers)[0].started
    assert started == event_pb2.Started(
        model="m",
        upstream_id="chatcmpl-1",
        created=7,
        system_fingerprint="fp",
        service_tier="default",
        upstream_request_id="req_1",
        rate_limits={"x-ratelimit-limit-tokens": "9"},
    )


def test_a_filter_report_before_the_answer_does_not_start_it() -> None:
    report = {"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": []}
    assert stream(report, delta(content="a"), STOP, DONE)[0].started.model == "m"


def test_items_are_numbered_as_they_begin() -> None:
    chunks = [
        delta(reasoning_content="hm"),
        delta(content="a"),
        delta(tool_calls=[tool(0, "x", "f", "{}")]),
        delta(tool_calls=[tool(1, "y", "g", "{}")]),
        delta(content="b"),
    ]
    events = stream(*chunks, *TOOLS_END)[1:6]
    items = [getattr(event, event.WhichOneof("kind") or "").item for event in events]
    assert items == [0, 1, 2, 3, 1]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text", "thinking"])
def test_reasoning_is_read_from_any_of_its_fields(field: str) -> None:
    said: dict[str, Any] = {field: "hm"}
    assert fold(stream(delta(**said), STOP, DONE)).choices[0].reasoning == "hm"


def test_reasoning_in_both_fields_is_read_once() -> None:
    outcome = fold(stream(delta(reasoning_content="hm", reasoning="hm"), STOP, DONE))
    assert outcome.choices[0].reasoning == "hm"


def test_logprobs_go_with_their_text_untouched() -> None:
    content = '[{"token": "a", "logprob": -1.50, "top_logprobs": []}]'
    chunk = '{"choices":[{"delta":{"content":"a"},"logprobs":{"content":' + content + "}}]}"
    events = stream(chunk, STOP, DONE)
    assert events[1].text.logprobs == content.encode()
    body = '{"choices":[{"message":{"refusal":"no"},"logprobs":{"refusal":' + content + "}}]}"
    assert decode(body.encode(), stream=False)[1].refusal.logprobs == content.encode()


@pytest.mark.parametrize("logprobs", ["null", "-0.5", '{"tokens":["a"]}', '{"content":[]}'])
def test_logprobs_of_another_form_are_left_out(logprobs: str) -> None:
    chunk = '{"choices":[{"delta":{"content":"a"},"logprobs":' + logprobs + "}]}"
    assert stream(chunk, STOP, DONE)[1].text.logprobs == b""


def test_audio_comes_in_pieces() -> None:
    pieces = [{"id": "audio_1"}, {"transcript": "hi"}, {"data": "YWJj"}, {"expires_at": 99}]
    events = stream(*[delta(audio=piece) for piece in pieces], STOP, DONE)
    audio = [event.audio for event in events if event.HasField("audio")]
    assert [(a.id, a.transcript, a.data, a.expires_at) for a in audio] == [
        ("audio_1", "", b"", 0),
        ("", "hi", b"", 0),
        ("", "", b"abc", 0),
        ("", "", b"", 99),
    ]


def test_annotations_are_handed_on() -> None:
    note = {"type": "url_citation", "url_citation": {"url": "https://x"}}
    events = unary({"content": "a", "annotations": [note]})
    assert json.loads(events[2].annotation.json) == note


USAGES = [
    pytest.param({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, {"input_tokens": 5, "output_tokens": 7}, id="plain"),
    pytest.param({"prompt_tokens": 10, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 3, "cache_write_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 2}}, {"input_tokens": 2, "cache_read_tokens": 4, "cache_write_tokens": 1, "input_audio_tokens": 3, "output_tokens": 2, "reasoning_tokens": 5, "output_audio_tokens": 2}, id="every class"),
    pytest.param({"prompt_tokens": 5, "completion_tokens": 7, "completion_tokens_details": {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 3}}, {"input_tokens": 5, "output_tokens": 7, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 3}, id="prediction"),
    pytest.param({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 9}}, {"cache_read_tokens": 5, "output_tokens": 7}, id="a part larger than its total"),
    pytest.param({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135, "completion_tokens_details": {"reasoning_tokens": 94}}, {"input_tokens": 32, "output_tokens": 9, "reasoning_tokens": 94}, id="reasoning beside the completion"),
    pytest.param({"prompt_tokens": 5, "completion_tokens": 7, "cached_tokens": 2}, {"input_tokens": 3, "cache_read_tokens": 2, "output_tokens": 7}, id="cached_tokens without details"),
    pytest.param({"prompt_tokens": 5, "completion_tokens": 7, "prompt_cache_hit_tokens": 2}, {"input_tokens": 3, "cache_read_tokens": 2, "output_tokens": 7}, id="prompt_cache_hit_tokens"),
    pytest.param({"input_tokens": 5, "output_tokens": 7}, {"input_tokens": 5, "output_tokens": 7}, id="the newer names"),
    pytest.param({"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": None}, {"input_tokens": 5}, id="nulls"),
    pytest.param({"prompt_tokens": 5.0, "completion_tokens": -1}, {"input_tokens": 5}, id="odd numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("reported", "classes"), USAGES)
def test_usage_is_split_into_disjoint_classes(
    reported: dict[str, Any], classes: dict[str, int]
) -> None:
    usage = unary({"content": "a"}, usage=reported)[-1].completed.usage
    assert usage == event_pb2.Usage(**classes)  # type: ignore[arg-type]


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 3}])
def test_usage_that_is_missing_is_estimated_from_the_characters_and_marked(usage: Any) -> None:
    call = {"id": "a", "function": {"name": "abcd", "arguments": "1234"}}
    message = {"content": "x" * 9, "reasoning_content": "y" * 5, "tool_calls": [call]}
    estimated = unary(message, usage=usage)[-1].completed.usage
    # 40 characters asked, 9 + 4 + 4 said, 5 thought; four to a token, rounded up.
    assert estimated == event_pb2.Usage(
        input_tokens=10, output_tokens=5, reasoning_tokens=2, estimated=True
    )
