"""Events add up to one whole answer, the same over gRPC as over HTTP."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from broker.answer import Fold
from broker.errors import InferenceError
from broker.parts import join_json_arrays
from broker.v1 import event_pb2, inference_service_pb2


def events(text: str) -> list[event_pb2.Event]:
    """Events in protobuf text format, one a line."""
    return [
        text_format.Parse(line, event_pb2.Event())
        for line in text.strip().splitlines()
        if line.strip()
    ]


def folded(text: str) -> inference_service_pb2.Answer:
    fold = Fold()
    for event in events(text):
        fold.feed([event])
    return fold.answer("chatcmpl-1", 1700000000)


def expected(text: str) -> inference_service_pb2.Answer:
    head = 'id: "chatcmpl-1" created: 1700000000 '
    return text_format.Parse(head + text, inference_service_pb2.Answer())


ROWS: dict[str, tuple[str, str]] = {
    "text": (
        """
        started { model: "m-1" provider: "openai" upstream_id: "u" system_fingerprint: "fp" service_tier: "default" dropped_params: "seed" }
        text { text: "Hel" }
        text { text: "lo" }
        choice_finished { reason: FINISH_REASON_STOP upstream_reason: "stop" }
        completed { usage { input_tokens: 3 output_tokens: 2 } }
        """,
        """model: "m-1" provider: "openai" upstream_id: "u" system_fingerprint: "fp"
        service_tier: "default" dropped_params: "seed" usage { input_tokens: 3 output_tokens: 2 }
        choices { finish_reason: FINISH_REASON_STOP upstream_reason: "stop" message {
          role: ROLE_ASSISTANT parts { text { text: "Hello" } } } }""",
    ),
    "choices out of order": (
        """
        text { choice: 1 text: "b" }
        text { choice: 0 text: "a" }
        choice_finished { choice: 1 reason: FINISH_REASON_LENGTH }
        choice_finished { choice: 0 reason: FINISH_REASON_STOP }
        completed { }
        """,
        """choices { finish_reason: FINISH_REASON_STOP message { role: ROLE_ASSISTANT parts { text { text: "a" } } } }
        choices { index: 1 finish_reason: FINISH_REASON_LENGTH message { role: ROLE_ASSISTANT parts { text { text: "b" } } } }""",
    ),
    "parallel tool calls, interleaved": (
        """
        tool_call { index: 0 call_id: "c0" name: "f" kind: TOOL_KIND_FUNCTION }
        tool_call { index: 1 call_id: "c1" name: "g" kind: TOOL_KIND_CUSTOM arguments: "fr" }
        tool_call { index: 0 arguments: "{}" }
        tool_call { index: 1 arguments: "ee" }
        """,
        """choices { message { role: ROLE_ASSISTANT
          parts { tool_call { call_id: "c0" name: "f" arguments: "{}" kind: TOOL_KIND_FUNCTION } }
          parts { tool_call { call_id: "c1" name: "g" arguments: "free" kind: TOOL_KIND_CUSTOM } } } }""",
    ),
    "items in order, whatever came first": (
        """
        text { item: 2 text: "last" }
        reasoning { item: 0 text: "first" }
        tool_call { item: 1 call_id: "c" name: "f" arguments: "{}" }
        """,
        """choices { message { role: ROLE_ASSISTANT parts { reasoning { text: "first" } }
          parts { tool_call { call_id: "c" name: "f" arguments: "{}" kind: TOOL_KIND_FUNCTION } }
          parts { text { text: "last" } } } }""",
    ),
    "reasoning with summary and blobs": (
        """
        reasoning { text: "a" }
        reasoning { summary: true part: 1 text: "two" }
        reasoning { summary: true text: "on" }
        reasoning { summary: true text: "e" }
        blob { blob { issuer: "x" kind: "signature" data: "s" } }
        """,
        """choices { message { role: ROLE_ASSISTANT parts { reasoning { text: "a" summary: "one"
          summary: "two" blobs { issuer: "x" kind: "signature" data: "s" } } } } }""",
    ),
    "refusal": (
        """
        refusal { text: "I can" }
        refusal { text: "not." }
        """,
        """choices { message { role: ROLE_ASSISTANT parts { refusal { text: "I cannot." } } } }""",
    ),
    "annotations and log probabilities": (
        """
        text { text: "a" logprobs: "[{\\"token\\":\\"a\\"}]" }
        text { text: "b" logprobs: " [ {\\"token\\":\\"b\\"} ] " }
        annotation { json: "{\\"x\\":1}" }
        annotation { json: "{\\"x\\":2}" }
        """,
        """choices { message { role: ROLE_ASSISTANT parts { text { text: "ab"
          logprobs: "[{\\"token\\":\\"a\\"},{\\"token\\":\\"b\\"}]"
          annotations: "[{\\"x\\":1},{\\"x\\":2}]" } } } }""",
    ),
    "audio": (
        """
        audio { id: "audio_1" transcript: "Hi" }
        audio { data: "\\x00\\x01" }
        audio { data: "\\x02" transcript: "!" expires_at: 9 }
        """,
        """choices { message { role: ROLE_ASSISTANT parts { item_id: "audio_1"
          audio { inline { data: "\\x00\\x01\\x02" } transcript: "Hi!" } } } }""",
    ),
    "an image, not its drafts": (
        """
        image { partial: true partial_index: 1 image { data: "draft" } }
        image { image { media_type: "image/webp" data: "done" } }
        """,
        """choices { message { role: ROLE_ASSISTANT
          parts { image { inline { media_type: "image/webp" data: "done" } } } } }""",
    ),
    "a hosted tool's item in its last state": (
        """
        opaque { opaque { type: "web_search_call" json: "1" } }
        opaque { opaque { type: "web_search_call" json: "2" } }
        """,
        """choices { message { role: ROLE_ASSISTANT
          parts { opaque { type: "web_search_call" json: "2" } } } }""",
    ),
    "an empty text is an empty text": (
        """
        text { text: "" }
        """,
        "choices { message { role: ROLE_ASSISTANT parts { text { } } } }",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_events_add_up_to_the_answer(name: str) -> None:
    told, whole = ROWS[name]
    assert folded(told) == expected(whole)


def test_a_failure_is_raised_with_all_that_is_known() -> None:
    with pytest.raises(InferenceError) as raised:
        folded('failed { reason: "stalled" message: "m" provider: "p" attempt: 2 }')
    error = raised.value
    assert (error.reason, error.message, error.provider, error.attempt) == ("stalled", "m", "p", 2)


ARRAYS = [
    ([b"[1]"], b"[1]"),
    ([b"[1]", b"[2,3]"], b"[1,2,3]"),
    ([b"[]", b" [1] ", b"[ ]"], b"[1]"),
    ([b"[]", b"[]"], b"[]"),
]


@pytest.mark.parametrize(("arrays", "joined"), ARRAYS)
def test_json_arrays_are_joined(arrays: list[bytes], joined: bytes) -> None:
    assert join_json_arrays(arrays) == joined
