"""Anthropic itself: api.anthropic.com."""

from __future__ import annotations

from broker.operations import COUNT_TOKENS
from workers.batches.messages import MessageBatches
from workers.dialects.anthropic_messages import DIALECT
from workers.dialects.anthropic_messages.table import TABLE
from workers.dialects.token_counts import TokenCounts, of_messages
from workers.provider import Provider

PROVIDER = Provider(
    name="anthropic",
    dialect=DIALECT,
    base_url="https://api.anthropic.com",
    auth_header="x-api-key",
    auth_prefix="",
    operations={COUNT_TOKENS: TokenCounts(DIALECT.error, of_messages)},
    parameters=TABLE,
    batches=MessageBatches(),
    # Source: the model names in the official SDK that no retirement date has passed.
    models=(
        "claude-fable-5-2",
        "claude-mythos-5-2",
        "claude-opus-5-5",
        "claude-sonnet-5-5",
        "claude-haiku-5-5",
        "claude-fable-5-1",
        "claude-mythos-5-1",
        "claude-fable-5",
        "claude-mythos-5",
        "claude-opus-5",
        "claude-sonnet-5",
        "claude-opus-4-8",
        "claude-opus-4-7",
        "claude-opus-4-6",
        "claude-sonnet-4-6",
        "claude-opus-4-5",
        "claude-sonnet-4-5",
        "claude-haiku-4-5",
    ),
)
