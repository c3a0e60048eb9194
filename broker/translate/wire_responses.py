"""The request body of POST /v1/responses as types: what is checked, and what the docs show.

The shapes are OpenAI's (openai-python `types/responses/response_create_params.py`) plus the
platform's own arguments. JSON null counts as unset everywhere. Fields that are not listed here are
allowed in every object: `responses_request` carries them on to the provider.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from broker.translate.wire import Json, Model, Platform, TokenLimit


class Reasoning(Struct):
    """How much the model thinks, and what is shown of it."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class Format(Struct):
    """`text`, `json_object` or `json_schema`; name, schema and strict stand beside the type."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: Json | None = None
    strict: bool | None = None


class Text(Struct):
    """What the answer's text looks like."""

    format: Format | None = None
    verbosity: str | None = None


class StreamOptions(Struct):
    """Only with `stream`."""

    include_obfuscation: bool | None = None


class Conversation(Struct):
    """A conversation by its id."""

    id: str


class Tool(Struct):
    """`function`, `custom`, or a tool that is run for the caller (any other type)."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None
    format: Json | None = None


class ResponsesRequest(Platform):
    """A request for a response."""

    model: Model
    input: str | Annotated[list[Json], Meta(description="Items.")] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | Conversation | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    include: list[str] | None = None
    truncation: str | None = None

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_output_tokens: TokenLimit | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None

    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None

    text: Text | None = None
    reasoning: Reasoning | None = None
    prompt: Json | None = None
    context_management: list[Json] | None = None

    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    metadata: dict[str, str | None] | None = None
