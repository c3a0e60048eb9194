"""What servers of the OpenAI format do differently in answers, one row for each known habit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workers.chat_answers import DONE, STOP, decode, delta, fails, sse
from tests.workers.conformance.outcome import Outcome, fold

USAGE: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def _call(**fields: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": '{"a":1}', **fields.pop("function", {})}
    return {"id": "c1", "type": "function", "function": function, **fields}


def _chunk(choice: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "1", "model": "m", "choices": [choice] if choice else [], **fields}


CALLED = delta(finish="tool_calls", content=None, tool_calls=[{"index": 0, **_call()}])
BOTH: dict[str, Any] = {"delta": {"content": "a"}, "message": {"content": "a"}, "index": 0}

STREAMS: list[tuple[Any, ...]] = [
    # what it is, the stream, text, reasoning, number of tool calls, finish reason, completion tokens
    ("azure: a filter report comes first", sse({"id": "", "object": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [{}]}, delta(content="a"), STOP, DONE), "a", "", 0, "stop", None),
    ("azure: a failed filter is no failure", sse(_chunk({"index": 0, "delta": {"content": "a"}, "content_filter_result": {"error": {"code": "content_filter_error", "message": "x"}}}), STOP, DONE), "a", "", 0, "stop", None),
    ("azure: offsets come with empty deltas", sse(delta(content="a"), _chunk({"index": 0, "delta": {}, "content_filter_offsets": {"check_offset": 1}, "finish_reason": None}), STOP, DONE), "a", "", 0, "stop", None),
    ("azure: latency beside the usage", sse(delta(content="a"), STOP, _chunk(usage={**USAGE, "latency_checkpoint": {"a": 1.5}}), DONE), "a", "", 0, "stop", 4),
    ("azure, z.ai: no finish_reason before the last chunk", sse(_chunk({"index": 0, "delta": {"role": "assistant", "content": "a"}}), STOP, DONE), "a", "", 0, "stop", None),
    ("xai: reasoning is counted beside the completion", sse(delta(reasoning_content="hm"), delta(content="a"), STOP, _chunk(usage={"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135, "completion_tokens_details": {"reasoning_tokens": 94}}), DONE), "a", "hm", 0, "stop", 103),
    ("xai, mistral: a whole call in the last delta", sse(CALLED, DONE), "", "", 1, "tool_calls", None),
    ("groq: the id changes within the stream", sse({**delta(content="a"), "id": "x"}, {**delta(content="b"), "id": "y"}, STOP, DONE), "ab", "", 0, "stop", None),
    ("groq: usage in x_groq alone", sse(delta(content="a"), {**STOP, "x_groq": {"id": "req", "usage": {**USAGE, "total_time": 0.1}}}, DONE), "a", "", 0, "stop", 4),
    ("groq: usage three times", sse(delta(content="a"), {**STOP, "usage": USAGE, "x_groq": {"usage": USAGE}}, _chunk(usage=USAGE), DONE), "a", "", 0, "stop", 4),
    ("groq: thoughts in a channel", sse(delta(reasoning="hm", channel="analysis"), delta(content="a"), STOP, DONE), "a", "hm", 0, "stop", None),
    ("groq: what it ran itself is no call", sse(delta(content="a", executed_tools=[{"type": "search"}]), STOP, DONE), "a", "", 0, "stop", None),
    ("together: text beside the delta", sse(_chunk({"index": 0, "text": "a", "delta": {"role": "assistant", "content": "a", "token_id": 5, "tool_calls": []}, "logprobs": -0.5}), {**STOP, "usage": USAGE}, DONE), "a", "", 0, "stop", 4),
    ("together: eos", sse(delta(content="a"), delta(finish="eos"), DONE), "a", "", 0, "stop", None),
    ("mistral: thinking is a part that closes empty", sse(delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), delta(content=[{"type": "thinking", "thinking": [], "closed": True}]), delta(content="a"), STOP, DONE), "a", "hm", 0, "stop", None),
    ("mistral: padding in every chunk", sse({**delta(content="a"), "p": "abcd"}, {**STOP, "usage": USAGE, "p": ""}, DONE), "a", "", 0, "stop", 4),
    ("mistral: cut at the model's length", sse(delta(content="a"), delta(finish="model_length"), DONE), "a", "", 0, "length", None),
    ("deepseek: null in turns", sse(delta(content=None, reasoning_content=""), delta(content=None, reasoning_content="hm"), delta(content="a", reasoning_content=None), {**STOP, "usage": USAGE}, DONE), "a", "hm", 0, "stop", 4),
    ("deepseek: keep-alives while it waits", b": keep-alive\n\n\n\n" + sse(delta(content="a"), STOP, DONE), "a", "", 0, "stop", None),
    ("openrouter: comments, roles, a finish reason twice", b": OPENROUTER PROCESSING\n\n" + sse(delta(role="assistant", content="a", finish="stop"), {**delta(role="assistant", content="", finish="stop"), "usage": {**USAGE, "cost": 0.1}}, DONE), "a", "", 0, "stop", 4),
    ("perplexity: message, usage and sources in every chunk, and no end mark", b": ping\n\n" + sse(_chunk(BOTH, usage={**USAGE, "completion_tokens": 1}, citations=["u"]), _chunk({"index": 0, "delta": {"content": ""}, "message": {"content": "a"}, "finish_reason": "stop"}, usage=USAGE, object="chat.completion.done")), "a", "", 0, "stop", 4),
    ("ollama: a call has all and an index", sse(delta(role="assistant", content="", tool_calls=[{"index": 0, **_call()}]), delta(finish="tool_calls"), _chunk(usage=USAGE), DONE), "", "", 1, "tool_calls", 4),
    ("ollama: a word of its own for the end", sse(delta(content="a"), delta(finish="load"), DONE), "a", "", 0, "stop", None),
    ("vllm: usage with every chunk", sse({**delta(content="a"), "usage": {**USAGE, "completion_tokens": 1}}, STOP, _chunk(usage=USAGE), DONE), "a", "", 0, "stop", 4),
    ("vllm: a reason of its own beside the reason", sse(delta(content="a"), _chunk({"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 128009, "token_ids": None}), DONE), "a", "", 0, "stop", None),
    ("vllm, mistral: no calls as null or a list", sse(delta(content="a", tool_calls=[]), delta(tool_calls=None, function_call=None, audio=None), STOP, DONE), "a", "", 0, "stop", None),
    ("snowflake: empty objects in the place of nothing", sse(delta(content="a", refusal="", function_call={"name": "", "arguments": ""}, audio={"id": "", "data": "", "expires_at": 0, "transcript": ""}), STOP, DONE), "a", "", 0, "stop", None),
    ("several: the name of a call in each of its pieces", sse(delta(tool_calls=[{"index": 0, **_call(function={"arguments": '{"a"'})}]), delta(tool_calls=[{"index": 0, **_call(function={"arguments": ":1}"})}]), delta(finish="tool_calls"), DONE), "", "", 1, "tool_calls", None),
    ("several: calls without an index", sse(delta(tool_calls=[_call(), {**_call(), "id": "c2"}]), delta(finish="tool_calls"), DONE), "", "", 2, "tool_calls", None),
    ("several: a call finishes with stop", sse(delta(tool_calls=[{"index": 0, **_call()}]), STOP, DONE), "", "", 1, "stop", None),
    ("several: choices that are null", sse({"id": "1", "choices": None}, delta(content="a"), STOP, {"id": "1", "choices": None, "usage": USAGE}, DONE), "a", "", 0, "stop", 4),
    ("several: a delta that is null", sse(_chunk({"index": 0, "delta": None}), delta(content="a"), _chunk({"index": 0, "delta": None, "finish_reason": "stop"}), DONE), "a", "", 0, "stop", None),
    ("several: an end mark with more behind it", sse(delta(content="a"), STOP) + b"data: [DONE] \n\ndata: {}\n\n", "a", "", 0, "stop", None),
    ("several: events of no known kind", b'event: status\ndata: {"type": "queued", "message": "wait"}\n\n' + sse(delta(content="a"), STOP, DONE), "a", "", 0, "stop", None),
    ("several: ids that are numbers", sse({**delta(content="a"), "id": 7, "created": "1700000000"}, STOP, DONE), "a", "", 0, "stop", None),
]  # fmt: skip

ANSWERS: list[tuple[Any, ...]] = [
    ("azure: filtered, with no message at all", {"choices": [{"index": 0, "finish_reason": "content_filter", "content_filter_results": {}}]}, "", "", 0, "content_filter", None),
    ("groq: no content beside a call", {"choices": [{"message": {"role": "assistant", "tool_calls": [_call()], "reasoning": "hm"}, "finish_reason": "tool_calls"}], "usage": USAGE}, "", "hm", 1, "tool_calls", 4),
    ("together: a flat count of what was cached", {"choices": [{"message": {"content": "a", "tool_calls": []}, "finish_reason": "eos", "seed": 1}], "prompt": [], "usage": {**USAGE, "cached_tokens": 3}}, "a", "", 0, "stop", 4),
    ("mistral: calls without a type, arguments an object", {"choices": [{"message": {"content": "", "tool_calls": [{"id": "abcDEF123", "index": 0, "function": {"name": "f", "arguments": {"a": 1}}}]}, "finish_reason": "tool_calls"}]}, "", "", 1, "tool_calls", None),
    ("mistral: content as parts", {"choices": [{"message": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}, {"type": "text", "text": "a"}]}, "finish_reason": "stop"}]}, "a", "hm", 0, "stop", None),
    ("openrouter: arguments that are null", {"choices": [{"message": {"content": None, "tool_calls": [_call(function={"arguments": None})]}, "finish_reason": "tool_calls"}]}, "", "", 1, "tool_calls", None),
    ("perplexity: a delta beside the message", {"choices": [{**BOTH, "finish_reason": "stop"}], "citations": ["u"]}, "a", "", 0, "stop", None),
    ("ollama: no finish reason", {"choices": [{"message": {"content": "a"}, "finish_reason": None}]}, "a", "", 0, "stop", None),
    ("snowflake: placeholders", {"id": "", "model": "", "choices": [{"finish_reason": "", "message": {"content": "a", "refusal": "", "function_call": {"name": "", "arguments": ""}, "audio": {"id": "", "data": "", "expires_at": 0, "transcript": ""}, "tool_calls": None}}]}, "a", "", 0, "stop", None),
    ("cerebras: no content beside a call", {"choices": [{"message": {"tool_calls": [_call(id="0a1b2c3d4")]}, "finish_reason": "tool_calls"}], "time_info": {"total_time": 1.5}}, "", "", 1, "tool_calls", None),
    ("vllm: extras of null", {"choices": [{"message": {"content": "a", "reasoning_content": "hm", "tool_calls": [], "annotations": None, "audio": None, "function_call": None}, "finish_reason": "stop", "stop_reason": None, "token_ids": None}], "prompt_logprobs": None, "kv_transfer_params": None}, "a", "hm", 0, "stop", None),
    ("several: a time with a fraction", {"created": 1700000000.75, "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}, "a", "", 0, "stop", None),
    ("several: an error that is nothing", {"error": None, "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}, "a", "", 0, "stop", None),
]  # fmt: skip


def _compare(outcome: Outcome, row: tuple[Any, ...]) -> None:
    _, _, text, reasoning, calls, finish, completion = row
    (choice,) = outcome.choices.values()
    assert (choice.text, choice.reasoning, choice.finish_reason) == (text, reasoning, finish)
    assert len(choice.tool_calls) == calls
    assert outcome.completed
    assert outcome.usage is not None
    assert completion is None or outcome.usage["completion"] == completion


@pytest.mark.parametrize("row", STREAMS, ids=lambda row: row[0])
def test_a_habit_of_a_stream_is_understood(row: tuple[Any, ...]) -> None:
    _compare(fold(decode(row[1], stream=True)), row)


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row[0])
def test_a_habit_of_a_whole_answer_is_understood(row: tuple[Any, ...]) -> None:
    _compare(fold(decode(json.dumps(row[1]).encode(), stream=False)), row)
    # Asked to stream, it may answer like this all the same.
    _compare(fold(decode(json.dumps(row[1]).encode(), stream=True)), row)


@pytest.mark.parametrize(
    "cached",
    [
        {"cached_tokens": 3},
        {"num_cached_tokens": 3},
        {"prompt_cache_hit_tokens": 3, "prompt_cache_miss_tokens": 6},
        {"prompt_tokens_details": {"cached_tokens": 3}},
        {"prompt_tokens_details": None, "cached_tokens": "3"},
    ],
)
def test_what_was_cached_is_counted_wherever_it_stands(cached: dict[str, Any]) -> None:
    outcome = fold(
        decode(sse(delta(content="a"), {**STOP, "usage": {**USAGE, **cached}}), stream=True)
    )
    assert outcome.usage is not None
    assert (outcome.usage["prompt"], outcome.usage["cached"]) == (9, 3)


BARE: list[tuple[Any, str, str]] = [
    ({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}, "too long", "invalid_request"),
    ({"type": "error", "message": "no", "code": "server_error"}, "no", "upstream_error"),
    ({"detail": "Invalid API Key"}, "Invalid API Key", "upstream_error"),
    ({"message": "slow down", "status_code": 429}, "slow down", "upstream_rate_limit"),
    ({"error": "text alone"}, "text alone", "upstream_error"),
    ({"error": [{"message": "in a list", "code": 503}]}, "in a list", "upstream_overloaded"),
    ({"error": '{"error": {"message": "within", "code": 429}}'}, "within", "upstream_rate_limit"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "message", "reason"), BARE)
def test_an_error_in_a_200_is_told_as_it_was_said(said: Any, message: str, reason: str) -> None:
    for answer, stream in (
        (json.dumps(said).encode(), False),
        (json.dumps(said).encode(), True),
        (sse(delta(content="a"), said, DONE), True),
        (sse(said), False),
    ):
        error = fails(answer, stream=stream)
        assert (error.message, error.reason) == (message, reason)
