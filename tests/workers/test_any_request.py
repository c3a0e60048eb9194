"""Whatever a caller sends, a dialect writes a body of JSON or refuses it with a typed error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import TABLE, InferenceError
from broker.providers import REGISTRY
from broker.translate.chat_request import parse_chat
from broker.translate.check import check
from tests.workers.conformance.mutations import ODD, paths, put
from workers import registry

PNG = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":"b"}'}}
RICH: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "text", "text": "d"}]},
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "u"}, {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "r"}]},
        {"role": "assistant", "content": "a", "refusal": None},
        {"role": "user", "content": "again"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
    "max_completion_tokens": 2048,
    "temperature": 0.5,
    "top_p": 0.9,
    "stop": ["x"],
    "seed": 7,
    "user": "u",
    "metadata": {"k": "v"},
    "logit_bias": {"5": 1},
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning_effort": "low",
    "service_tier": "auto",
    "stream": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
LEGACY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "r"},
    ],
    "functions": [{"name": "f", "parameters": SCHEMA}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "max_tokens": 9,
    "n": 1,
    "top_k": 5,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}
# What single providers take beyond OpenAI's fields.
EXTRAS: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "u", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": "a", "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"role": "user", "content": "u"},
    ],
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "output_config": {"effort": "low"},
    "top_k": 5,
    "safety_settings": [{"category": "c", "threshold": "t"}],
    "safetySettings": [{"category": "c", "threshold": "t"}],
    "generationConfig": {"topK": 5, "thinkingConfig": {"thinkingBudget": 5}},
    "thinkingConfig": {"thinkingBudget": 5},
    "cachedContent": "c",
    "labels": {"a": "b"},
    "inferenceConfig": {"maxTokens": 4096, "stopSequences": ["x"]},
    "additionalModelRequestFields": {"top_k": 5, "thinking": {"type": "enabled"}, "reasoningConfig": {"maxReasoningEffort": "high"}},
    "guardrailConfig": {"guardrailIdentifier": "g"},
    "requestMetadata": {"a": "b"},
    "reasoning_config": {"type": "enabled", "budget_tokens": 2048},
    "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"},
    "documents": [{"id": "1", "data": {"text": "t"}}],
    "citation_options": {"mode": "FAST"},
    "safety_mode": "OFF",
    "k": 5,
    "reasoning": {"effort": "low"},
    "provider": None,
    "max_tokens": 8192,
    "reasoning_effort": "high",
}  # fmt: skip
# Names that the tables know, where what is asked for depends on them.
MODELS: dict[str, tuple[str, ...]] = {
    "anthropic": ("claude-sonnet-4-5", "claude-opus-5-5", "claude-3-opus"),
    "bedrock": ("us.anthropic.claude-sonnet-4-5-v1:0", "global.amazon.nova-2-lite-v1:0", "openai.gpt-oss-120b-1:0"),
    "cohere": ("command-a-03-2025", "command-a-reasoning-08-2025"),
    "gemini": ("gemini-2.5-flash", "gemini-3-flash-preview"),
    "openai": ("gpt-5", "gpt-4o"),
    "vertex_ai": ("gemini-3-flash-preview", "claude-sonnet-4-5"),
}  # fmt: skip


def _accepted() -> list[Any]:
    """What the edge lets through of both requests with each field made odd."""
    requests = []
    for body in (RICH, LEGACY, EXTRAS):
        for path in paths(body):
            for odd in ODD if path else ():
                try:
                    request = parse_chat(json.dumps(put(body, path, odd)).encode())
                    check(request, streamed=request.generate.stream)
                except InferenceError:
                    continue
                requests.append((path, odd, request))
    return requests


ACCEPTED = _accepted()


CELLS = [(name, model) for name in REGISTRY for model in MODELS.get(name, ("m",))]


@pytest.mark.parametrize(("name", "model"), CELLS)
def test_a_request_that_was_accepted_is_written_or_refused_with_a_reason(
    name: str, model: str
) -> None:
    provider = registry.provider(name)
    dialect = provider.dialect_for(model)
    written = 0
    for path, odd, request in ACCEPTED:
        error = None
        try:
            body = json.loads(dialect.call(request, model, provider).body)
        except InferenceError as exc:
            error = exc
        except Exception as exc:
            raise AssertionError(f"{path} = {odd!r}: {exc!r}") from exc
        else:
            assert isinstance(body, dict)
            written += 1
        assert error is None or (error.reason in TABLE and error.message)
    assert written > len(ACCEPTED) / 3
