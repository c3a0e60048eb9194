"""The answers of chat completions as types: what is rendered, and what the docs show.

Shapes and key order are those that api.openai.com sends. A field that is UNSET is left out; one
that is None is shown as null, because clients expect the key.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType


class PromptTokensDetails(Struct):
    """Parts of `prompt_tokens`. `cache_write_tokens` is there where the provider bills writes."""

    cached_tokens: int = 0
    audio_tokens: int = 0
    cache_write_tokens: int | UnsetType = UNSET


class CompletionTokensDetails(Struct):
    """Parts of `completion_tokens`."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Struct):
    """What the answer used. `estimated` is there, and true, where the provider did not count.

    `cost` is in dollars, at the end of a stream whose model's prices are known.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    estimated: bool | UnsetType = UNSET
    cost: float | UnsetType = UNSET


class Function(Struct):
    """A function call; `arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str


class Custom(Struct):
    """A call of a custom tool."""

    name: str
    input: str


class FunctionToolCall(Struct, tag_field="type", tag="function"):
    """A call of a function."""

    id: str
    function: Function


class CustomToolCall(Struct, tag_field="type", tag="custom"):
    """A call of a custom tool."""

    id: str
    custom: Custom


class AnswerAudio(Struct):
    """A spoken answer: base64, and what it says."""

    id: str
    data: str
    expires_at: int
    transcript: str


class AnswerImageUrl(Struct):
    url: str


class AnswerImage(Struct, tag_field="type", tag="image_url"):
    """An image that the model made, as a `data:` URL."""

    image_url: AnswerImageUrl


class AssistantMessage(Struct):
    """What the model said. `reasoning_details` is to be sent back with the message."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: str | None = None
    annotations: list[Raw] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning_details: list[dict[str, Any]] | UnsetType = UNSET
    tool_calls: list[FunctionToolCall | CustomToolCall] | UnsetType = UNSET
    function_call: Function | UnsetType = UNSET
    audio: AnswerAudio | UnsetType = UNSET
    images: list[AnswerImage] | UnsetType = UNSET


class Logprobs(Struct):
    """Log probabilities of the tokens, as the provider sent them."""

    content: Raw | None = None
    refusal: Raw | None = None


class Choice(Struct):
    """One answer; `n` of them were asked for."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: str | None


class ChatCompletion(Struct, kw_only=True):
    """The answer of a chat completion that was not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    system_fingerprint: str | None = None


class FunctionDelta(Struct):
    """A piece of a call's arguments; the name comes with the first one."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CustomDelta(Struct):
    """A piece of a custom call's input; the name comes with the first one."""

    name: str | UnsetType = UNSET
    input: str | UnsetType = UNSET


class ToolCallDelta(Struct):
    """A piece of a tool call; id, type and name come with the first one of each index."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET
    custom: CustomDelta | UnsetType = UNSET


class AudioDelta(Struct):
    """A piece of a spoken answer."""

    id: str | UnsetType = UNSET
    data: str | UnsetType = UNSET
    transcript: str | UnsetType = UNSET
    expires_at: int | UnsetType = UNSET


class Delta(Struct):
    """What a chunk adds to its choice. The fields are those of the whole message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    annotations: list[dict[str, Any]] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning_details: list[dict[str, Any]] | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET
    audio: AudioDelta | UnsetType = UNSET
    images: list[AnswerImage] | UnsetType = UNSET


class ChunkChoice(Struct):
    """One choice's part of a chunk; `finish_reason` is null until its last chunk."""

    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: str | None


class ChatCompletionChunk(Struct, kw_only=True):
    """One event of a streamed answer; `usage` is there when it was asked for.

    Chunks are written piece by piece, without it: tests hold them against this.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    service_tier: str | UnsetType = UNSET
    system_fingerprint: str | None
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class Error(Struct):
    """What is wrong; all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """The body of every answer that is not 2xx, and of an error event in a stream."""

    error: Error
