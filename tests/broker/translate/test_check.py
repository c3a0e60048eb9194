"""Typed requests are held to the rules of chat bodies: same limits, paths and codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.chat_request import parse_chat
from broker.translate.check import check
from broker.v1 import content_pb2, generation_pb2
from tests.broker.translate.mistakes import HELLO, MISTAKES, TYPED_ONLY, Mistake, chat, typed


def refusal(request: generation_pb2.Request, *, streamed: bool = False) -> InferenceError:
    with pytest.raises(InferenceError) as raised:
        check(request, streamed=streamed)
    assert raised.value.reason == "invalid_request"
    return raised.value


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_told_alike_on_both_fronts(mistake: Mistake) -> None:
    with pytest.raises(InferenceError) as http:
        parse_chat(json.dumps(chat("sim/x", mistake.fields)).encode())
    rpc = refusal(typed("sim/x", mistake.mutate))
    for error in (http.value, rpc):
        assert (error.reason, error.param, error.code) == (
            "invalid_request",
            mistake.param,
            mistake.code,
        )


@pytest.mark.parametrize(("mutate", "param"), [pytest.param(m, p, id=n) for n, m, p in TYPED_ONLY])
def test_what_only_typed_messages_can_get_wrong_is_refused_too(mutate: Any, param: str) -> None:
    error = refusal(typed("sim/x", mutate))
    assert error.param == param
    assert error.message


def test_stream_options_need_a_stream_whoever_asks_for_it() -> None:
    options = generation_pb2.StreamOptions(include_usage=True)

    def with_options(request: generation_pb2.Request) -> None:
        request.generate.stream_options.CopyFrom(options)

    check(typed("sim/x", with_options), streamed=True)
    assert refusal(typed("sim/x", with_options)).param == "stream_options"
    asked = typed("sim/x", with_options)
    asked.generate.stream = True
    check(asked, streamed=False)


@pytest.mark.parametrize("kind", ["image", "file"])
def test_a_data_url_becomes_inline_media(kind: str) -> None:
    request = typed("sim/x", lambda _: None)
    owner = getattr(request.generate.messages[0].parts.add(), kind)
    owner.url = "data:image/png;base64,iVBORw=="
    check(request, streamed=False)
    assert (owner.inline.media_type, owner.inline.data) == ("image/png", b"\x89PNG")


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    """The parts of `Answer.choices[].message`, as the next turn's history."""
    answer = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT)
    reasoning = answer.parts.add().reasoning
    reasoning.text = "hm"
    reasoning.blobs.add(issuer="anthropic_messages", kind="signature", data=b"sig")
    answer.parts.add().text.MergeFrom(
        content_pb2.Text(text="Hi", annotations=b"[{}]", logprobs=b"[]")
    )
    answer.parts.add().tool_call.MergeFrom(
        content_pb2.ToolCall(
            call_id="c", name="f", arguments=b"{broken", kind=content_pb2.TOOL_KIND_FUNCTION
        )
    )
    answer.parts.add().refusal.text = "no"
    spoken = answer.parts.add(item_id="audio_1")
    spoken.audio.inline.data = b"sound"
    spoken.audio.transcript = "Hi"
    request = typed("sim/x", lambda r: r.generate.messages.append(answer))
    check(request, streamed=False)
    assert request.generate.messages[1].parts[4].audio.id == "audio_1"


# Bodies that use every field; what the HTTP front takes of them, the other one has to take.
BODIES: list[dict[str, Any]] = [
    {},
    {"temperature": 2, "top_p": 0, "n": 128, "seed": -(2**63), "max_tokens": 1},
    {"logit_bias": {"1": -100, "2": 100}, "logprobs": True, "top_logprobs": 20},
    {"stop": "x", "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    {"audio": {"voice": {"id": "v"}, "format": "wav"}, "prediction": {"type": "content"}},
    {"stream": True, "stream_options": {"include_usage": True, "x": 1}, "store": False},
    {"metadata": {"a": "b"}, "service_tier": "auto", "user": "u", "verbosity": "low"},
    {"response_format": {"type": "json_object", "schema": {}}, "reasoning_effort": "low"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
    {"response_format": {"type": "grammar", "grammar": "root"}, "web_search_options": {}},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "x": 1}, "y": 2}]},
    {"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}]},
    {"tools": [{"type": "web_search", "filters": {}}], "tool_choice": {"type": "web_search"}},
    {"functions": [{"name": "f", "parameters": {}}], "function_call": {"name": "f"}},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "mcp", "server_label": "s"}]},
        }
    },
    {"top_k": 5, "thinking": {"type": "enabled"}, "extra_body": {"min_p": 0.1}},
    {"tags": "a,b", "provider": {"order": ["x"]}, "models": ["m"], "extra_headers": {"X-A": "b"}},
    {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {}}]},
            {"role": "developer", "content": "", "name": "d"},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": "https://x/y.png"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    {"type": "file", "file": {"file_data": "https://x/y.pdf", "filename": "f"}},
                    {"type": "file", "file": {"file_id": "file-1"}},
                    {"type": "video_url", "video_url": {"url": "https://x"}},
                ],
                "tool_calls": [],
            },
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "t", "signature": "s"}],
                "tool_calls": [
                    {"id": "c", "function": {"name": "f", "arguments": "{"}},
                    {"id": "d", "type": "custom", "custom": {"name": "g", "input": "x"}},
                ],
                "annotations": [{}],
            },
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
            {"role": "tool", "tool_call_id": "d", "content": None, "name": "g"},
            {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
            {"role": "function", "name": "f", "content": "r"},
            {"role": "assistant", "content": None, "refusal": "no", "audio": {"id": "a"}},
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
            {"role": "assistant"},
            {"role": "user", "content": "x"},
        ]
    },
]  # fmt: skip


@pytest.mark.parametrize("fields", BODIES)
def test_what_http_takes_is_taken_and_left_as_it_is(fields: dict[str, Any]) -> None:
    request = parse_chat(json.dumps({"model": "sim/x", "messages": HELLO, **fields}).encode())
    before = request.SerializeToString(deterministic=True)
    check(request, streamed=False)
    assert request.SerializeToString(deterministic=True) == before
