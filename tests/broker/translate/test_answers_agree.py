"""A stream, a whole answer and the SDK's types all read the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from broker.answer import Fold
from broker.translate import wire, wire_answer
from broker.translate.chat_answer import ChatAnswer, ChatStream
from broker.v1 import event_pb2, generation_pb2

STARTED = (
    'started { model: "gpt-4o-2024-08-06" system_fingerprint: "fp_1" service_tier: "default" }'
)


def events(text: str) -> list[event_pb2.Event]:
    """Events in protobuf text format, one a line, after a `started`."""
    lines = [STARTED, *(line for line in text.splitlines() if line.strip())]
    return [text_format.Parse(line, event_pb2.Event()) for line in lines]


def whole(told: Iterable[event_pb2.Event]) -> dict[str, Any]:
    answer = ChatAnswer("chatcmpl-1", 1700000000, generation_pb2.Request())
    answer.feed(list(told))
    body: dict[str, Any] = json.loads(answer.render())
    return body


def chunks(data: bytes) -> list[dict[str, Any]]:
    """The objects of a stream that ends with [DONE]."""
    lines = data.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def streamed(told: Iterable[event_pb2.Event]) -> list[dict[str, Any]]:
    stream = ChatStream("chatcmpl-1", 1700000000, include_usage=True)
    return chunks(b"".join(stream.feed([event]) for event in told) + stream.finish())


EVERYTHING_TEXT = """
reasoning { item: 0 text: "Let me think" }
blob { item: 0 blob { issuer: "x" kind: "signature" data: "s" } }
text { item: 1 text: "„Grüße“ \\n\\t\\"quoted\\" 👋 \\\\ </script>" }
annotation { item: 1 json: "{\\"type\\":\\"url_citation\\",\\"url_citation\\":{\\"start_index\\":0,\\"end_index\\":2,\\"title\\":\\"t\\",\\"url\\":\\"u\\"}}" }
tool_call { item: 2 index: 0 call_id: "c0" name: "f" kind: TOOL_KIND_FUNCTION arguments: "{\\"a\\":" }
tool_call { item: 3 index: 1 call_id: "c1" name: "g" kind: TOOL_KIND_CUSTOM arguments: "fr" }
tool_call { item: 2 index: 0 arguments: "1}" }
tool_call { item: 3 index: 1 arguments: "ee" }
audio { item: 4 id: "audio_1" data: "\\x00\\x01" transcript: "Hi" }
audio { item: 4 data: "\\x02" transcript: "!" expires_at: 9 }
image { item: 5 image { media_type: "image/webp" data: "\\x00" } }
text { choice: 1 text: "Second" logprobs: "[{\\"token\\":\\"Second\\",\\"logprob\\":-0.1,\\"bytes\\":null,\\"top_logprobs\\":[]}]" }
refusal { choice: 2 text: "No." logprobs: "[]" }
choice_finished { choice: 2 reason: FINISH_REASON_CONTENT_FILTER }
choice_finished { choice: 1 reason: FINISH_REASON_LENGTH }
choice_finished { choice: 0 reason: FINISH_REASON_TOOL_CALLS }
completed { usage { input_tokens: 14 output_tokens: 8 } }
"""
EVERYTHING = events(EVERYTHING_TEXT)


def test_the_sdk_reads_a_whole_answer_with_everything_in_it() -> None:
    body = whole(EVERYTHING)
    read = ChatCompletion.model_validate(body, strict=True)
    first, second, third = read.choices
    assert first.message.content == '„Grüße“ \n\t"quoted" 👋 \\ </script>'
    assert first.message.annotations is not None
    assert first.message.annotations[0].url_citation.url == "u"
    assert first.message.audio is not None
    assert (first.message.audio.id, first.message.audio.data) == ("audio_1", "AAEC")
    assert (first.message.audio.transcript, first.message.audio.expires_at) == ("Hi!", 9)
    assert body["choices"][0]["message"]["tool_calls"] == [
        {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c1", "type": "custom", "custom": {"name": "g", "input": "free"}},
    ]
    assert body["choices"][0]["message"]["images"] == [
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64,AA=="}}
    ]
    assert body["choices"][0]["message"]["reasoning_content"] == "Let me think"
    assert second.logprobs is not None
    assert second.logprobs.content is not None
    assert second.logprobs.content[0].logprob == -0.1
    assert third.message.content is None
    assert third.message.refusal == "No."
    reasons = [choice.finish_reason for choice in read.choices]
    assert reasons == ["tool_calls", "length", "content_filter"]


def test_the_sdk_reads_a_stream_with_everything_in_it() -> None:
    # Custom tools have no type of their own in the SDK's chunks.
    told = streamed(
        events(EVERYTHING_TEXT.replace("kind: TOOL_KIND_CUSTOM", "kind: TOOL_KIND_FUNCTION"))
    )
    for chunk in told:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert all("finish_reason" in choice for choice in chunk["choices"])


def test_custom_calls_stream_as_input() -> None:
    told = [choice["delta"] for chunk in streamed(EVERYTHING) for choice in chunk["choices"]]
    calls = [delta["tool_calls"][0] for delta in told if "tool_calls" in delta]
    assert calls == [
        {
            "index": 0,
            "id": "c0",
            "type": "function",
            "function": {"name": "f", "arguments": '{"a":'},
        },
        {"index": 1, "id": "c1", "type": "custom", "custom": {"name": "g", "input": "fr"}},
        {"index": 0, "function": {"arguments": "1}"}},
        {"index": 1, "custom": {"input": "ee"}},
    ]


def test_each_choice_begins_with_the_role_and_ends_with_one_reason() -> None:
    told = streamed(EVERYTHING)
    for index in range(3):
        own = [c for chunk in told for c in chunk["choices"] if c["index"] == index]
        assert ["role" in choice["delta"] for choice in own] == [True] + [False] * (len(own) - 1)
        assert [choice["finish_reason"] is None for choice in own] == [True] * (len(own) - 1) + [
            False
        ]
        assert own[-1]["delta"] == {}


def test_log_probabilities_travel_with_their_piece() -> None:
    told = [c for chunk in streamed(EVERYTHING) for c in chunk["choices"]]
    second = next(c for c in told if c["delta"].get("content") == "Second")
    assert second["logprobs"]["content"][0]["token"] == "Second"
    assert second["logprobs"]["refusal"] is None
    third = next(c for c in told if c["delta"].get("refusal") == "No.")
    assert third["logprobs"] == {"content": None, "refusal": []}


def test_the_documented_types_are_what_is_sent() -> None:
    """Every key that is sent is in the schema of the docs, and every required one is sent."""

    def check(data: Any, kind: type[msgspec.Struct]) -> None:
        read = msgspec.convert(data, kind)
        assert msgspec.to_builtins(read) == data

    # Raw pieces (log probabilities, annotations) are JSON of the provider.
    plain = "\n".join(
        line
        for line in EVERYTHING_TEXT.splitlines()
        if "logprobs" not in line and "annotation" not in line
    )
    check(whole(events(plain)), wire_answer.ChatCompletion)
    for chunk in streamed(events(plain)):
        check(chunk, wire_answer.ChatCompletionChunk)


def test_the_docs_have_a_schema_for_every_type() -> None:
    kinds = [wire.ChatRequest, wire_answer.ChatCompletion, wire_answer.ChatCompletionChunk]
    _, components = msgspec.json.schema_components([*kinds, wire_answer.ErrorBody])
    assert all("." not in name for name in components), "two types with one name"
    schema = components["ChatRequest"]
    assert schema["required"] == ["model", "messages"]
    assert schema["properties"]["temperature"]["anyOf"][0] == {
        "type": "number",
        "minimum": 0,
        "maximum": 2,
    }


# --- streamed, whole and gRPC answers agree ---

_texts = st.text(st.characters(codec="utf-8"), max_size=12)
_deltas = st.one_of(
    st.builds(
        lambda choice, text: event_pb2.Event(text=event_pb2.TextDelta(choice=choice, text=text)),
        st.integers(0, 2),
        _texts,
    ),
    st.builds(
        lambda choice, text: event_pb2.Event(
            reasoning=event_pb2.ReasoningDelta(choice=choice, text=text)
        ),
        st.integers(0, 2),
        _texts,
    ),
    st.builds(
        lambda choice, text: event_pb2.Event(
            refusal=event_pb2.RefusalDelta(choice=choice, text=text)
        ),
        st.integers(0, 2),
        _texts,
    ),
    st.builds(
        lambda choice, index, text: event_pb2.Event(
            tool_call=event_pb2.ToolCallDelta(
                choice=choice, index=index, call_id=f"c{index}", name=f"f{index}", arguments=text
            )
        ),
        st.integers(0, 2),
        st.integers(0, 2),
        _texts,
    ),
)


def added_up(told: Iterable[dict[str, Any]]) -> dict[tuple[int, str], str]:
    """What a client gets by adding deltas up: (choice, field or tool index) -> text."""
    sums: dict[tuple[int, str], str] = {}
    for chunk in told:
        for choice in chunk["choices"]:
            delta, index = choice["delta"], choice["index"]
            for name in ("content", "reasoning_content", "refusal"):
                if delta.get(name):
                    sums[index, name] = sums.get((index, name), "") + delta[name]
            for call in delta.get("tool_calls", ()):
                place = (index, f"call {call['index']}")
                sums[place] = sums.get(place, "") + call["function"]["arguments"]
    return sums


def read_whole(body: dict[str, Any]) -> dict[tuple[int, str], str]:
    sums: dict[tuple[int, str], str] = {}
    for choice in body["choices"]:
        message, index = choice["message"], choice["index"]
        for name in ("content", "reasoning_content", "refusal"):
            if message.get(name):
                sums[index, name] = message[name]
        for call in message.get("tool_calls", ()):
            number = call["id"].removeprefix("c")
            sums[index, f"call {number}"] = call["function"]["arguments"]
    return sums


@given(told=st.lists(_deltas, max_size=12), cut=st.integers(0, 12))
@settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_a_stream_adds_up_to_the_whole_however_it_is_cut(
    told: list[event_pb2.Event], cut: int
) -> None:
    stream = ChatStream("chatcmpl-1", 5)
    data = stream.feed(told[:cut]) + stream.feed(told[cut:]) + stream.finish()
    body = whole(told)
    assert added_up(chunks(data)) == read_whole(body)

    fold = Fold()
    fold.feed(told)
    hub = fold.answer("chatcmpl-1", 5)
    texts = {
        choice.index: "".join(part.text.text for part in choice.message.parts)
        for choice in hub.choices
    }
    assert texts == {c["index"]: c["message"]["content"] or "" for c in body["choices"]}
