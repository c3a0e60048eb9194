from __future__ import annotations

import json
from typing import Any

from broker.v1 import content_pb2, event_pb2, generation_pb2
from tests.workers.anthropic_hub import request, tool
from workers import registry

DIALECT = registry.provider("cohere").dialect
G = generation_pb2
ANSWER = G.ResponseFormat(kind=G.ResponseFormat.KIND_JSON_SCHEMA, name="person", schema=b"{}")


def decode(message: Any, asked: G.Request | None = None, **reply: Any) -> list[event_pb2.Event]:
    whole = {"id": "i", "finish_reason": "COMPLETE", "message": {"role": "assistant", **message}}
    decoder = DIALECT.decoder(asked or request(), {"content-type": "application/json"})
    return [*decoder.feed(json.dumps(whole | reply).encode()), *decoder.close()]


def stream(*events: Any, asked: G.Request | None = None) -> list[event_pb2.Event]:
    asked = asked or request(stream=True)
    decoder = DIALECT.decoder(asked, {"content-type": "text/event-stream"})
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return [*decoder.feed(text.encode()), *decoder.close()]


def delta(kind: str, index: int = 0, **message: Any) -> Any:
    return {"type": kind, "index": index, "delta": {"message": message}}


def call(name: str, arguments: str = "{}") -> Any:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


END = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}
TOOL_END = {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL"}}


def kinds(events: list[event_pb2.Event]) -> list[str | None]:
    return [event.WhichOneof("kind") for event in events]


def text(events: list[event_pb2.Event]) -> str:
    return "".join(event.text.text for event in events)


def finish(events: list[event_pb2.Event]) -> event_pb2.ChoiceFinished:
    return next(event.choice_finished for event in events if event.HasField("choice_finished"))


def test_items_are_numbered_in_their_order() -> None:
    events = decode(
        {
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "a"},
            ],
            "tool_calls": [call("f")],
        }
    )
    assert [events[n].WhichOneof("kind") for n in (1, 2, 3)] == ["reasoning", "text", "tool_call"]
    items = (events[1].reasoning.item, events[2].text.item, events[3].tool_call.item)
    assert items == (0, 1, 2)
    assert events[0].started.upstream_id == "i"


def test_a_citation_of_a_page_is_one_of_its_address_counted_in_the_whole_text() -> None:
    source = {"type": "document", "document": {"url": "https://x", "title": "X"}}
    cited = {"start": 1, "end": 2, "text": "b", "sources": [source], "content_index": 1}
    other = {"start": 0, "end": 1, "sources": [{"type": "tool", "tool_output": {"a": "b"}}]}
    blocks = [{"type": "text", "text": "ab "}, {"type": "text", "text": "ab"}]
    events = decode({"content": blocks, "citations": [cited, other]})
    shown = [json.loads(e.annotation.json) for e in events if e.HasField("annotation")]
    assert shown[0]["url_citation"] == {
        "url": "https://x",
        "title": "X",
        "start_index": 4,
        "end_index": 5,
    }
    assert shown[1] == other


def test_citations_of_what_is_no_text_are_left_out() -> None:
    cited = {"start": 0, "end": 1, "type": "THINKING_CONTENT", "sources": []}
    assert "annotation" not in kinds(decode({"citations": [cited]}))


def test_log_probabilities_come_per_piece_of_text() -> None:
    piece = {"text": "ab", "token_ids": [1, 2], "logprobs": [-0.5, -0.25]}
    expected = [
        {"token": "ab", "logprob": -0.75, "bytes": [97, 98], "top_logprobs": []},
    ]
    whole = decode({"content": [{"type": "text", "text": "ab"}]}, logprobs=[piece])
    assert json.loads(whole[1].text.logprobs) == expected
    begun = delta("content-start", content={"type": "text", "text": ""})
    more = delta("content-delta", content={"text": "ab"}) | {"logprobs": piece}
    streamed = stream({"type": "message-start", "id": "i"}, begun, more, END)
    assert json.loads(streamed[1].text.logprobs) == expected


def test_the_tool_that_stands_for_an_answer_is_the_answer() -> None:
    asked = request(tools=[tool("f")], response_format=ANSWER)
    events = decode({"tool_calls": [call("person", '{"a":1}')]}, asked, finish_reason="TOOL_CALL")
    assert text(events) == '{"a":1}'
    assert "tool_call" not in kinds(events)
    assert finish(events).reason == event_pb2.FINISH_REASON_STOP


def test_a_custom_tool_gets_its_text_back() -> None:
    asked = request(tools=[G.Tool(custom=G.CustomTool(name="run"))], stream=True)
    start = delta("tool-call-start", tool_calls=call("run", ""))
    pieces = [
        delta("tool-call-delta", tool_calls={"function": {"arguments": piece}})
        for piece in ('{"inp', 'ut":"ls"}')
    ]
    events = stream(start, *pieces, {"type": "tool-call-end", "index": 0}, TOOL_END, asked=asked)
    calls = [event.tool_call for event in events if event.HasField("tool_call")]
    assert [c.arguments for c in calls] == ["", "ls"]
    assert calls[0].kind == content_pb2.TOOL_KIND_CUSTOM
    assert finish(events).reason == event_pb2.FINISH_REASON_TOOL_CALLS


def test_a_fence_around_json_is_taken_off() -> None:
    asked = request(
        response_format=G.ResponseFormat(kind=G.ResponseFormat.KIND_JSON_OBJECT), stream=True
    )
    begun = delta("content-start", content={"type": "text", "text": ""})
    pieces = [
        delta("content-delta", content={"text": p}) for p in ("```js", 'on\n{"a":1}', "\n```")
    ]
    assert text(stream(begun, *pieces, END, asked=asked)) == '{"a":1}'


def test_a_delta_without_a_start_is_read_all_the_same() -> None:
    events = stream(delta("content-delta", content={"thinking": "hm"}), END)
    assert kinds(events)[:2] == ["started", "reasoning"]


def test_searches_are_counted_as_calls_of_a_hosted_tool() -> None:
    usage = {"billed_units": {"search_units": 2.0, "input_tokens": 3.0}}
    completed = decode({"content": []}, usage=usage)[-1].completed
    assert dict(completed.usage.tool_calls) == {"search": 2}
    assert completed.usage.input_tokens == 3
