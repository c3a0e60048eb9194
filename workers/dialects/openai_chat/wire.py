"""The wire types of an answer: only what is read, and lenient where servers differ.

Message and delta are one type, because servers put the same fields in both.
"""

from __future__ import annotations

from typing import Any

import msgspec

# No cycles are possible between these, so the garbage collector need not track them.


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    # JSON text by the format; some servers send the object itself, or null.
    arguments: Any = None


class Custom(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | int | None = None
    function: Function | None = None
    custom: Custom | None = None


class Audio(msgspec.Struct, gc=False):
    id: str | None = None
    data: str | None = None
    transcript: str | None = None
    expires_at: int | float | None = None


class Message(msgspec.Struct, gc=False):
    # A list of parts on servers that put thinking there.
    content: str | list[Any] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_text: Any = None
    thinking: Any = None
    reasoning_details: Any = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    audio: Audio | None = None
    annotations: Any = None


class Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: Message | None = None
    message: Message | None = None
    finish_reason: str | msgspec.UnsetType | None = msgspec.UNSET
    # Kept as text: it is handed on as it came.
    logprobs: msgspec.Raw = msgspec.Raw()


class Logprobs(msgspec.Struct, gc=False):
    content: msgspec.Raw = msgspec.Raw()
    refusal: msgspec.Raw = msgspec.Raw()
    # One list beside another, in an older form.
    tokens: Any = None


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream, or a whole answer."""

    choices: list[Choice] | None = None
    id: str | int | None = None
    model: str | None = None
    created: Any = None
    system_fingerprint: Any = None
    service_tier: Any = None
    usage: Any = None
    error: Any = None
    # What a search found, with every chunk.
    search_results: Any = None
    citations: Any = None
    # Where some servers put usage and errors.
    x_groq: Any = None


class PlainDelta(msgspec.Struct, gc=False):
    content: str
    reasoning_content: None = None
    reasoning: None = None
    reasoning_details: None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: None = None


class PlainChoice(msgspec.Struct, gc=False):
    delta: PlainDelta
    index: int = 0
    finish_reason: None = None
    logprobs: None = None


class PlainChunk(msgspec.Struct, gc=False):
    """A `Chunk` that is a piece of one choice's text and nothing else, as nearly all are."""

    choices: tuple[PlainChoice]
    usage: None = None
    error: None = None
    search_results: None = None
    citations: None = None
    x_groq: None = None


decode_plain = msgspec.json.Decoder(PlainChunk).decode
# Lax: a number in quotes is still that number.
decode_chunk = msgspec.json.Decoder(Chunk, strict=False).decode
decode_logprobs = msgspec.json.Decoder(Logprobs).decode
