from __future__ import annotations

from typing import Any, get_args

import pytest
from anthropic.types import model as sdk

from tests.workers.anthropic_hub import ANTHROPIC, body, request
from workers.dialects.anthropic_messages.models import Sampling, Thinking, family

KNOWN_TO_THE_SDK: tuple[str, ...] = get_args(get_args(sdk.Model)[0])


def test_listed_models_are_those_of_the_official_sdk() -> None:
    assert KNOWN_TO_THE_SDK
    assert set(ANTHROPIC.models) <= set(KNOWN_TO_THE_SDK)


@pytest.mark.parametrize("name", KNOWN_TO_THE_SDK)
def test_every_model_of_the_official_sdk_has_a_row(name: str) -> None:
    row = family(name)
    assert row.max_tokens in (64_000, 128_000)
    assert row.structured


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-opus-4.5", "claude-opus-4-5"),
        ("anthropic/claude-opus-4-5", "claude-opus-4-5"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("claude-4-sonnet-20250514", "claude-sonnet-4-0"),
        ("claude-3-7-sonnet-latest", "claude-3-7-sonnet-20250219"),
        ("Claude-Sonnet-4-5", "claude-sonnet-4-5"),
        ("claude-opus-5-9", "claude-opus-5-5"),
        ("claude-mythos-preview", "claude-mythos-5"),
    ],
)
def test_a_name_means_its_model_in_every_spelling(name: str, same_as: str) -> None:
    assert family(name) is family(same_as)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("claude-2.1", {"max_tokens": 4096, "thinking": Thinking.NONE}),
        ("claude-instant-1.2", {"max_tokens": 4096, "thinking": Thinking.NONE}),
        ("claude-3-haiku-20240307", {"max_tokens": 4096, "structured": False}),
        ("claude-3-5-sonnet-20241022", {"max_tokens": 8192, "sampling": Sampling.FREE}),
        ("claude-3-7-sonnet-20250219", {"thinking": Thinking.BUDGET, "structured": False}),
        ("claude-opus-4-0", {"max_tokens": 32_000, "structured": False}),
        ("claude-opus-4-1", {"max_tokens": 32_000, "structured": True}),
        ("claude-haiku-4-5", {"sampling": Sampling.ONE, "prefill": True, "efforts": ()}),
        ("claude-sonnet-4-6", {"thinking": Thinking.ADAPTIVE, "prefill": False, "off": None}),
        ("claude-opus-4-7", {"sampling": Sampling.NONE, "inline_system": False}),
        ("claude-opus-4-8", {"inline_system": True, "off": None}),
        ("claude-sonnet-5", {"inline_system": False, "off": "disabled", "forced_tools": True}),
        ("claude-sonnet-5-5", {"off": "between_tools", "forced_tools": False}),
        ("claude-haiku-5-5", {"off": "disabled", "forced_tools": True}),
        ("claude-opus-5-5", {"off": "", "forced_tools": False}),
        ("claude-fable-5", {"off": "", "forced_tools": True}),
        ("claude-fable-5-2", {"off": "", "forced_tools": False}),
        # A later Claude is like the latest, but its limit is not known.
        ("claude-saga-6", {"max_tokens": None, "sampling": Sampling.NONE}),
        # Somebody else behind the same format.
        ("kimi-k2", {"max_tokens": None, "sampling": Sampling.FREE}),
    ],
)
def test_a_row_says_what_the_family_takes(name: str, fields: dict[str, Any]) -> None:
    row = family(name)
    assert {field: getattr(row, field) for field in fields} == fields


def test_the_name_reaches_the_provider_untouched() -> None:
    assert body(request(), "claude-x/Y:z")["model"] == "claude-x/Y:z"
