"""Habits of Claude's, Bedrock's, Google's and Cohere's answers, and of servers that copy them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from tests.workers.conformance.outcome import Outcome, fold
from tests.workers.test_eventstream import message as aws_message
from workers import registry
from workers.provider import Dialect

JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
AWS = {"content-type": "application/vnd.amazon.eventstream"}


def _dialect(provider: str) -> Dialect:
    return registry.provider(provider).dialect_for("m")


def _read(
    provider: str, answer: bytes, stream: bool, headers: dict[str, str]
) -> list[event_pb2.Event]:
    request = generation_pb2.Request()
    request.generate.stream = stream
    decoder = _dialect(provider).decoder(request, headers)
    return [*decoder.feed(answer), *decoder.close()]


def _sse(*events: Any) -> bytes:
    return "".join(
        f"event: {e['type']}\ndata: {json.dumps(e)}\n\n"
        if "type" in e
        else f"data: {json.dumps(e)}\n\n"
        for e in events
    ).encode()


def _aws(*frames: tuple[str, Any]) -> bytes:
    return b"".join(
        aws_message(json.dumps(fields).encode(), message_type="event", event_type=name)
        for name, fields in frames
    )


# --- Claude ------------------------------------------------------------------------------------

START: dict[str, Any] = {"type": "message_start", "message": {"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}}  # fmt: skip
PING = {"type": "ping"}
END: list[dict[str, Any]] = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
]


def _begin(index: int, kind: str = "text", **data: Any) -> Any:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **data}}


def _delta(index: int, kind: str, **data: Any) -> Any:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **data}}


def _stop(index: int) -> Any:
    return {"type": "content_block_stop", "index": index}


TEXT = [_begin(0, text=""), _delta(0, "text_delta", text="a"), _stop(0)]
USE = [_begin(0, "tool_use", id="t", name="f", input={}), _stop(0)]

CLAUDE = [
    # what it is, the events, text, reasoning, number of tool calls, finish reason, (prompt, completion)
    ("pings anywhere", [PING, START, PING, *TEXT, PING, *END], "a", "", 0, "stop", (9, 4)),
    ("a block of no text", [START, _begin(0, text=""), _stop(0), *END], "", "", 0, "stop", (9, 4)),
    ("no block at all", [START, *END], "", "", 0, "stop", (9, 4)),
    ("null for a text", [START, _begin(0, text=None), _delta(0, "text_delta", text=None), *TEXT[1:], *END], "a", "", 0, "stop", (9, 4)),
    ("a call without input", [START, *USE, *END], "", "", 1, "stop", (9, 4)),
    ("an empty piece of input first", [START, USE[0], _delta(0, "input_json_delta", partial_json=""), _delta(0, "input_json_delta", partial_json='{"a":1}'), USE[1], *END], "", "", 1, "stop", (9, 4)),
    ("thoughts that are left out", [START, _begin(0, "thinking", thinking="", signature=""), _delta(0, "signature_delta", signature="s"), _stop(0), *[{**e, "index": 1} for e in TEXT], *END], "a", "", 0, "stop", (9, 4)),
    ("events and deltas of a later version", [START, {"type": "new_event", "x": 1}, TEXT[0], _delta(0, "new_delta", x=1), *TEXT[1:], *END], "a", "", 0, "stop", (9, 4)),
    ("a block that is not announced", [START, *TEXT[1:], *END], "a", "", 0, "stop", (9, 4)),
    ("a block that ends twice", [START, *TEXT, _stop(0), *END], "a", "", 0, "stop", (9, 4)),
    ("a block that never ends", [START, *TEXT[:2], *END], "a", "", 0, "stop", (9, 4)),
    ("counts that are corrected", [START, *TEXT, {**END[0], "usage": {"input_tokens": 7, "output_tokens": 5}}, END[1]], "a", "", 0, "stop", (7, 5)),
    ("no counts at the end", [START, *TEXT, {**END[0], "usage": None}, END[1]], "a", "", 0, "stop", (9, 1)),
    ("a reason of a later version", [START, *TEXT, {**END[0], "delta": {"stop_reason": "new"}}, END[1]], "a", "", 0, "stop", (9, 4)),
    ("an end mark of OpenAI's behind it", [START, *TEXT, *END, {"type": "done"}], "a", "", 0, "stop", (9, 4)),
]  # fmt: skip


def _compare(outcome: Outcome, row: Iterable[Any]) -> None:
    _, _, text, reasoning, calls, finish, tokens = row
    (choice,) = outcome.choices.values()
    assert (choice.text, choice.reasoning, choice.finish_reason) == (text, reasoning, finish)
    assert len(choice.tool_calls) == calls
    assert outcome.usage is not None
    assert tokens is None or (outcome.usage["prompt"], outcome.usage["completion"]) == tokens


@pytest.mark.parametrize("row", CLAUDE, ids=lambda row: row[0])
def test_a_habit_of_claudes_is_understood(row: tuple[Any, ...]) -> None:
    _compare(fold(_read("anthropic", _sse(*row[1]), True, SSE)), row)


# --- Cohere ------------------------------------------------------------------------------------


def _part(kind: str, index: int = 0, **message: Any) -> Any:
    return {"type": kind, "index": index, "delta": {"message": message}}


COHERE_START = {"type": "message-start", "id": "i", "delta": {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}}}  # fmt: skip
COHERE_END = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 9.0, "output_tokens": 4.0}, "billed_units": {"input_tokens": 2}}}}  # fmt: skip
COHERE_TEXT = [
    _part("content-start", content={"type": "text", "text": ""}),
    _part("content-delta", content={"text": "a"}),
    {"type": "content-end", "index": 0},
]
COHERE_CALL = [
    _part("tool-call-start", tool_calls={"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}),
    _part("tool-call-delta", tool_calls={"function": {"arguments": '{"a":1}'}}),
    {"type": "tool-call-end", "index": 0},
]  # fmt: skip

COHERE = [
    ("text", [COHERE_START, *COHERE_TEXT, COHERE_END], "a", "", 0, "stop", (9, 4)),
    ("a plan before a call", [COHERE_START, _part("tool-plan-delta", tool_plan="hm"), *COHERE_CALL, COHERE_END], "", "hm", 1, "stop", (9, 4)),
    ("a call that never ends", [COHERE_START, *COHERE_CALL[:2], COHERE_END], "", "", 1, "stop", (9, 4)),
    ("a call without arguments", [COHERE_START, COHERE_CALL[0], COHERE_CALL[2], COHERE_END], "", "", 1, "stop", (9, 4)),
    ("no beginning", [*COHERE_TEXT, COHERE_END], "a", "", 0, "stop", (9, 4)),
    ("a debug event", [COHERE_START, {"type": "debug", "prompt": "x"}, *COHERE_TEXT, COHERE_END], "a", "", 0, "stop", (9, 4)),
    ("citations of nothing", [COHERE_START, *COHERE_TEXT[:2], _part("citation-start", citations=None), {"type": "citation-end", "index": 0}, COHERE_END], "a", "", 0, "stop", (9, 4)),
    ("no counts", [COHERE_START, *COHERE_TEXT, {"type": "message-end", "delta": {"finish_reason": "MAX_TOKENS"}}], "a", "", 0, "length", None),
    ("a word in small letters", [COHERE_START, *COHERE_TEXT, {"type": "message-end", "delta": {"finish_reason": "max_tokens"}}], "a", "", 0, "length", None),
]  # fmt: skip


@pytest.mark.parametrize("row", COHERE, ids=lambda row: row[0])
def test_a_habit_of_coheres_is_understood(row: tuple[Any, ...]) -> None:
    _compare(fold(_read("cohere", _sse(*row[1]) + b"data: [DONE]\n\n", True, SSE)), row)


def test_content_that_is_a_text_is_the_text() -> None:
    body = {"id": "i", "finish_reason": "COMPLETE", "message": {"content": "a"}}
    assert fold(_read("cohere", json.dumps(body).encode(), False, JSON)).choices[0].text == "a"


# --- Google ------------------------------------------------------------------------------------


def _google(*parts: Any, **candidate: Any) -> Any:
    return {"candidates": [{"content": {"parts": [*parts]}, **candidate}], "responseId": "r"}


A = {"text": "a"}
COUNTED = {
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 13}
}
CALLED = {"functionCall": {"name": "f", "args": {"a": 1}}}

GOOGLE = [
    ("no index and no role", [_google(A), {**_google(finishReason="STOP"), **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("no parts in the last object", [_google(A), {"candidates": [{"content": {}, "finishReason": "STOP"}], **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("no content in the last object", [_google(A), {"candidates": [{"finishReason": "STOP"}], **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("null for the content", [_google(A), {"candidates": [{"content": None, "finishReason": "STOP"}], **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("a reason that is not set", [_google(A, finishReason="FINISH_REASON_UNSPECIFIED"), {**_google(finishReason="STOP"), **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("counts without numbers on the way", [{**_google(A), "usageMetadata": {"trafficType": "ON_DEMAND"}}, {**_google(finishReason="STOP"), **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("counts of 64 bits in quotes", [_google(A), {**_google(finishReason="STOP"), "usageMetadata": {"promptTokenCount": "9", "candidatesTokenCount": "4"}}], "a", "", 0, "stop", (9, 4)),
    ("counts behind the reason", [_google(A, finishReason="STOP"), {"candidates": [], **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("a call, then STOP with an empty text", [_google(CALLED), {**_google({"text": "", "thoughtSignature": "s"}, finishReason="STOP"), **COUNTED}], "", "", 1, "tool_calls", (9, 4)),
    ("a call without arguments", [{**_google({"functionCall": {"name": "f"}}, finishReason="STOP"), **COUNTED}], "", "", 1, "tool_calls", (9, 4)),
    ("an end mark of OpenAI's", [_google(A), {**_google(finishReason="STOP"), **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("parts of a later version", [_google({"newPart": {}}, A), {**_google(finishReason="STOP"), **COUNTED}], "a", "", 0, "stop", (9, 4)),
    ("a blocked prompt and nothing else", [{"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}], "", "", 0, "content_filter", (9, 0)),
    ("no reason to block", [{**_google(A, finishReason="STOP"), "promptFeedback": {"blockReason": "BLOCK_REASON_UNSPECIFIED"}, **COUNTED}], "a", "", 0, "stop", (9, 4)),
]  # fmt: skip


@pytest.mark.parametrize("provider", ["gemini", "vertex_ai"])
@pytest.mark.parametrize("row", GOOGLE, ids=lambda row: row[0])
def test_a_habit_of_googles_is_understood(row: tuple[Any, ...], provider: str) -> None:
    _compare(fold(_read(provider, _sse(*row[1]) + b"data: [DONE]\n\n", True, SSE)), row)
    whole = json.dumps(row[1]).encode()
    _compare(fold(_read(provider, whole, True, JSON)), row)


def test_a_stream_whose_reason_was_never_set_was_cut() -> None:
    cut = _sse(_google(A, finishReason="FINISH_REASON_UNSPECIFIED"))
    with pytest.raises(InferenceError) as caught:
        _read("gemini", cut, True, SSE)
    assert caught.value.reason == "upstream_incomplete"


# --- Bedrock -----------------------------------------------------------------------------------


def _piece(index: int, **delta: Any) -> tuple[str, Any]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": delta, "p": "abcdef"}


BEGUN = ("messageStart", {"role": "assistant", "p": "ab"})
STOPPED = ("messageStop", {"stopReason": "end_turn"})
METADATA = ("metadata", {"usage": {"inputTokens": 9, "outputTokens": 4}, "metrics": {}, "p": "a"})
AWS_USE = ("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}})  # fmt: skip

BEDROCK = [
    ("padding in every event", [BEGUN, _piece(0, text="a"), ("contentBlockStop", {"contentBlockIndex": 0}), STOPPED, METADATA], "a", "", 0, "stop", (9, 4)),
    ("an empty text first, then thoughts", [BEGUN, _piece(0, text=""), _piece(1, reasoningContent={"text": "hm"}), _piece(2, text="a"), STOPPED, METADATA], "a", "hm", 0, "stop", (9, 4)),
    ("blocks that never end", [BEGUN, _piece(0, text="a"), AWS_USE, _piece(1, toolUse={"input": '{"a":1}'}), STOPPED, METADATA], "a", "", 1, "stop", (9, 4)),
    ("a call without input", [BEGUN, AWS_USE, ("contentBlockStop", {"contentBlockIndex": 1}), STOPPED, METADATA], "", "", 1, "stop", (9, 4)),
    ("events of a later version", [BEGUN, ("newEvent", {"x": 1}), _piece(0, newDelta={}), _piece(0, text="a"), STOPPED, METADATA], "a", "", 0, "stop", (9, 4)),
    ("a reason of a later version", [BEGUN, _piece(0, text="a"), ("messageStop", {"stopReason": "new"}), METADATA], "a", "", 0, "stop", (9, 4)),
]  # fmt: skip


@pytest.mark.parametrize("row", BEDROCK, ids=lambda row: row[0])
def test_a_habit_of_bedrocks_is_understood(row: tuple[Any, ...]) -> None:
    _compare(fold(_read("bedrock", _aws(*row[1]), True, AWS)), row)


# --- framing -----------------------------------------------------------------------------------

CLAUDE_WHOLE = {"id": "msg_1", "type": "message", "model": "m", "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn", "usage": {"input_tokens": 9, "output_tokens": 4}}  # fmt: skip
COHERE_WHOLE = {"id": "i", "finish_reason": "COMPLETE", "message": {"content": [{"type": "text", "text": "a"}]}}  # fmt: skip
GOOGLE_WHOLE = {**_google(A, finishReason="STOP"), **COUNTED}
FRAMED = [
    ("anthropic", json.dumps(CLAUDE_WHOLE).encode()),
    ("anthropic", _sse(START, *TEXT, *END)),
    ("cohere", json.dumps(COHERE_WHOLE).encode()),
    ("cohere", _sse(COHERE_START, *COHERE_TEXT, COHERE_END)),
    ("gemini", json.dumps(GOOGLE_WHOLE).encode()),
    ("gemini", json.dumps([GOOGLE_WHOLE]).encode()),
]


@pytest.mark.parametrize("blank", [b"", b"\n\n", b"\r\n \n"], ids=["at once", "lines", "blanks"])
@pytest.mark.parametrize("headers", [{}, JSON, SSE], ids=["no type", "json", "events"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("provider", "answer"), FRAMED)
def test_an_answer_is_read_as_what_it_is_whatever_its_type_says(
    provider: str, answer: bytes, stream: bool, headers: dict[str, str], blank: bytes
) -> None:
    assert fold(_read(provider, blank + answer, stream, headers)).choices[0].text == "a"


@pytest.mark.parametrize(
    ("provider", "answer", "message"),
    [
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "busy"),
        ("cohere", {"message": "busy"}, "busy"),
        ("gemini", {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}, "busy"),
        ("gemini", [{"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}], "busy"),
    ],
)  # fmt: skip
def test_an_error_that_says_it_is_a_stream_is_told(
    provider: str, answer: Any, message: str
) -> None:
    with pytest.raises(InferenceError) as caught:
        _read(provider, json.dumps(answer).encode(), True, SSE)
    assert message in caught.value.message
