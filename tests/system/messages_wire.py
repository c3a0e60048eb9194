"""Upstreams with the wire formats that Messages are answered from: Claude's, OpenAI's."""

from __future__ import annotations

import json
from typing import Any

from tests.system.provider import Received, Said

# Everything that Claude may say, as it says it.
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBsig=="},
    {"type": "redacted_thinking", "data": "EmwKAhgB"},
    {"type": "text", "text": "I will search."},
    {
        "type": "server_tool_use",
        "id": "srvtoolu_1",
        "name": "web_search",
        "input": {"query": "weather"},
    },
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [
            {
                "type": "web_search_result",
                "url": "https://w.example",
                "title": "Weather",
                "encrypted_content": "Eo8D",
                "page_age": None,
            }
        ],
    },
    {"type": "text", "text": "It is said that "},
    {
        "type": "text",
        "text": "it rains",
        "citations": [
            {
                "type": "web_search_result_location",
                "url": "https://w.example",
                "title": "Weather",
                "encrypted_index": "Eo8B",
                "cited_text": "Rain all day",
            }
        ],
    },
    {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "get_weather",
        "input": {"city": "Paris", "days": [1, 2]},
        "caller": {"type": "direct"},
    },
]
USAGE: dict[str, Any] = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 7,
    "cache_read_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 2},
    "output_tokens": 30,
    "server_tool_use": {"web_search_requests": 1},
    "service_tier": "standard",
    "inference_geo": "us",
}

MARK = {"type": "ephemeral", "ttl": "1h"}
HISTORY: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look", "cache_control": MARK},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"},
            },
            {"type": "image", "source": {"type": "url", "url": "https://i.example/a.png"}},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "facts"},
                "title": "Facts",
                "context": "old",
                "citations": {"enabled": True},
            },
            {
                "type": "search_result",
                "source": "https://s.example",
                "title": "S",
                "content": [{"type": "text", "text": "found"}],
                "citations": {"enabled": True},
            },
        ],
    },
    {"role": "assistant", "content": CONTENT},
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_1",
                "content": [
                    {"type": "text", "text": "rain"},
                    {"type": "text", "text": "and wind", "cache_control": MARK},
                ],
                "is_error": True,
                "cache_control": MARK,
            },
            {"type": "text", "text": "And?"},
        ],
    },
]


def claude(content: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_up",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-5-20251101",
        "content": content,
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": USAGE,
        **more,
    }


def events(*steps: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (step["type"].encode(), json.dumps(step).encode())
        for step in steps
    )


def claude_stream(content: list[dict[str, Any]], **delta: Any) -> bytes:
    """The same as events, cut as the API cuts it."""
    start = {**claude([]), "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    steps: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(content):
        begin, deltas = _in_pieces(block)
        steps.append({"type": "content_block_start", "index": index, "content_block": begin})
        if not index:
            steps.append({"type": "ping"})
        steps += ({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)
        steps.append({"type": "content_block_stop", "index": index})
    last = {"stop_reason": "tool_use", "stop_sequence": None, **delta}
    steps.append({"type": "message_delta", "delta": last, "usage": USAGE})
    return events(*steps, {"type": "message_stop"})


def _in_pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    kind = block["type"]
    if kind == "thinking":
        signed = {"type": "signature_delta", "signature": block["signature"]}
        pieces = [{"type": "thinking_delta", "thinking": p} for p in ("Let me", " see.")]
        return {**block, "thinking": "", "signature": ""}, [*pieces, signed]
    if kind == "text":
        begin = {"type": "text", "text": ""}
        deltas: list[dict[str, Any]] = []
        for cited in block.get("citations", ()):
            begin["citations"] = []  # type: ignore[assignment]
            deltas.append({"type": "citations_delta", "citation": cited})
        half = len(block["text"]) // 2
        texts = (block["text"][:half], block["text"][half:])
        return begin, [*deltas, *({"type": "text_delta", "text": text} for text in texts)]
    if "input" in block:
        given = json.dumps(block["input"])
        parts = ("", given[:9], given[9:])
        return {**block, "input": {}}, [
            {"type": "input_json_delta", "partial_json": part} for part in parts
        ]
    return block, []


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-1"}
    return b"data: %b\n\n" % json.dumps({**whole, "choices": [choice], **more}).encode()


SSE = {"content-type": "text/event-stream"}
OPENAI_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 5},
}


def openai_answer(call: Received) -> Said:
    """Text and two calls, whose pieces come mixed when it is streamed."""
    calls = [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'},
        }
        for index, city in enumerate(("Paris", "Rome"))
    ]
    if not call.json.get("tools"):
        calls = []
    finish = "tool_calls" if calls else "stop"
    if not call.json.get("stream"):
        message = {"role": "assistant", "content": "Look: ", "refusal": None}
        if calls:
            message["tool_calls"] = calls  # type: ignore[assignment]
        choice = {"index": 0, "message": message, "finish_reason": finish}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-1"}
        return Said(body={**body, "choices": [choice], "usage": OPENAI_USAGE})
    chunks = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Look: "})]
    for index, made in enumerate(calls):
        begin = {**made, "index": index, "function": {"name": "get_weather", "arguments": ""}}
        chunks.append(chunk({"tool_calls": [begin]}))
    for start, end in ((0, 6), (6, None)):
        for index, made in enumerate(calls):
            piece = made["function"]["arguments"][start:end]  # type: ignore[index]
            more = {"index": index, "function": {"arguments": piece}}
            chunks.append(chunk({"tool_calls": [more]}))
    chunks.append(chunk({}, finish))
    usage = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-1"}
    last = json.dumps({**usage, "choices": [], "usage": OPENAI_USAGE}).encode()
    return Said(body=b"".join(chunks) + b"data: %b\n\ndata: [DONE]\n\n" % last, headers=SSE)


def answer(call: Received) -> Said:
    if call.provider == "openai":
        return openai_answer(call)
    if "count" in call.path:
        field = {"anthropic": "input_tokens", "gemini": "totalTokens", "bedrock": "inputTokens"}
        return Said(body={field[call.provider]: 42})
    if call.json.get("stream"):
        return Said(body=claude_stream(CONTENT), headers=SSE)
    return Said(body=claude(CONTENT), headers={"request-id": "req_up"})
