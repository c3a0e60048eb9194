"""What a server of the Responses API answers reaches a caller of ours in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.responses_answer import ResponsesAnswer
from broker.translate.responses_stream import ResponsesStream
from broker.v1 import event_pb2, generation_pb2
from tests.broker.translate.hub import asked, shown
from tests.workers.conformance.outcome import fold
from tests.workers.responses_answers import (
    ANSWERS,
    NOTE,
    call,
    message,
    reasoning,
    response,
    sse,
    streamed,
    whole,
)
from workers import registry

PROVIDER = registry.provider("openai")
HEADERS = {"x-request-id": "req_7", "x-ratelimit-limit-requests": "9"}


def decode(
    answer: bytes, size: int = 4096, request: generation_pb2.Request | None = None
) -> list[event_pb2.Event]:
    request = request or asked(stream=True)
    decoder = PROVIDER.serving(request, "m").dialect.decoder(request, HEADERS)
    events: list[event_pb2.Event] = []
    for start in range(0, len(answer), size):
        events += decoder.feed(answer[start : start + size])
    return [*events, *decoder.close()]


def rendered(events: Iterable[event_pb2.Event], **fields: Any) -> list[dict[str, Any]]:
    stream = ResponsesStream.of("resp_1", 1, asked(stream=True, **fields))
    return shown(stream.feed([*events]) + stream.finish())


def plain(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items without what is ours: ids, and state that nobody asked for."""
    ours = ("message", "reasoning", "function_call", "custom_tool_call", "image_generation_call")
    return [
        {
            name: value
            for name, value in item.items()
            if not (item["type"] in ours and name in ("id", "encrypted_content"))
        }
        for item in items
    ]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_stream_comes_out_in_the_order_it_came_in(name: str, size: int, line_end: bytes) -> None:
    sent = streamed(name)
    found = rendered(decode(sse(sent).replace(b"\n", line_end), size))
    assert [event["type"] for event in found] == [event["type"] for event in sent]
    assert plain(found[-1]["response"]["output"]) == plain(sent[-1]["response"]["output"])
    for ours, theirs in zip(found, sent, strict=True):
        for field in ("delta", "text", "arguments", "code", "part", "annotation", "output_index"):
            assert ours.get(field) == theirs.get(field), ours["type"]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_whole_answer_is_the_same_as_its_stream(name: str) -> None:
    request = asked()
    unary = decode(json.dumps(whole(name)).encode(), 7, request)
    answer = ResponsesAnswer("resp_1", 1, request)
    answer.feed(unary)
    found = json.loads(answer.render())
    of_stream = rendered(decode(sse(streamed(name))))[-1]["response"]
    assert found["output"] == of_stream["output"]
    assert found["usage"] == of_stream["usage"]
    assert found["status"] == of_stream["status"] == whole(name)["status"]
    assert found["incomplete_details"] == whole(name)["incomplete_details"]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_stream_cut_anywhere_is_an_error(name: str) -> None:
    sent = sse(streamed(name))
    ends = [at + 2 for at in range(len(sent)) if sent[at : at + 2] == b"\n\n"]
    for end in [0, *ends[:-1], len(sent) - 9]:
        with pytest.raises(InferenceError) as caught:
            decode(sent[:end])
        assert caught.value.reason == "upstream_incomplete"


def test_the_events_keep_the_laws_of_streams_and_say_where_they_came_from() -> None:
    events = decode(sse(streamed("reasoning")))
    outcome = fold(events)
    assert outcome.completed
    assert outcome.choices[0].finish_reason == "tool_calls"
    assert outcome.choices[0].reasoning == "One.Two."
    started = events[0].started
    assert (started.model, started.upstream_id) == ("gpt-5-2025-08-07", "resp_up")
    assert (started.upstream_request_id, started.service_tier) == ("req_7", "default")
    assert dict(started.rate_limits) == {"x-ratelimit-limit-requests": "9"}
    usage = events[-1].completed.usage
    assert (usage.input_tokens, usage.cache_read_tokens) == (15, 5)
    assert (usage.output_tokens, usage.reasoning_tokens) == (4, 8)


def test_calls_of_hosted_tools_are_counted() -> None:
    usage = decode(sse(streamed("web search")))[-1].completed.usage
    assert dict(usage.tool_calls) == {"web_search": 1}


def test_a_citation_is_told_in_the_form_that_all_formats_share() -> None:
    events = decode(sse(streamed("web search")))
    (note,) = (event.annotation for event in events if event.HasField("annotation"))
    inner = {name: value for name, value in NOTE.items() if name != "type"}
    assert json.loads(note.json) == {"type": "url_citation", "url_citation": inner}


def test_encrypted_reasoning_goes_back_under_the_id_it_came_with() -> None:
    include = {"include": ["reasoning.encrypted_content"]}
    found = rendered(decode(sse(streamed("reasoning"))), **include)
    item = found[-1]["response"]["output"][0]
    again = asked(input=[{"role": "user", "content": "Hi"}, item])
    provider = PROVIDER.serving(again, "gpt-5")
    body = json.loads(provider.dialect.call(again, "gpt-5", provider).body)
    assert body["input"][1] == {
        "type": "reasoning",
        "id": "rs_0",
        "summary": [
            {"type": "summary_text", "text": "One."},
            {"type": "summary_text", "text": "Two."},
        ],
        "encrypted_content": "gAAA",
    }


def test_what_a_server_tells_only_at_the_end_is_told_all_the_same() -> None:
    kinds = ("response.created", "response.output_item.done", "response.completed")
    for name in ("text", "calls", "custom call", "reasoning", "refusal", "raw reasoning"):
        sent = streamed(name)
        for kept in (kinds, kinds[::2]):
            short = [event for event in sent if event["type"] in kept]
            found = rendered(decode(sse(short)))[-1]["response"]
            assert plain(found["output"]) == plain(sent[-1]["response"]["output"])


def test_events_without_a_name_or_a_place_are_read_by_their_type_and_item() -> None:
    sent = streamed("text")
    for event in sent:
        event.pop("sequence_number")
        if "item_id" in event:
            event.pop("output_index")
    answer = "".join(f"data: {json.dumps(event)}\n\n" for event in sent) + "data: [DONE]\n\n"
    assert rendered(decode(answer.encode()))[-1]["response"]["output"][0]["content"]


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    events = message(0, "") + call(1, "f")
    sent = [
        {"type": "response.created", "response": response([], "in_progress")},
        *events,
        {"type": "response.completed", "response": response([], "completed")},
    ]
    outcome = fold(decode(sse(sent)))
    assert [c["arguments"] for c in outcome.choices[0].tool_calls] == [{}]


def test_usage_that_is_missing_is_estimated() -> None:
    sent = streamed("text")
    sent[-1]["response"]["usage"] = None
    usage = decode(sse(sent))[-1].completed.usage
    assert (usage.estimated, usage.output_tokens) == (True, 2)


FAILED = response([], "failed") | {"error": {"code": "server_error", "message": "Sorry."}}
LIMITED = {"code": "rate_limit_exceeded", "message": "Slow down.", "param": None}
ERRORS: list[tuple[Any, str, str]] = [
    ({"type": "response.failed", "response": FAILED}, "upstream_error", "Sorry."),
    ({"type": "error", **LIMITED}, "upstream_rate_limit", "Slow down."),
    ({"type": "error", "error": {"type": "tokens", **LIMITED}}, "upstream_rate_limit", "Slow"),
    (
        {"type": "error", "code": "context_length_exceeded", "message": "Too long."},
        "context_length_exceeded",
        "Too long.",
    ),
    (
        {"type": "response.cancelled", "response": response([], "cancelled")},
        "upstream_error",
        "cancelled",
    ),
]


@pytest.mark.parametrize(("last", "reason", "message"), ERRORS)
def test_an_error_in_a_stream_is_its_reason_of_the_table(
    last: dict[str, Any], reason: str, message: str
) -> None:
    sent = sse([*streamed("text")[:-1], last])
    with pytest.raises(InferenceError) as caught:
        decode(sent)
    error = caught.value
    assert error.reason == reason
    assert message in error.message
    assert error.upstream_status in (0, 200)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (FAILED, "upstream_error"),
        ({"error": {"code": "rate_limit_exceeded", "message": "no"}}, "upstream_rate_limit"),
        (response([], "queued"), "upstream_error"),
        ({"object": "list"}, "upstream_error"),
        ([], "upstream_error"),
    ],
)
def test_a_whole_answer_that_is_none_is_an_error(body: Any, reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        decode(json.dumps(body).encode())
    assert caught.value.reason == reason


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"data: {\n\n", b"data: 1\n\n"])
def test_what_is_not_json_is_an_error(body: bytes) -> None:
    with pytest.raises(InferenceError) as caught:
        decode(body)
    assert caught.value.reason in ("upstream_error", "upstream_incomplete")


def test_an_unknown_model_is_told_as_that() -> None:
    body = {
        "error": {
            "message": "The requested model 'x' does not exist.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    dialect = PROVIDER.serving(asked(), "x").dialect
    assert dialect.error(400, {}, json.dumps(body).encode()).reason == "model_not_found"


def test_reasoning_that_is_told_twice_is_shown_once() -> None:
    sent = streamed("reasoning")
    assert [e for e in sent if "summary_text.done" in e["type"]]
    outcome = fold(decode(sse(sent)))
    assert outcome.choices[0].reasoning == "One.Two."
    assert reasoning(0, "One.")[0]["item"]["summary"] == []
