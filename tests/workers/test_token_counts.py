"""Counting tokens: what each provider is sent, and what others answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.operations import COUNT_TOKENS
from broker.v1 import content_pb2, generation_pb2
from workers.estimate import counted
from workers.registry import provider

Body = dict[str, Any]
ASKED = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
SYSTEM = [{"type": "text", "text": "Be brief."}]
PARTS = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
}


def ask() -> generation_pb2.Request:
    request = generation_pb2.Request()
    generate = request.count_tokens
    generate.surface = generation_pb2.SURFACE_MESSAGES
    generate.messages.add(role=content_pb2.ROLE_SYSTEM).parts.add().text.text = "Be brief."
    generate.messages.add(role=content_pb2.ROLE_USER).parts.add().text.text = "hello"
    generate.extra["top_k"] = b"5"
    return request


@pytest.mark.parametrize(
    ("name", "model", "path", "body"),
    [
        (
            "anthropic",
            "claude-opus-4-5",
            "/v1/messages/count_tokens",
            {"model": "claude-opus-4-5", "system": SYSTEM, "messages": ASKED},
        ),
        (
            "vertex_ai",
            "claude-opus-4-5-20251101",
            "/v1/publishers/anthropic/models/count-tokens:rawPredict",
            {
                "anthropic_version": "vertex-2023-10-16",
                "system": SYSTEM,
                "messages": ASKED,
                "model": "claude-opus-4-5@20251101",
            },
        ),
        (
            "vertex_ai",
            "gemini-2.5-pro",
            "/v1beta1/publishers/google/models/gemini-2.5-pro:countTokens",
            PARTS,
        ),
        (
            "gemini",
            "gemini-2.5-pro",
            "/v1beta/models/gemini-2.5-pro:countTokens",
            {"generateContentRequest": {"model": "models/gemini-2.5-pro", **PARTS}},
        ),
        (
            "bedrock",
            "global.amazon.nova-2-lite-v1:0",
            "/model/amazon.nova-2-lite-v1%3A0/count-tokens",
            {
                "input": {
                    "converse": {
                        "system": [{"text": "Be brief."}],
                        "messages": [{"role": "user", "content": [{"text": "hello"}]}],
                    }
                }
            },
        ),
    ],
)
def test_what_would_be_asked_is_counted(name: str, model: str, path: str, body: Body) -> None:
    known = provider(name)
    call = known.dialect_for(model, COUNT_TOKENS).call(ask(), model, known)
    sent = json.loads(call.body)
    if name == "gemini":
        sent["generateContentRequest"].pop("generationConfig", None)
    if name == "bedrock":
        sent["input"]["converse"].pop("additionalModelRequestFields", None)
    assert (call.path, sent) == (path, body)


@pytest.mark.parametrize(
    "body", [{"input_tokens": 7}, {"inputTokens": 7}, {"totalTokens": 7, "totalBillable": 9}]
)
def test_the_number_is_read_from_where_each_has_it(body: Body) -> None:
    dialect = provider("anthropic").operations[COUNT_TOKENS]
    decoder = dialect.decoder(ask(), {})
    events = [*decoder.feed(json.dumps(body).encode()), *decoder.close()]
    assert [event.WhichOneof("kind") for event in events] == ["started", "token_count", "completed"]
    assert events[1].token_count.input_tokens == 7


def test_an_answer_without_a_number_is_an_error() -> None:
    decoder = provider("gemini").operations[COUNT_TOKENS].decoder(ask(), {})
    decoder.feed(b"{}")
    with pytest.raises(InferenceError) as caught:
        [*decoder.close()]
    assert caught.value.reason == "upstream_error"


def test_errors_on_vertex_are_read_whoever_made_them() -> None:
    error = provider("vertex_ai").operations[COUNT_TOKENS].error
    claudes = b'{"type": "error", "error": {"type": "not_found_error", "message": "model: x"}}'
    googles = b'{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}'
    assert error(404, {}, claudes).reason == "model_not_found"
    assert error(429, {}, googles).reason == "upstream_rate_limit"


def test_who_does_not_count_gets_an_estimate() -> None:
    [_, count, _] = counted(ask())
    assert count.token_count.input_tokens == 4
    assert count.token_count.estimated
