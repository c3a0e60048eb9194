from __future__ import annotations

from typing import Any

import pytest

from broker.v1 import content_pb2
from tests.workers.chat_answers import (
    DONE,
    TOOLS_END,
    delta,
    fails,
    sse,
    stream,
    tool,
    unary,
)
from tests.workers.conformance.outcome import Outcome, fold


def _calls(outcome: Outcome) -> list[tuple[str, Any]]:
    return [(call["name"], call["arguments"]) for call in outcome.choices[0].tool_calls]


REPAIRS = [
    pytest.param([[tool(0, "a", "f", "")], [tool(0, None, None, '{"x":')], [tool(0, None, None, "1}")]], [("f", {"x": 1})], id="as OpenAI sends it"),
    pytest.param([[tool(0, "a", "f", "{}"), tool(1, "b", "g", "{}")]], [("f", {}), ("g", {})], id="two whole calls in one delta"),
    pytest.param([[tool(0, "a", "f", "")], [tool(1, "b", "g", "")], [tool(0, None, None, "{}")], [tool(1, None, None, "[]")]], [("f", {}), ("g", [])], id="interleaved pieces"),
    pytest.param([[tool(None, "a", "f", "{}")], [tool(None, "b", "g", "{}")]], [("f", {}), ("g", {})], id="no index"),
    pytest.param([[tool(None, "a", "f", "")], [tool(None, "a", None, "{}")]], [("f", {})], id="no index, pieces by id"),
    pytest.param([[tool(None, None, "f", "")], [tool(None, None, None, "{}")], [tool(None, None, "g", "{}")]], [("f", {}), ("g", {})], id="neither index nor id"),
    pytest.param([[tool(0, None, "f", "{}")], [tool(1, None, "g", "{}")]], [("f", {}), ("g", {})], id="no id"),
    pytest.param([[tool(0, "same", "f", "{}")], [tool(1, "same", "g", "{}")]], [("f", {}), ("g", {})], id="one id for two calls"),
    pytest.param([[tool(0, "a", "f", "{}")], [tool(0, "b", "g", '{"y":')], [tool(0, None, None, "2}")]], [("f", {}), ("g", {"y": 2})], id="one index for two calls"),
    pytest.param([[tool(0, "a", "f", '{"x":')], [tool(0, "a", "f", "1}")]], [("f", {"x": 1})], id="the name comes again"),
    pytest.param([[tool(3, "a", "f", "{}")], [tool(7, "b", "g", "{}")]], [("f", {}), ("g", {})], id="indexes with gaps"),
    pytest.param([[tool(0, "a", None, '{"x"')], [tool(0, None, "f", ":1}")]], [("f", {"x": 1})], id="the name comes late"),
    pytest.param([[tool(0, "a", "f", None)]], [("f", {})], id="no arguments at all"),
    pytest.param([[tool(0, "a", "f", {"x": 1})]], [("f", {"x": 1})], id="arguments as an object"),
]  # fmt: skip


@pytest.mark.parametrize(("pieces", "calls"), REPAIRS)
def test_tool_calls_are_put_in_order(
    pieces: list[list[dict[str, Any]]], calls: list[tuple[str, Any]]
) -> None:
    chunks = [delta(tool_calls=piece) for piece in pieces]
    outcome = fold(stream(*chunks, *TOOLS_END))
    assert _calls(outcome) == calls
    ids = [call["id"] for call in outcome.choices[0].tool_calls]
    assert len(set(ids)) == len(ids)


def test_an_id_that_is_missing_is_made_the_same_way_each_time() -> None:
    chunks = [delta(tool_calls=[tool(0, None, "f", "{}")]), *TOOLS_END]
    first, again = (fold(stream(*chunks)).choices[0].tool_calls[0]["id"] for _ in range(2))
    assert first == again
    assert first.startswith("call_")
    other = [{**chunk, "id": "chatcmpl-2"} for chunk in chunks if isinstance(chunk, dict)]
    assert fold(stream(*other, DONE)).choices[0].tool_calls[0]["id"] != first


def test_an_id_that_is_there_is_kept() -> None:
    events = stream(delta(tool_calls=[tool(0, "call_9", "f", "{}")]), *TOOLS_END)
    assert fold(events).choices[0].tool_calls[0]["id"] == "call_9"


def test_a_tool_call_without_a_name_is_an_error() -> None:
    answer = sse(delta(tool_calls=[tool(0, "a", None, "{}")]), *TOOLS_END)
    assert fails(answer, stream=True).reason == "upstream_error"


@pytest.mark.parametrize("arguments", [None, "", {}, "{}"])
def test_a_whole_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": arguments}}
    events = unary({"content": None, "tool_calls": [call]})
    deltas = [event.tool_call for event in events if event.HasField("tool_call")]
    assert "".join(delta.arguments for delta in deltas) == "{}"


def test_a_custom_tool_call_has_free_text() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "t", "input": "free text"}}
    events = unary({"content": None, "tool_calls": [call]})
    delta = events[1].tool_call
    assert (delta.name, delta.arguments) == ("t", "free text")
    assert delta.kind == content_pb2.TOOL_KIND_CUSTOM


def test_a_legacy_function_call_in_pieces_is_a_tool_call() -> None:
    pieces = [{"name": "f", "arguments": ""}, {"arguments": '{"x":'}, {"arguments": "1}"}]
    chunks = [delta(function_call=piece) for piece in pieces]
    events = stream(*chunks, delta(finish="function_call"), DONE)
    assert _calls(fold(events)) == [("f", {"x": 1})]
    assert events[-2].choice_finished.upstream_reason == "function_call"
