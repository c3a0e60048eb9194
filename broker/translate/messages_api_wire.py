"""The request bodies of POST /v1/messages and /v1/messages/count_tokens as types.

The shapes are those of the official SDK (anthropic 2.11) plus the platform's own arguments. What
stands as `dict` here is read by `messages_api_blocks` and `messages_api_tools`. Fields that are
not listed are allowed: they go on to providers that speak the same format.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.translate import wire

Blocks = Annotated[
    str | list[dict[str, Any]], Meta(description="A text, or a list of content blocks.")
]


class Turn(Struct):
    """One message: `user`, `assistant`, or `system` for models that take it there."""

    role: str
    content: Blocks


class CountRequest(wire.Platform, kw_only=True):
    """A request to count the tokens of a message."""

    model: wire.Model
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=100_000)]
    system: Blocks | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """A message to be answered."""

    # 0 fills the prompt cache and answers nothing.
    max_tokens: Annotated[int, Meta(ge=0, le=2**53)]
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: list[Annotated[str, Meta(min_length=1)]] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
