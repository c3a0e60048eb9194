"""Whatever a caller sends is taken, or refused as the caller's error; nothing else is raised."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import InferenceError
from broker.translate.chat_request import parse_chat

# Shared machines make timings useless, and a build should fail for its own changes only.
FUZZ = settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_names = st.sampled_from(
    [
        *("model", "stop", "tools", "functions", "tool_choice", "function_call", "stream", "n"),
        *("stream_options", "temperature", "logit_bias", "metadata", "response_format", "audio"),
        *("modalities", "user", "provider", "models", "tags", "extra_headers", "extra_body"),
        *("prediction", "seed", "web_search_options", "reasoning_effort", "region", "x.y", ""),
    ]
)
_message_fields = st.sampled_from(
    [
        *("content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio"),
        *("annotations", "reasoning", "reasoning_content", "reasoning_details", "other"),
        *("thinking_blocks", "cache_control"),
    ]
)
_roles = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])
_blocks = st.dictionaries(
    st.sampled_from(
        [
            *("type", "text", "image_url", "input_audio", "file", "refusal", "cache_control"),
            *("thinking", "signature", "data", "blobs", "issuer", "kind", "after_text"),
            *("after_tool_calls", "summary", "url", "id", "function", "custom"),
        ]
    ),
    _json_values
    | st.sampled_from(["text", "thinking", "reasoning", "opaque", "image_url", "file", "AAAA"]),
    max_size=5,
)
_messages = st.lists(
    st.builds(
        lambda role, fields: {"role": role, "content": "x", **fields},
        _roles,
        st.dictionaries(_message_fields, _json_values | st.lists(_blocks, max_size=2), max_size=4),
    ),
    max_size=3,
)


def refusal(data: bytes) -> InferenceError | None:
    """Why a body is refused; None when it is taken."""
    try:
        parse_chat(data).SerializeToString()
    except InferenceError as error:
        return error
    return None


@FUZZ
@given(fields=st.dictionaries(_names, _json_values, max_size=4), messages=_messages)
def test_any_json_is_taken_or_refused_by_the_name_of_a_field(
    fields: dict[str, Any], messages: list[Any]
) -> None:
    body = {"model": "m", "messages": messages, **fields}
    error = refusal(json.dumps(body).encode())
    if error is not None:
        assert error.reason == "invalid_request"
        assert error.param
        nested = body.get("extra_body")
        sent = body | nested if isinstance(nested, dict) else body
        owner = error.param.split(".")[0].split("[")[0]
        assert any(name.startswith(owner) for name in sent)


@FUZZ
@given(data=st.binary(max_size=64), at=st.integers(0, 250))
def test_any_bytes_are_taken_or_refused(data: bytes, at: int) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    body = {"model": "m", "messages": [message], "tools": [tool], "stream": True, "top_k": 1}
    whole = json.dumps(body).encode()
    for damaged in (data, whole[:at] + data + whole[at + len(data) :]):
        error = refusal(damaged)
        assert error is None or error.reason == "invalid_request"
