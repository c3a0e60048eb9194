"""Whole and streamed answers have the shapes that api.openai.com sends and its SDK reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import text_format

from broker.errors import InferenceError
from broker.translate.chat_answer import ChatAnswer, ChatStream
from broker.v1 import event_pb2, generation_pb2

STARTED = (
    'started { model: "gpt-4o-2024-08-06" system_fingerprint: "fp_1" service_tier: "default" '
    'upstream_id: "chatcmpl-upstream" provider: "openai" }'
)


def events(text: str) -> list[event_pb2.Event]:
    """Events in protobuf text format, one a line, after a `started`."""
    lines = [STARTED, *(line for line in text.splitlines() if line.strip())]
    return [text_format.Parse(line, event_pb2.Event()) for line in lines]


def request(*, legacy: bool = False, usage: bool = True) -> generation_pb2.Request:
    wanted = generation_pb2.Request()
    wanted.generate.legacy_functions = legacy
    wanted.generate.stream_options.include_usage = usage
    return wanted


def whole(text: str, *, legacy: bool = False) -> dict[str, Any]:
    answer = ChatAnswer("chatcmpl-1", 1700000000, request(legacy=legacy))
    answer.feed(events(text))
    body: dict[str, Any] = json.loads(answer.render())
    return body


def chunks(data: bytes) -> list[dict[str, Any]]:
    """The objects of a stream that ends with [DONE]."""
    lines = data.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines[:-1])
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def streamed(text: str, *, legacy: bool = False, usage: bool = True) -> list[dict[str, Any]]:
    stream = ChatStream.of("chatcmpl-1", 1700000000, request(legacy=legacy, usage=usage))
    return chunks(b"".join(stream.feed([event]) for event in events(text)) + stream.finish())


def deltas(text: str, *, legacy: bool = False) -> list[dict[str, Any]]:
    return [
        choice["delta"] for chunk in streamed(text, legacy=legacy) for choice in chunk["choices"]
    ]


# Recorded from api.openai.com (ids and words shortened, `obfuscation` removed), with the events
# that the same answer is in the hub.
USAGE = {
    "prompt_tokens": 14,
    "completion_tokens": 8,
    "total_tokens": 22,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
END = "completed { usage { input_tokens: 14 output_tokens: 8 } }"

TEXT = f"""
text {{ text: "OK" }}
text {{ text: " then" }}
choice_finished {{ reason: FINISH_REASON_STOP upstream_reason: "stop" }}
{END}
"""
TOOLS = f"""
tool_call {{ index: 0 call_id: "call_3" name: "get_country" kind: TOOL_KIND_FUNCTION }}
tool_call {{ index: 0 arguments: "{{}}" }}
tool_call {{ index: 1 call_id: "call_X" name: "get_product_name" kind: TOOL_KIND_FUNCTION }}
tool_call {{ index: 1 arguments: "{{}}" }}
choice_finished {{ reason: FINISH_REASON_TOOL_CALLS }}
{END}
"""
REFUSAL = f"""
refusal {{ text: "I'm" }}
refusal {{ text: " sorry" }}
choice_finished {{ reason: FINISH_REASON_STOP }}
{END}
"""
LEGACY = f"""
tool_call {{ index: 0 call_id: "" name: "Joke" kind: TOOL_KIND_FUNCTION arguments: "" }}
tool_call {{ index: 0 arguments: "{{\\"setup\\":" }}
tool_call {{ index: 0 arguments: "1}}" }}
choice_finished {{ reason: FINISH_REASON_TOOL_CALLS upstream_reason: "function_call" }}
{END}
"""


def recorded(message: dict[str, Any], finish_reason: str) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, "refusal": None, "annotations": []} | message
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}
        ],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def function(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


WHOLE = {
    "text": (TEXT, False, recorded({"content": "OK then"}, "stop")),
    "tool calls": (
        TOOLS,
        False,
        recorded(
            {
                "tool_calls": [
                    function("call_3", "get_country"),
                    function("call_X", "get_product_name"),
                ]
            },
            "tool_calls",
        ),
    ),
    "refusal": (REFUSAL, False, recorded({"refusal": "I'm sorry"}, "stop")),
    "legacy function": (
        LEGACY,
        True,
        recorded({"function_call": {"name": "Joke", "arguments": '{"setup":1}'}}, "function_call"),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_is_what_openai_would_have_sent(name: str) -> None:
    told, legacy, expected = WHOLE[name]
    assert whole(told, legacy=legacy) == expected


def recorded_stream(*given: dict[str, Any], finish_reason: str) -> list[dict[str, Any]]:
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**head, "choices": [choice], "usage": None}

    return [
        *(chunk(delta) for delta in given),
        chunk({}, finish_reason),
        {**head, "choices": [], "usage": USAGE},
    ]


STREAMED = {
    "text": (
        TEXT,
        False,
        recorded_stream(
            {"role": "assistant", "content": "", "refusal": None},
            {"content": "OK"},
            {"content": " then"},
            finish_reason="stop",
        ),
    ),
    "tool calls": (
        TOOLS,
        False,
        recorded_stream(
            {"role": "assistant", "content": None, "refusal": None},
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "call_3",
                        "type": "function",
                        "function": {"name": "get_country", "arguments": ""},
                    }
                ]
            },
            {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
            {
                "tool_calls": [
                    {
                        "index": 1,
                        "id": "call_X",
                        "type": "function",
                        "function": {"name": "get_product_name", "arguments": ""},
                    }
                ]
            },
            {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
            finish_reason="tool_calls",
        ),
    ),
    "refusal": (
        REFUSAL,
        False,
        recorded_stream(
            {"role": "assistant", "content": None, "refusal": ""},
            {"refusal": "I'm"},
            {"refusal": " sorry"},
            finish_reason="stop",
        ),
    ),
    "legacy function": (
        LEGACY,
        True,
        recorded_stream(
            {"role": "assistant", "content": None, "refusal": None},
            {"function_call": {"name": "Joke", "arguments": ""}},
            {"function_call": {"arguments": '{"setup":'}},
            {"function_call": {"arguments": "1}"}},
            finish_reason="function_call",
        ),
    ),
}


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_answer_is_what_openai_would_have_sent(name: str) -> None:
    told, legacy, expected = STREAMED[name]
    assert streamed(told, legacy=legacy) == expected


def test_without_include_usage_no_chunk_speaks_of_usage() -> None:
    told = streamed(TEXT, usage=False)
    assert all("usage" not in chunk for chunk in told)
    assert all(chunk["choices"] for chunk in told)


# --- faithfulness ---


def test_a_forced_tool_that_ends_with_stop_ends_with_stop() -> None:
    told = TOOLS.replace("FINISH_REASON_TOOL_CALLS", "FINISH_REASON_STOP")
    assert whole(told)["choices"][0]["finish_reason"] == "stop"
    assert streamed(told)[-2]["choices"][0]["finish_reason"] == "stop"


def test_no_finish_reason_is_made_up() -> None:
    assert whole('text { text: "a" }')["choices"][0]["finish_reason"] is None
    assert all(
        choice["finish_reason"] is None
        for chunk in streamed('text { text: "a" }')
        for choice in chunk["choices"]
    )


def test_empty_text_beside_a_tool_call_is_null() -> None:
    assert whole('text { text: "" }\n' + TOOLS)["choices"][0]["message"]["content"] is None
    assert deltas('text { text: "" }\n' + TOOLS)[0]["content"] is None


def test_an_answer_without_a_word_has_empty_content() -> None:
    told = "choice_finished { reason: FINISH_REASON_LENGTH }\n" + END
    assert whole(told)["choices"][0]["message"]["content"] == ""
    assert deltas(told) == [{"role": "assistant", "content": "", "refusal": None}, {}]


def test_a_second_finish_and_a_repeated_name_are_not_shown() -> None:
    told = TOOLS.replace(
        "completed",
        'tool_call { index: 0 name: "get_country" }\nchoice_finished { reason: FINISH_REASON_STOP }\ncompleted',
    )
    assert streamed(told) == streamed(TOOLS)


def test_what_the_provider_does_not_tell_is_null_or_left_out() -> None:
    answer = ChatAnswer("chatcmpl-1", 5, request())
    answer.feed([event_pb2.Event(started=event_pb2.Started(model="m"))])
    body = json.loads(answer.render())
    assert body["system_fingerprint"] is None
    assert "service_tier" not in body
    assert "usage" not in body


def test_the_head_of_a_stream_is_frozen_when_a_second_attempt_takes_over() -> None:
    stream = ChatStream("chatcmpl-1", 5, include_usage=True)
    data = stream.feed(events('text { text: "a" }'))
    again = event_pb2.Event(started=event_pb2.Started(model="other", system_fingerprint="other"))
    second = event_pb2.Event(text=event_pb2.TextDelta(choice=1, text="b"))
    told = chunks(data + stream.feed([again, second]) + stream.finish())
    assert len(told) == 5
    assert {(chunk["id"], chunk["model"], chunk["system_fingerprint"]) for chunk in told} == {
        ("chatcmpl-1", "gpt-4o-2024-08-06", "fp_1")
    }


def test_nothing_is_sent_before_there_is_something_to_show() -> None:
    stream = ChatStream("chatcmpl-1", 5)
    assert stream.feed(events("")) == b""
    assert stream.feed([]) == b""


def test_an_error_is_one_event_and_no_done() -> None:
    stream = ChatStream("chatcmpl-1", 5, include_usage=True)
    stream.feed(events('text { text: "a" }'))
    data = stream.error(InferenceError("worker_lost", "The worker\nwas lost."))
    assert data.endswith(b"\n\n")
    assert json.loads(data.removeprefix(b"data: ")) == {
        "error": {
            "message": "The worker\nwas lost.",
            "type": "server_error",
            "param": None,
            "code": "worker_lost",
        }
    }
    assert data.count(b"\n") == 2
    assert stream.finish() == b""


def test_a_failure_among_the_events_ends_the_stream_after_what_came_before_it() -> None:
    stream = ChatStream("chatcmpl-1", 5)
    data = stream.feed(events('text { text: "a" }\nfailed { reason: "stalled" message: "m" }'))
    lines = data.decode().split("\n\n")
    assert json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"] == {"content": "a"}
    assert json.loads(lines[2].removeprefix("data: "))["error"]["code"] == "stalled"
    assert stream.finish() == b""


def test_a_failure_of_a_whole_answer_is_raised() -> None:
    answer = ChatAnswer("chatcmpl-1", 5, request())
    with pytest.raises(InferenceError) as raised:
        answer.feed(events('failed { reason: "stalled" message: "m" }'))
    assert raised.value.reason == "stalled"
