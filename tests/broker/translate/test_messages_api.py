"""The Messages API: what is asked, what is refused, how answers and errors look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import TABLE, InferenceError
from broker.translate.messages_api_answer import MessagesAnswer, stop_reason
from broker.translate.messages_api_errors import messages_error, messages_status
from broker.translate.messages_api_request import parse_count, parse_messages
from broker.translate.messages_api_stream import MessagesStream
from broker.translate.token_count import CountAnswer
from broker.v1 import content_pb2, event_pb2, generation_pb2
from tests.broker.translate.hub import events

Finished = event_pb2.ChoiceFinished
HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def parse(**fields: Any) -> generation_pb2.Request:
    body = {"model": "m", "max_tokens": 100, "messages": HELLO, **fields}
    return parse_messages(json.dumps(body).encode())


def blocks(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}]}


def source(**fields: Any) -> dict[str, Any]:
    return blocks({"type": "image", "source": fields})


FIRST = "messages[0].content[0]"
MISSING = "missing_required_parameter"
# Fields, the path of the one at fault, its code.
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ""}, "model", "empty_string"),
    ({"model": None}, "model", MISSING),
    ({"max_tokens": None}, "max_tokens", MISSING),
    ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": "9"}, "max_tokens", "invalid_type"),
    ({"messages": None}, "messages", MISSING),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", MISSING),
    ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "invalid_type"),
    (blocks(1), "messages[0].content[0]", "invalid_type"),
    (blocks({}), f"{FIRST}.type", MISSING),
    (blocks({"type": 1}), f"{FIRST}.type", "invalid_type"),
    (blocks({"type": "text"}), f"{FIRST}.text", MISSING),
    (blocks({"type": "text", "text": 1}), f"{FIRST}.text", "invalid_type"),
    (blocks({"type": "image"}), f"{FIRST}.source", MISSING),
    (source(), f"{FIRST}.source.type", MISSING),
    (source(type="base64", media_type="image/png"), f"{FIRST}.source.data", MISSING),
    (source(type="base64", data="AA=="), f"{FIRST}.source.media_type", MISSING),
    (
        source(type="base64", media_type="image/png", data="!"),
        f"{FIRST}.source.data",
        "invalid_base64",
    ),
    (source(type="url"), f"{FIRST}.source.url", MISSING),
    (blocks({"type": "document", "source": {"type": "text"}}), f"{FIRST}.source.data", MISSING),
    (blocks({"type": "tool_use", "name": "f", "input": {}}), f"{FIRST}.id", MISSING),
    (blocks({"type": "tool_use", "id": "a", "name": "f"}), f"{FIRST}.input", MISSING),
    (
        blocks({"type": "tool_use", "id": "a", "name": "f", "input": "x"}),
        f"{FIRST}.input",
        "invalid_type",
    ),
    (blocks({"type": "tool_result"}), f"{FIRST}.tool_use_id", MISSING),
    (
        blocks({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text"}]}),
        f"{FIRST}.content[0].text",
        MISSING,
    ),
    (
        blocks({"type": "tool_result", "tool_use_id": "a", "is_error": "yes"}),
        f"{FIRST}.is_error",
        "invalid_type",
    ),
    (blocks({"type": "thinking", "signature": "s"}), f"{FIRST}.thinking", MISSING),
    (
        blocks({"type": "thinking", "thinking": "", "signature": "millrace.1.AAAA"}),
        f"{FIRST}.signature",
        "invalid_value",
    ),
    (blocks({"type": "redacted_thinking"}), f"{FIRST}.data", MISSING),
    ({"system": 1}, "system", "invalid_type"),
    ({"system": [{"type": "text"}]}, "system[0].text", MISSING),
    ({"temperature": 1.5}, "temperature", "decimal_above_max_value"),
    ({"top_p": -1}, "top_p", "decimal_below_min_value"),
    ({"top_k": -1}, "top_k", "integer_below_min_value"),
    ({"stop_sequences": "x"}, "stop_sequences", "invalid_type"),
    ({"stop_sequences": [""]}, "stop_sequences[0]", "empty_string"),
    ({"metadata": {"user_id": 1}}, "metadata.user_id", "invalid_type"),
    ({"thinking": {}}, "thinking.type", MISSING),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", MISSING),
    (
        {"thinking": {"type": "enabled", "budget_tokens": 9}},
        "thinking.budget_tokens",
        "integer_below_min_value",
    ),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type", "invalid_value"),
    (
        {"output_config": {"format": {"type": "json_schema"}}},
        "output_config.format.schema",
        MISSING,
    ),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema", MISSING),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name", MISSING),
    ({"tools": [TOOL, {**TOOL, "name": ""}]}, "tools[1].name", "empty_string"),
    ({"tools": [{**TOOL, "strict": 1}]}, "tools[0].strict", "invalid_type"),
    ({"tool_choice": {}}, "tool_choice.type", MISSING),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type", "invalid_value"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name", MISSING),
    ({"tags": [1]}, "tags[0]", "invalid_type"),
]


@pytest.mark.parametrize(("fields", "param", "code"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InferenceError) as caught:
        parse(**fields)
    assert (caught.value.reason, caught.value.param) == ("invalid_request", param)
    assert caught.value.code == code


def test_a_count_needs_no_limit() -> None:
    body = json.dumps({"model": "m", "messages": HELLO, "system": "s"}).encode()
    request = parse_count(body)
    assert request.count_tokens.surface == generation_pb2.SURFACE_MESSAGES
    assert len(request.count_tokens.messages) == 2


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "adaptive"}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"output_config": {"effort": "max"}}, "max"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}}, "low"),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "none"),
    ],
)
def test_thinking_is_an_effort_for_others(fields: dict[str, Any], effort: str | None) -> None:
    reasoning = parse(**fields).generate.reasoning
    assert (reasoning.effort if reasoning.HasField("effort") else None) == effort


def test_results_of_tools_are_messages_of_their_own() -> None:
    result = {"type": "tool_result", "content": "x"}
    content = [
        {**result, "tool_use_id": "a"},
        {**result, "tool_use_id": "b"},
        {"type": "text", "text": "c"},
        {"type": "text", "text": "d"},
    ]
    messages = parse(**blocks(*content)).generate.messages
    roles = [content_pb2.ROLE_TOOL, content_pb2.ROLE_TOOL, content_pb2.ROLE_USER]
    assert [message.role for message in messages] == roles
    assert [len(message.parts) for message in messages] == [1, 1, 2]


def test_the_platforms_own_arguments_stand_beside() -> None:
    platform = parse(tags=["a"], region="eu", drop_params=False, models=["x"]).platform
    assert (list(platform.tags), platform.region) == (["a"], "eu")
    assert list(platform.models) == ["x"]
    assert platform.drop_params is False


# --- answers ---

STARTED = 'started { model: "m-1" }'
DONE = "completed { usage { input_tokens: 3 output_tokens: 4 reasoning_tokens: 2 } }"


def whole(*lines: str) -> dict[str, Any]:
    answer = MessagesAnswer("msg_1", 0, generation_pb2.Request())
    answer.feed(events("\n".join((STARTED, *lines, DONE))))
    shown: dict[str, Any] = json.loads(answer.render())
    return shown


def test_state_of_other_providers_comes_back_as_it_was() -> None:
    state = 'blob { item: 1 blob { issuer: "gemini" kind: "call" data: "\\377x" } }'
    call = 'tool_call { item: 1 call_id: "c" name: "f" arguments: "{}" }'
    thought, called = whole('text { text: "a" }', state, call)["content"][1:]
    assert thought["type"] == "thinking"
    assert called == {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    request = parse(**blocks(thought, called, role="assistant"))
    part = request.generate.messages[0].parts[0]
    assert part.reasoning.blobs[0] == content_pb2.Blob(issuer="gemini", kind="call", data=b"\xffx")


@pytest.mark.parametrize(
    ("arguments", "given"),
    [("", {}), ("{}", {}), ('{"a":1}', {"a": 1}), ('{"a"', {"_raw": '{"a"'}), ("1", {"_raw": "1"})],
)
def test_the_input_of_a_tool_is_always_an_object(arguments: str, given: Any) -> None:
    call = f'tool_call {{ call_id: "c" name: "f" arguments: {json.dumps(arguments)} }}'
    assert whole(call)["content"][0]["input"] == given


def test_what_the_format_has_no_block_for_is_text() -> None:
    shown = whole(
        'image { item: 0 url: "https://i.example/a.png" }',
        'audio { item: 1 transcript: "heard" }',
        'refusal { item: 2 text: "no" }',
        "choice_finished { reason: FINISH_REASON_CONTENT_FILTER }",
    )
    texts = [block["text"] for block in shown["content"]]
    assert texts == ["![image](https://i.example/a.png)", "heard", "no"]
    assert shown["stop_reason"] == "refusal"
    assert shown["usage"]["output_tokens"] == 6
    assert shown["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


@pytest.mark.parametrize(
    ("finished", "word"),
    [
        (Finished(reason=event_pb2.FINISH_REASON_STOP), "end_turn"),
        (Finished(reason=event_pb2.FINISH_REASON_STOP, stop_sequence="x"), "stop_sequence"),
        (Finished(reason=event_pb2.FINISH_REASON_LENGTH, upstream_reason="length"), "max_tokens"),
        (Finished(reason=event_pb2.FINISH_REASON_TOOL_CALLS), "tool_use"),
        (Finished(reason=event_pb2.FINISH_REASON_STOP, upstream_reason="pause_turn"), "pause_turn"),
        # A tool that stood for the answer's form.
        (Finished(reason=event_pb2.FINISH_REASON_STOP, upstream_reason="tool_use"), "end_turn"),
        (Finished(), "end_turn"),
    ],
)
def test_an_answer_ends_with_a_word_of_the_format(finished: Finished, word: str) -> None:
    assert stop_reason(finished) == word


def test_calls_whose_pieces_come_mixed_stay_apart() -> None:
    """The second waits until the first is whole JSON, and what never becomes so ends at the end."""
    stream = MessagesStream("msg_1", 0, generation_pb2.Request())
    pieces = [
        'tool_call { index: 0 call_id: "a" name: "f" arguments: "{\\"x\\":" }',
        'tool_call { index: 1 call_id: "b" name: "f" arguments: "{\\"y\\":" }',
        'tool_call { index: 2 call_id: "c" name: "f" arguments: "{}" }',
        'tool_call { index: 0 arguments: "1}" }',
        'tool_call { index: 1 arguments: "2" }',
    ]
    data = stream.feed(events("\n".join([STARTED, *pieces, DONE])))
    data += stream.finish()
    steps = [json.loads(line[6:]) for line in data.decode().split("\n") if line[:5] == "data:"]
    found = [
        (step["index"], step.get("content_block", {}).get("id") or step["delta"]["partial_json"])
        for step in steps
        if step["type"] in ("content_block_start", "content_block_delta")
    ]
    assert found == [
        (0, "a"),
        (0, '{"x":'),
        (0, "1}"),
        (1, "b"),
        (1, '{"y":'),
        (1, "2"),
        (2, "c"),
        (2, "{}"),
    ]


OPEN = 'tool_call { index: 0 call_id: "a" name: "f" arguments: "{\\"x\\":" }'
REST = 'tool_call { index: 0 arguments: "1}" }'
OTHER = 'tool_call { index: 1 call_id: "b" name: "f" arguments: "{}" }'
TEXT, MORE = 'text { text: "so" }', 'text { text: " it is" }'
THOUGHT = 'reasoning { text: "why" }'
A, B, SO = ("a", '{"x":1}'), ("b", "{}"), ("text", "so it is")
# What comes, and the blocks that it is shown as: whole arguments, one block at a time.
MIXED: list[tuple[list[str], list[tuple[str, str]]]] = [
    ([OPEN, TEXT, MORE, REST], [A, SO]),
    ([OPEN, TEXT, REST, MORE], [A, SO]),
    ([OPEN, REST, TEXT, MORE], [A, SO]),
    ([TEXT, MORE, OPEN, REST], [SO, A]),
    ([OPEN, THOUGHT, TEXT, REST, MORE], [A, ("thinking", "why"), SO]),
    ([OPEN, TEXT, OTHER, MORE, REST], [A, B, SO]),
    ([OPEN, OTHER, TEXT, MORE, REST], [A, B, SO]),
    ([OPEN, TEXT, MORE], [("a", '{"x":'), SO]),
]


@pytest.mark.parametrize(("pieces", "blocks"), MIXED)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_said_among_the_pieces_of_a_call_costs_none_of_them(
    pieces: list[str], blocks: list[tuple[str, str]], at_once: bool
) -> None:
    stream = MessagesStream("msg_1", 0, generation_pb2.Request())
    came = events("\n".join([STARTED, *pieces, DONE]))
    data = stream.feed(came) if at_once else b"".join(stream.feed([event]) for event in came)
    data += stream.finish()
    found: list[tuple[str, str]] = []
    opened = closed = 0
    for line in data.decode().split("\n"):
        if not line.startswith("data: "):
            continue
        step: dict[str, Any] = json.loads(line[6:])
        if step["type"] == "content_block_start":
            assert step["index"] == opened == closed
            opened += 1
            block = step["content_block"]
            found.append((block.get("id", block["type"]), ""))
        elif step["type"] == "content_block_delta":
            assert step["index"] == closed == opened - 1
            name, said = found[-1]
            delta = step["delta"]
            found[-1] = name, said + delta[next(key for key in delta if key != "type")]
        elif step["type"] == "content_block_stop":
            closed += 1
    assert found == blocks
    assert opened == closed


def test_text_in_front_of_a_call_is_shown_at_once() -> None:
    stream = MessagesStream("msg_1", 0, generation_pb2.Request())
    stream.feed(events(STARTED))
    assert b"so" in stream.feed(events(TEXT))
    assert b"partial_json" in stream.feed(events(OPEN))
    assert not stream.feed(events(MORE))
    assert b" it is" in stream.feed(events(REST))


def test_a_count_says_when_it_is_an_estimate() -> None:
    answer = CountAnswer("x", 0, generation_pb2.Request())
    answer.feed(events(f"{STARTED}\ntoken_count {{ input_tokens: 7 estimated: true }}\n{DONE}"))
    assert json.loads(answer.render()) == {"input_tokens": 7, "estimated": True}


# --- errors ---

# Source: the error types of the official SDK.
TYPES = {
    *("invalid_request_error", "authentication_error", "permission_error", "not_found_error"),
    *("request_too_large", "rate_limit_error", "api_error", "overloaded_error", "billing_error"),
    *("timeout_error", "conflict_error"),
}


@pytest.mark.parametrize("reason", TABLE)
def test_every_reason_has_a_type_of_the_format(reason: str) -> None:
    exc = InferenceError(reason, "it went wrong", param="messages[0]")
    body = json.loads(messages_error(exc, "req_1"))
    assert body["type"] == "error"
    assert body["request_id"] == "req_1"
    assert body["error"].keys() == {"type", "message"}
    assert body["error"]["type"] in TYPES
    assert body["error"]["message"] == "messages[0]: it went wrong"
    blames_caller = body["error"]["type"] in ("invalid_request_error", "authentication_error")
    assert not (blames_caller and messages_status(exc) >= 500)


def test_an_overloaded_provider_has_the_formats_own_status() -> None:
    exc = InferenceError("upstream_overloaded", "later")
    assert messages_status(exc) == 529
    assert json.loads(messages_error(exc))["error"]["type"] == "overloaded_error"
