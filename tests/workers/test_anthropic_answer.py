from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2
from broker.v1.content_pb2 import Message, Part
from tests.workers.anthropic_hub import ANTHROPIC, C, G, body, request, result, tool, user
from tests.workers.conformance.recordings import FOLDER, load

E = event_pb2
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream; charset=utf-8"}
FORMAT = G.ResponseFormat
ASKED = request()
SCHEMA = request(
    response_format=FORMAT(kind=FORMAT.KIND_JSON_SCHEMA, name="out", schema=b'{"type":"object"}')
)
ANY_JSON = request(response_format=FORMAT(kind=FORMAT.KIND_JSON_OBJECT))
CUSTOM = request(tools=[G.Tool(custom=G.CustomTool(name="run"))])


def recorded(name: str) -> Any:
    return load(FOLDER / "anthropic" / f"{name}.json")


def read(
    answer: bytes, headers: dict[str, str], asked: G.Request = ASKED, size: int = 4096
) -> list[E.Event]:
    decoder = ANTHROPIC.dialect.decoder(asked, headers)
    events: list[E.Event] = []
    for start in range(0, len(answer), size):
        events += decoder.feed(answer[start : start + size])
    return [*events, *decoder.close()]


def failure(answer: bytes, headers: dict[str, str]) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        read(answer, headers)
    return caught.value


def message(*content: Any, stop_reason: str | None = "end_turn", **more: Any) -> bytes:
    usage = more.pop("usage", {"input_tokens": 3, "output_tokens": 2})
    whole: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
    }
    whole |= {"content": content, "stop_reason": stop_reason, "usage": usage}
    return json.dumps(whole | more).encode()


def stream(*events: dict[str, Any]) -> bytes:
    lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return "".join(lines).encode()


def start(**usage: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
    }
    whole |= {"content": [], "stop_reason": None, "usage": usage}
    return {"type": "message_start", "message": whole}


def block(index: int, data: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": data},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def said(index: int, *texts: str) -> list[dict[str, Any]]:
    deltas = ({"type": "text_delta", "text": text} for text in texts)
    return block(index, {"type": "text", "text": ""}, *deltas)


def used(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
    data = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return block(index, data, *deltas)


def end(reason: str | None = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def kinds(events: Iterable[E.Event]) -> list[str | None]:
    return [event.WhichOneof("kind") for event in events]


def text_of(events: Iterable[E.Event]) -> str:
    return "".join(event.text.text for event in events)


def finish_of(events: Iterable[E.Event]) -> E.ChoiceFinished:
    return next(event.choice_finished for event in events if event.HasField("choice_finished"))


def usage_of(events: list[E.Event]) -> dict[str, Any]:
    return {field.name: value for field, value in events[-1].completed.usage.ListFields()}


def message_of(events: Iterable[E.Event]) -> Message:
    """The assistant's message that the events add up to, part by item."""
    parts: dict[int, Part] = defaultdict(Part)
    for event in events:
        match event.WhichOneof("kind"):
            case "text":
                parts[event.text.item].text.text += event.text.text
            case "reasoning":
                parts[event.reasoning.item].reasoning.text += event.reasoning.text
            case "blob":
                parts[event.blob.item].reasoning.blobs.append(event.blob.blob)
            case "opaque":
                parts[event.opaque.item].opaque.CopyFrom(event.opaque.opaque)
            case "tool_call":
                call = parts[event.tool_call.item].tool_call
                call.call_id = event.tool_call.call_id or call.call_id
                call.name = event.tool_call.name or call.name
                call.arguments += event.tool_call.arguments.encode()
    assert sorted(parts) == list(range(len(parts)))
    return Message(role=C.ROLE_ASSISTANT, parts=[parts[item] for item in sorted(parts)])


@pytest.mark.parametrize(
    "name",
    ["thinking", "thinking-adaptive", "thinking-redacted", "thinking-then-tool-call", "tool-call"],
)
def test_an_answer_goes_back_word_for_word_on_the_next_turn(name: str) -> None:
    recording = recorded(name)
    # Blank text, which some answers begin with, would be refused.
    content = [
        given
        for given in json.loads(recording.answer)["content"]
        if given["type"] != "text" or given["text"].strip()
    ]
    answer = message_of(read(recording.answer, recording.headers))
    results = [
        result(part.tool_call.call_id, "r") for part in answer.parts if part.HasField("tool_call")
    ]
    asked = request(user("q"), answer, *(results or [user("q2")]), tools=[tool()])
    assert body(asked)["messages"][1] == {"role": "assistant", "content": content}


def test_server_tools_are_items_of_their_own_and_never_the_callers_tool_calls() -> None:
    recording = recorded("documented-stream-server-tool")
    events = read(recording.answer, recording.headers, size=7)
    answer = message_of(events)
    assert [part.WhichOneof("kind") for part in answer.parts] == [
        "text",
        "opaque",
        "opaque",
        "text",
        "tool_call",
        "tool_call",
    ]
    search = answer.parts[1].opaque
    assert (search.type, search.issuer) == ("server_tool_use", "anthropic_messages")
    assert json.loads(search.json) == {
        "type": "server_tool_use",
        "id": "srvtoolu_01WYG3ziw53XMcoyKL4XcZmE",
        "name": "web_search",
        "input": {"query": "claude shannon birth date"},
    }
    assert json.loads(answer.parts[2].opaque.json)["content"][0]["encrypted_content"]
    assert [e.tool_call.index for e in events if e.tool_call.name] == [0, 1]
    assert answer.parts[5].tool_call.arguments == b"{}"
    assert usage_of(events)["tool_calls"] == {"web_search": 1}
    # The citation says where in the answer it belongs.
    [note] = [json.loads(event.annotation.json) for event in events if event.annotation.json]
    place = note["url_citation"]
    cited = text_of(events)[place["start_index"] : place["end_index"]]
    assert (note["type"], place["url"]) == ("url_citation", "https://example.org/shannon")
    assert cited == "Shannon was born on April 30, 1916"


def test_citations_of_documents_come_as_they_are() -> None:
    citation = {"type": "char_location", "cited_text": "x", "document_index": 0}
    content = {"type": "text", "text": "x", "citations": [citation]}
    [note] = [e.annotation.json for e in read(message(content), JSON) if e.annotation.json]
    assert json.loads(note) == citation


def test_deltas_of_blocks_that_are_not_known_here_are_gathered() -> None:
    whole = block(
        0,
        {"type": "compaction", "content": ""},
        {"type": "compaction_delta", "content": "a"},
        {"type": "compaction_delta", "content": "b", "more": [1]},
    )
    events = read(stream(start(), *whole, *end()), SSE)
    [item] = [event.opaque.opaque for event in events if event.HasField("opaque")]
    assert json.loads(item.json) == {"type": "compaction", "content": "ab", "more": [1]}


# --- the end -----------------------------------------------------------------------------------

REASONS = [
    ("end_turn", E.FINISH_REASON_STOP),
    ("stop_sequence", E.FINISH_REASON_STOP),
    ("max_tokens", E.FINISH_REASON_LENGTH),
    ("model_context_window_exceeded", E.FINISH_REASON_LENGTH),
    ("pause_turn", E.FINISH_REASON_STOP),
    ("refusal", E.FINISH_REASON_CONTENT_FILTER),
    ("tool_use", E.FINISH_REASON_STOP),  # none of the caller's tools was called
    ("of_next_year", E.FINISH_REASON_STOP),
]


@pytest.mark.parametrize(("word", "reason"), REASONS)
def test_every_stop_reason_is_told_with_the_providers_own_word(
    word: str, reason: E.FinishReason.ValueType
) -> None:
    for events in (
        read(message({"type": "text", "text": "a"}, stop_reason=word), JSON),
        read(stream(start(), *said(0, "a"), *end(word)), SSE),
    ):
        assert (finish_of(events).reason, finish_of(events).upstream_reason) == (reason, word)


def test_a_tool_call_finishes_with_tool_calls_and_the_stop_sequence_is_told() -> None:
    events = read(stream(start(), *used(0, "f", ""), *end("tool_use")), SSE)
    assert finish_of(events).reason == E.FINISH_REASON_TOOL_CALLS
    events = read(message(stop_reason="stop_sequence", stop_sequence="END"), JSON)
    assert finish_of(events).stop_sequence == "END"


@pytest.mark.parametrize(
    "answer",
    [
        stream(start(), *said(0, "a")),
        stream(start(), *said(0, "a"), *end(None)),
        stream(start(), *end(None)[:1]),
        stream({"type": "ping"}),
        b"",
    ],
)
def test_a_stream_without_a_reason_to_stop_is_never_an_answer(answer: bytes) -> None:
    assert failure(answer, SSE).reason == "upstream_incomplete"


def test_a_stream_that_gave_its_reason_is_whole_without_its_last_event() -> None:
    answer = stream(start(input_tokens=1), *said(0, "a"), *end(output_tokens=5)[:1])
    for cut in (answer, answer + b'event: message_stop\ndata: {"ty'):
        events = read(cut, SSE)
        assert kinds(events)[-2:] == ["choice_finished", "completed"]
        assert usage_of(events) == {"input_tokens": 1, "output_tokens": 5}


def test_what_was_said_before_an_error_comes_before_it() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    decoder = ANTHROPIC.dialect.decoder(ASKED, SSE | {"request-id": "req_1"})
    events: list[E.Event] = []
    with pytest.raises(InferenceError) as caught:
        for event in decoder.feed(stream(start(), *said(0, "a"), error)):
            events.append(event)  # noqa: PERF402  what came before the error is kept
    assert kinds(events) == ["started", "text"]
    assert caught.value.reason == "upstream_overloaded"
    assert caught.value.upstream_status == 529
    assert caught.value.upstream_request_id == "req_1"


# --- what is not an answer ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "headers", "reason"),
    [
        (b"<html>busy</html>", {"content-type": "text/html"}, "upstream_error"),
        (b'{"id": "msg_1", "cont', JSON, "upstream_incomplete"),
        (b"", JSON, "upstream_incomplete"),
        (b"[]", JSON, "upstream_error"),
        (b'{"choices": []}', JSON, "upstream_error"),
        (message(stop_reason=None), JSON, "upstream_incomplete"),
        (message("not a block"), JSON, "upstream_error"),
        (message({"type": "text", "text": 1}), JSON, "upstream_error"),
        (b'{"type":"error","error":{"type":"api_error","message":"m"}}', JSON, "upstream_error"),
        (b"data: {oops\n\n", SSE, "upstream_error"),
        (b"data: 1\n\n", SSE, "upstream_error"),
        (stream(*said(0, "a")), SSE, "upstream_error"),
        (stream(start(), *used(0, "f", "{}")[1:]), SSE, "upstream_error"),
        (stream(start(), {"type": "content_block_delta"}), SSE, "upstream_error"),
        (stream({"type": "message_start", "message": {"model": 1}}), SSE, "upstream_error"),
    ],
)
def test_what_is_not_an_answer_has_a_typed_reason(
    answer: bytes, headers: dict[str, str], reason: str
) -> None:
    error = failure(answer, headers | {"request-id": "req_1"})
    assert error.reason == reason
    assert error.upstream_request_id == "req_1"


def test_the_answers_own_type_decides_how_it_is_read() -> None:
    asked = request(stream=True)
    whole, streamed = message({"type": "text", "text": "a"}), stream(start(), *said(0, "a"), *end())
    assert text_of(read(whole, JSON, asked)) == "a"
    assert text_of(read(streamed, SSE, ASKED)) == "a"
    assert text_of(read(streamed, {}, asked)) == "a"
    assert text_of(read(whole, {}, ASKED)) == "a"


# --- counts and headers ------------------------------------------------------------------------

COUNTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"input_tokens": 3, "output_tokens": 5}, {"input_tokens": 3, "output_tokens": 5}),
    (
        {
            "input_tokens": 3,
            "cache_read_input_tokens": 10,
            "cache_creation_input_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 2},
            "output_tokens": 5,
        },
        {
            "input_tokens": 3,
            "cache_read_tokens": 10,
            "cache_write_tokens": 7,
            "cache_write_1h_tokens": 2,
            "output_tokens": 5,
        },
    ),
    (
        {"input_tokens": 3, "output_tokens": 50, "output_tokens_details": {"thinking_tokens": 40}},
        {"input_tokens": 3, "output_tokens": 10, "reasoning_tokens": 40},
    ),
    (
        {
            "input_tokens": 3,
            "output_tokens": 5,
            "cache_creation": None,
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
        },
        {"input_tokens": 3, "output_tokens": 5, "tool_calls": {"web_search": 2}},
    ),
]


@pytest.mark.parametrize(("counts", "usage"), COUNTS)
def test_classes_of_tokens_are_disjoint(counts: dict[str, Any], usage: dict[str, Any]) -> None:
    assert usage_of(read(message(usage=counts), JSON)) == usage
    assert usage_of(read(stream(start(**counts), *end()), SSE)) == usage


def test_counts_of_the_end_stand_in_for_those_of_the_beginning() -> None:
    events = read(
        stream(
            start(input_tokens=900, cache_read_input_tokens=800, output_tokens=4),
            *said(0, "a"),
            *end(input_tokens=100, output_tokens=9, cache_read_input_tokens=None),
        ),
        SSE,
    )
    assert usage_of(events) == {"input_tokens": 100, "cache_read_tokens": 800, "output_tokens": 9}


def test_an_answer_without_counts_has_estimated_ones() -> None:
    usage = usage_of(read(message({"type": "text", "text": "a" * 41}, usage=None), JSON))
    assert usage == {"output_tokens": 11, "estimated": True}


def test_the_first_event_says_who_answers_and_what_is_left_of_the_limits() -> None:
    headers = JSON | {
        "request-id": "req_1",
        "anthropic-ratelimit-tokens-remaining": "9",
        "retry-after": "3",
    }
    counts = {"input_tokens": 1, "output_tokens": 1, "service_tier": "priority"}
    started = read(message(usage=counts), headers)[0].started
    assert (started.model, started.upstream_id) == ("claude-x", "msg_1")
    assert (started.upstream_request_id, started.service_tier) == ("req_1", "priority")
    assert dict(started.rate_limits) == {"anthropic-ratelimit-tokens-remaining": "9"}


# --- what is emulated --------------------------------------------------------------------------


def test_an_answer_given_as_the_input_of_a_tool_is_the_text() -> None:
    for events in (
        read(
            message(
                {"type": "text", "text": ""},
                {"type": "tool_use", "id": "t", "name": "out", "input": {"a": 1}},
                stop_reason="tool_use",
            ),
            JSON,
            SCHEMA,
        ),
        read(stream(start(), *used(0, "out", "", '{"a"', ":1}"), *end("tool_use")), SSE, SCHEMA),
    ):
        assert json.loads(text_of(events)) == {"a": 1}
        assert "tool_call" not in kinds(events)
        assert finish_of(events).reason == E.FINISH_REASON_STOP


def test_the_callers_own_tools_are_still_called_beside_a_schema() -> None:
    answer = stream(start(), *used(0, "f", '{"x":1}'), *used(1, "out", "{}"), *end("tool_use"))
    events = read(answer, SSE, SCHEMA)
    calls = [event.tool_call for event in events if event.HasField("tool_call")]
    assert (calls[0].name, calls[0].index, "".join(c.arguments for c in calls)) == (
        "f",
        0,
        '{"x":1}',
    )
    assert text_of(events) == "{}"
    assert finish_of(events).reason == E.FINISH_REASON_TOOL_CALLS


@pytest.mark.parametrize(
    ("pieces", "given"),
    [
        (['{"inp', 'ut": "print(\\"é\\")"}'], 'print("é")'),
        (['{"input": {"a":1}}'], '{"a":1}'),
        (['{"other": 1}'], '{"other":1}'),
        (['{"input": "broken o'], '{"input": "broken o'),
        ([], "{}"),
    ],
)
def test_free_text_for_a_tool_is_unwrapped(pieces: list[str], given: str) -> None:
    events = read(stream(start(), *used(0, "run", *pieces), *end("tool_use")), SSE, CUSTOM)
    calls = [event.tool_call for event in events if event.HasField("tool_call")]
    assert calls[0].kind == C.TOOL_KIND_CUSTOM
    assert "".join(call.arguments for call in calls) == given


FENCED = [
    ('```json\n{"a": 1}\n```', '{"a": 1}'),
    ('```\n{"a": 1}```\n', '{"a": 1}'),
    ('\n ```JSON\r\n{"a": "```"}\n```  ', '{"a": "```"}'),
    ('{"a": "```"}', '{"a": "```"}'),
    ('{"a": 1}\n', '{"a": 1}\n'),
    ("`", "`"),
    ("", ""),
]


@pytest.mark.parametrize(("written", "shown"), FENCED)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_fence_around_json_is_taken_off_wherever_it_is_cut(
    written: str, shown: str, size: int
) -> None:
    pieces = [written[i : i + size] for i in range(0, len(written), size)]
    answer = stream(start(), *said(0, *pieces), *end())
    assert text_of(read(answer, SSE, ANY_JSON)) == shown
    assert text_of(read(answer, SSE, ASKED)) == written


def test_json_is_shown_while_it_comes() -> None:
    decoder = ANTHROPIC.dialect.decoder(ANY_JSON, SSE)
    shown = decoder.feed(stream(start(), *said(0, '```json\n{"a":', " 1")[:3]))
    assert text_of(shown) == '{"a": 1'
