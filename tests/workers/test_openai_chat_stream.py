from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2
from tests.workers.chat_answers import (
    DIALECT,
    DONE,
    STOP,
    decode,
    delta,
    fails,
    request,
    sse,
    stream,
    unary,
)
from tests.workers.conformance.outcome import fold

FINISHES = [
    ("stop", event_pb2.FINISH_REASON_STOP),
    ("eos", event_pb2.FINISH_REASON_STOP),
    ("end_turn", event_pb2.FINISH_REASON_STOP),
    ("length", event_pb2.FINISH_REASON_LENGTH),
    ("model_length", event_pb2.FINISH_REASON_LENGTH),
    ("max_tokens", event_pb2.FINISH_REASON_LENGTH),
    ("tool_calls", event_pb2.FINISH_REASON_TOOL_CALLS),
    ("function_call", event_pb2.FINISH_REASON_TOOL_CALLS),
    ("content_filter", event_pb2.FINISH_REASON_CONTENT_FILTER),
    ("a new word", event_pb2.FINISH_REASON_STOP),
]


@pytest.mark.parametrize(("word", "reason"), FINISHES)
def test_the_provider_s_word_for_the_end_is_mapped_and_kept(
    word: str, reason: event_pb2.FinishReason.ValueType
) -> None:
    for events in (
        stream(delta(content="a"), delta(finish=word), DONE),
        unary({"content": "a"}, choice={"finish_reason": word}),
    ):
        finished = events[-2].choice_finished
        assert (finished.reason, finished.upstream_reason) == (reason, word)


@pytest.mark.parametrize(
    ("word", "reason"),
    [("error", "upstream_error"), ("insufficient_system_resource", "upstream_overloaded")],
)
def test_a_finish_reason_that_means_failure_fails(word: str, reason: str) -> None:
    assert fails(sse(delta(content="a"), delta(finish=word), DONE), stream=True).reason == reason


INCOMPLETE = [
    pytest.param(b"", 1, id="nothing"),
    pytest.param(sse(DONE), 1, id="only the end mark"),
    pytest.param(sse(delta(content="a")), 1, id="the end of the connection"),
    pytest.param(sse(delta(content="a"), DONE), 1, id="an end mark without a finish reason"),
    pytest.param(sse(delta(content="a", finish=""), DONE), 1, id="an empty finish reason"),
    pytest.param(sse(delta(content="a"), STOP)[:-30], 1, id="cut inside the last event"),
    pytest.param(sse(delta(content="a"), STOP), 2, id="a second choice has not begun"),
    pytest.param(sse(delta(0, content="a"), delta(1, content="b"), STOP, DONE), 2, id="a second choice has not finished"),
    pytest.param(b": keep-alive\n\n: keep-alive\n\n", 1, id="only comments"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "n"), INCOMPLETE)
def test_a_stream_without_its_finish_reason_is_incomplete(answer: bytes, n: int) -> None:
    assert fails(answer, stream=True, n=n).reason == "upstream_incomplete"


COUNTED = {"id": "1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


def _nameless(**said: Any) -> dict[str, Any]:
    """A chunk of a server that has no field for finish reasons."""
    return {"id": "1", "model": "m", "choices": [{"index": 0, "delta": said}]}


def test_a_server_that_names_no_reasons_is_believed_when_it_counts_and_says_that_it_is_done() -> (
    None
):
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    assert fold(stream(_nameless(content="a"), COUNTED, DONE)).choices[0].finish_reason == "stop"
    called = fold(stream(_nameless(tool_calls=[call]), COUNTED, DONE))
    assert called.choices[0].finish_reason == "tool_calls"
    for cut in (
        sse(_nameless(content="a"), COUNTED),
        sse(_nameless(content="a"), DONE),
        sse(delta(content="a"), COUNTED, DONE),  # null, so that it has the field
    ):
        assert fails(cut, stream=True).reason == "upstream_incomplete"


def test_a_finish_reason_is_enough_without_the_end_mark() -> None:
    assert fold(stream(delta(content="a"), STOP)).choices[0].text == "a"


def test_a_choice_more_or_less_than_asked_is_the_provider_s_choice() -> None:
    assert len(fold(stream(delta(content="a"), STOP, DONE, n=2)).choices) == 1


def test_an_answer_is_over_with_the_usage_behind_its_finish_reason() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    decoder = DIALECT.decoder(request(stream=True), {})
    events = [*decoder.feed(sse(delta(content="a"), {**STOP, "usage": usage}))]
    assert events[-1].completed.usage.output_tokens == 4
    assert [*decoder.feed(sse({"choices": [], "usage": usage}, DONE))] == []
    assert [*decoder.close()] == []


def test_usage_ends_nothing_while_a_choice_has_not_begun() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    chunks = [{**delta(0, content="a", finish="stop"), "usage": usage}, delta(1, content="b", finish="stop"), DONE]  # fmt: skip
    outcome = fold(stream(*chunks, n=2))
    assert [choice.text for _, choice in sorted(outcome.choices.items())] == ["a", "b"]


def test_usage_before_the_finish_reason_ends_nothing_and_the_last_one_counts() -> None:
    chunks = [
        {**delta(content="a"), "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        {**delta(content="b"), "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        STOP,
        DONE,
    ]
    outcome = fold(stream(*chunks))
    assert outcome.choices[0].text == "ab"
    assert outcome.usage is not None
    assert outcome.usage["completion"] == 2


def test_choices_interleave() -> None:
    chunks = [delta(0, content="a"), delta(1, content="x"), delta(0, content="b"), delta(1, finish="length"), delta(0, finish="stop")]  # fmt: skip
    outcome = fold(stream(*chunks, DONE, n=2))
    assert [(c.text, c.finish_reason) for _, c in sorted(outcome.choices.items())] == [
        ("ab", "stop"),
        ("x", "length"),
    ]


def test_a_finish_reason_that_comes_twice_is_told_once_and_behind_the_last_text() -> None:
    chunks = [delta(content="a", finish="length"), delta(content="b", finish="stop"), DONE]
    choice = fold(stream(*chunks)).choices[0]
    assert (choice.text, choice.finish_reason) == ("ab", "length")


MALFORMED = [
    pytest.param(sse(delta(content="a"), "{broken", STOP, DONE), "no JSON", id="a bad event"),
    pytest.param(sse(delta(content={"a": 1}), STOP, DONE), "unknown form", id="content of a wrong type"),
    pytest.param(b"<!DOCTYPE html><html></html>", "HTML", id="an HTML page"),
    pytest.param(b"\n\n  <html>", "HTML", id="an HTML page behind blank lines"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "says"), MALFORMED)
def test_a_malformed_stream_is_a_typed_error(answer: bytes, says: str) -> None:
    error = fails(answer, stream=True)
    assert error.reason == "upstream_error"
    assert says in error.message
    assert "b'" not in error.message


def test_blank_events_and_comments_are_skipped() -> None:
    answer = b"data: \n\n: ping\n\n" + sse(delta(content="a")) + b"data:   \n\n" + sse(STOP, DONE)
    assert fold(decode(answer, stream=True)).choices[0].text == "a"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "upstream_incomplete"),
        (b"  \n", "upstream_incomplete"),
        (b"<html></html>", "upstream_error"),
        (b"upstream connect error", "upstream_error"),
        (b'{"id":"x","choices":[{"index":0,"mess', "upstream_error"),
        (b'{"id":"x"}', "upstream_error"),
        (b'{"id":"x","choices":[]}', "upstream_error"),
        (b"[]", "upstream_error"),
        (b'{"error":{"message":"no","code":502}}', "upstream_error"),
        (b'{"error":{"message":"slow down","type":"rate_limit_error"}}', "upstream_rate_limit"),
    ],
)
def test_a_200_without_an_answer_is_an_error(body: bytes, reason: str) -> None:
    assert fails(body, stream=False).reason == reason


def test_blank_lines_before_a_whole_answer_keep_the_connection_alive() -> None:
    body = b'\n\n\n{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    assert fold(decode(body, stream=False)).choices[0].text == "a"


WHOLE = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}


@pytest.mark.parametrize("begins", [b"", b": hello\n\n", b"event: message\n", b"\n\n", b"id: 1\n"])
def test_a_server_that_streams_whatever_it_is_asked_is_understood(begins: bytes) -> None:
    outcome = fold(decode(begins + sse(delta(content="a"), STOP, DONE), stream=False))
    assert (outcome.choices[0].text, outcome.completed) == ("a", True)


def test_a_whole_message_as_the_one_event_of_a_stream_is_the_answer() -> None:
    assert fold(stream({"id": "1", "choices": [WHOLE]}, DONE)).choices[0].text == "a"


def test_a_message_that_repeats_the_stream_is_not_said_twice() -> None:
    assert fold(stream(delta(content="a"), {"choices": [WHOLE]}, DONE)).choices[0].text == "a"
    both = {**delta(content="a", finish="stop"), "choices": [{**WHOLE, "delta": {"content": "a"}}]}
    assert fold(stream(both, DONE)).choices[0].text == "a"


def test_a_whole_answer_may_call_its_message_a_delta() -> None:
    body = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    assert fold(decode(json.dumps(body).encode(), stream=False)).choices[0].text == "a"


@pytest.mark.parametrize("index", [-1, 128, 10**30])
def test_a_choice_of_no_possible_number_is_an_error(index: int) -> None:
    answer = sse(delta(index, content="a", finish="stop"), DONE)
    assert fails(answer, stream=True).reason == "upstream_error"


def test_a_server_that_does_not_stream_is_understood() -> None:
    body = b' {"id":"x","choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    outcome = fold(decode(body, stream=True))
    assert outcome.choices[0].text == "a"
    error = fails(b'{"error":{"message":"no","type":"invalid_request_error"}}', stream=True)
    assert error.reason == "invalid_request"


@pytest.mark.parametrize("word", [None, ""])
def test_a_whole_answer_shows_why_it_ended_where_the_word_is_missing(word: str | None) -> None:
    text = unary({"content": "a"}, choice={"finish_reason": word})
    assert text[-2].choice_finished.reason == event_pb2.FINISH_REASON_STOP
    assert text[-2].choice_finished.upstream_reason == ""
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    tool = unary({"content": None, "tool_calls": [call]}, choice={"finish_reason": word})
    assert tool[-2].choice_finished.reason == event_pb2.FINISH_REASON_TOOL_CALLS


def test_an_error_in_a_stream_comes_behind_what_was_said_before() -> None:
    decoder = DIALECT.decoder(request(stream=True), {"x-request-id": "req_1"})
    error = {"error": {"message": "The server had an error", "type": "server_error", "param": "p", "code": "c"}}  # fmt: skip
    events = iter(decoder.feed(sse(delta(content="a"), error)))
    assert next(events).HasField("started")
    assert next(events).text.text == "a"
    with pytest.raises(InferenceError) as caught:
        next(events)
    raised = caught.value
    assert (raised.reason, raised.message) == ("upstream_error", "The server had an error")
    assert (raised.param, raised.code, raised.upstream_request_id) == ("p", "c", "req_1")


@pytest.mark.parametrize(
    ("error", "reason", "status"),
    [
        ({"message": "x", "code": 429}, "upstream_rate_limit", 429),
        ({"message": "x", "code": "502"}, "upstream_error", 502),
        ({"message": "x", "status_code": 503}, "upstream_overloaded", 503),
        ({"message": "x", "type": "overloaded_error"}, "upstream_overloaded", 0),
        ({"message": "x", "type": "invalid_request_error"}, "invalid_request", 0),
        ({"message": "x", "code": "context_length_exceeded"}, "context_length_exceeded", 0),
        ({"message": "x", "type": "tokens", "code": "rate_limit_exceeded"}, "upstream_rate_limit", 0),
        ({"message": "x"}, "upstream_error", 0),
        ("text alone", "upstream_error", 0),
    ],
)  # fmt: skip
def test_an_error_in_a_stream_has_the_reason_of_its_status_or_type(
    error: Any, reason: str, status: int
) -> None:
    raised = fails(sse({"error": error}), stream=True)
    assert (raised.reason, raised.upstream_status) == (reason, status)


@pytest.mark.parametrize(
    "answer",
    [
        b'event: error\ndata: {"message":"no","type":"server_error"}\n\n',
        sse({"id": "x", "choices": [], "x_groq": {"error": "no"}}),
    ],
    ids=["a flat error event", "an error in a vendor field"],
)
def test_errors_are_found_in_other_places(answer: bytes) -> None:
    error = fails(answer, stream=True)
    assert (error.reason, error.message) == ("upstream_error", "no")
