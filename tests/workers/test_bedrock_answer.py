from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2
from tests.workers.anthropic_hub import request, tool
from tests.workers.bedrock_hub import BEDROCK, turns
from tests.workers.test_eventstream import message

G = generation_pb2
HEADERS = {"x-amzn-requestid": "r1"}
ANSWER = G.ResponseFormat(kind=G.ResponseFormat.KIND_JSON_SCHEMA, name="person", schema=b"{}")


def decode(
    *content: Any, asked: G.Request | None = None, reason: str = "end_turn", **reply: Any
) -> list[event_pb2.Event]:
    whole = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason}
    decoder = BEDROCK.dialect.decoder(asked or request(), HEADERS)
    return [*decoder.feed(json.dumps(whole | reply).encode()), *decoder.close()]


def stream(*frames: bytes, asked: G.Request | None = None) -> list[event_pb2.Event]:
    headers = {**HEADERS, "content-type": "application/vnd.amazon.eventstream"}
    decoder = BEDROCK.dialect.decoder(asked or request(stream=True), headers)
    events = [event for frame in frames for event in decoder.feed(frame)]
    return [*events, *decoder.close()]


def frame(name: str, **fields: Any) -> bytes:
    return message(json.dumps(fields).encode(), message_type="event", event_type=name)


def started(index: int, **start: Any) -> bytes:
    return frame("contentBlockStart", contentBlockIndex=index, start=start)


def delta(index: int, **more: Any) -> bytes:
    return frame("contentBlockDelta", contentBlockIndex=index, delta=more)


def stopped(index: int) -> bytes:
    return frame("contentBlockStop", contentBlockIndex=index)


def ended(reason: str = "end_turn") -> tuple[bytes, bytes]:
    usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    return frame("messageStop", stopReason=reason), frame("metadata", usage=usage, metrics={})


def use(name: str, given: Any = None, **more: Any) -> Any:
    return {"toolUse": {"toolUseId": "t", "name": name, "input": given or {}, **more}}


def kinds(events: list[event_pb2.Event]) -> list[str | None]:
    return [event.WhichOneof("kind") for event in events]


def text(events: list[event_pb2.Event]) -> str:
    return "".join(event.text.text for event in events)


def finish(events: list[event_pb2.Event]) -> int:
    return next(e.choice_finished.reason for e in events if e.HasField("choice_finished"))


def test_an_answer_has_the_id_of_its_call() -> None:
    begun = decode({"text": "a"}, serviceTier={"type": "flex"})[0].started
    assert (begun.upstream_id, begun.upstream_request_id, begun.service_tier) == (
        "r1",
        "r1",
        "flex",
    )


def test_a_signature_comes_behind_its_thoughts_and_goes_back_with_them() -> None:
    block = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}}
    streamed = stream(
        delta(0, reasoningContent={"text": "h"}),
        delta(0, reasoningContent={"text": "m"}),
        delta(0, reasoningContent={"signature": "si"}),
        delta(0, reasoningContent={"signature": "g"}),
        stopped(0),
        *ended(),
    )
    for events in (decode(block), streamed):
        blob = next(e.blob.blob for e in events if e.HasField("blob"))
        thought = "".join(e.reasoning.text for e in events)
        said = content_pb2.Part(reasoning=content_pb2.Reasoning(text=thought, blobs=[blob]))
        history = [
            content_pb2.Message(
                role=content_pb2.ROLE_USER,
                parts=[content_pb2.Part(text=content_pb2.Text(text="q"))],
            ),
            content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[said]),
        ]
        assert turns(request(*history))[1] == ("assistant", [block])


def test_blocks_that_bedrock_runs_itself_are_kept_whole() -> None:
    call = use("nova_code_interpreter", {"snippet": "1"}, type="server_tool_use")
    outcome = {
        "toolResult": {"toolUseId": "t", "type": "x", "content": [{"json": {"stdOut": "1"}}]}
    }
    begun = {"toolUseId": "t", "name": "nova_code_interpreter", "type": "server_tool_use"}
    streamed = stream(
        started(0, toolUse=begun),
        delta(0, toolUse={"input": '{"snippet"'}),
        delta(0, toolUse={"input": ':"1"}'}),
        stopped(0),
        started(1, toolResult={"toolUseId": "t", "type": "x"}),
        delta(1, toolResult=[{"json": {"stdOut": "1"}}]),
        stopped(1),
        delta(2, text="1"),
        stopped(2),
        *ended("tool_use"),
    )
    for events in (decode(call, outcome, {"text": "1"}, reason="tool_use"), streamed):
        kept = [json.loads(e.opaque.opaque.json) for e in events if e.HasField("opaque")]
        assert kept == [call, outcome]
        assert finish(events) == event_pb2.FINISH_REASON_STOP
        assert "tool_call" not in kinds(events)


def test_citations_are_counted_in_the_whole_text() -> None:
    web = {"title": "S", "location": {"web": {"url": "https://x", "domain": "x"}}}
    place = {"title": "D", "location": {"documentPage": {"documentIndex": 0}}}
    cited = {"citationsContent": {"content": [{"text": "blue"}], "citations": [web, place]}}
    streamed = stream(
        delta(0, text="It is "),
        stopped(0),
        delta(1, text="blue"),
        delta(1, citation=web),
        delta(1, citation=place),
        stopped(1),
        *ended(),
    )
    for events in (decode({"text": "It is "}, cited), streamed):
        assert text(events) == "It is blue"
        assert {e.text.item for e in events if e.HasField("text")} == {0}
        notes = [json.loads(e.annotation.json) for e in events if e.HasField("annotation")]
        expected = {"url": "https://x", "title": "S", "start_index": 6, "end_index": 10}
        assert notes == [{"type": "url_citation", "url_citation": expected}, place]


def test_the_tool_that_stands_for_an_answer_is_the_answer() -> None:
    asked = request(tools=[tool("f")], response_format=ANSWER)
    events = decode(use("person", {"a": 1}), asked=asked, reason="tool_use")
    assert json.loads(text(events)) == {"a": 1}
    assert finish(events) == event_pb2.FINISH_REASON_STOP


def test_tool_calls_are_counted_among_themselves() -> None:
    events = decode({"text": "a"}, use("f"), use("g", {"b": 1}), reason="tool_use")
    calls = [e.tool_call for e in events if e.HasField("tool_call")]
    assert [(c.index, c.item, c.name, c.arguments) for c in calls] == [
        (0, 1, "f", ""),
        (0, 1, "", "{}"),
        (1, 2, "g", ""),
        (1, 2, "", '{"b":1}'),
    ]


def test_a_fence_around_json_is_taken_off() -> None:
    asked = request(response_format=ANSWER, stream=True)
    pieces = (delta(0, text=piece) for piece in ("```js", "on\n{}", "\n```"))
    assert text(stream(*pieces, stopped(0), *ended(), asked=asked)) == "{}"


def test_what_is_cached_for_an_hour_is_told_apart() -> None:
    details = [{"ttl": "1h", "inputTokens": 4}, {"ttl": "5m", "inputTokens": 2}]
    usage = {
        "inputTokens": 1,
        "outputTokens": 1,
        "cacheWriteInputTokens": 6,
        "cacheDetails": details,
    }
    counted = decode({"text": "a"}, usage=usage)[-1].completed.usage
    assert (counted.cache_write_tokens, counted.cache_write_1h_tokens) == (6, 4)


def test_an_answer_that_is_whole_but_for_its_cost_is_whole() -> None:
    last = stream(delta(0, text="12345"), ended()[0])[-1].completed.usage
    assert (last.estimated, last.output_tokens) == (True, 2)


@pytest.mark.parametrize("stop_reason", ["malformed_tool_use", "malformed_model_output"])
def test_what_the_model_garbled_is_no_answer(stop_reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        decode({"text": "a"}, reason=stop_reason)
    assert caught.value.reason == "upstream_error"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "upstream_incomplete"),
        (b'{"output":', "upstream_incomplete"),
        (b"<html>", "upstream_error"),
        (b'{"output":{"message":{}}}', "upstream_incomplete"),
        (b'{"output":{"message":{"content":[1]}},"stopReason":"end_turn"}', "upstream_error"),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, reason: str) -> None:
    decoder = BEDROCK.dialect.decoder(request(), HEADERS)
    decoder.feed(body)
    with pytest.raises(InferenceError) as caught:
        list(decoder.close())
    assert caught.value.reason == reason
    assert caught.value.upstream_request_id == "r1"


def test_an_error_with_a_page_for_a_body_keeps_its_status() -> None:
    error = BEDROCK.dialect.error(502, {}, b"<html>Bad gateway</html>")
    assert (error.reason, error.upstream_status) == ("upstream_error", 502)
