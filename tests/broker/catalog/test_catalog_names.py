"""One name for a model, whichever provider's id it is found out from."""

from __future__ import annotations

import pytest

from broker.catalog.names import name_of


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-3-5-sonnet-20240620", "anthropic/claude-3-5-sonnet"),
        ("claude-3-5-sonnet-latest", "anthropic/claude-3-5-sonnet"),
        ("claude-3-5-sonnet@20240620", "anthropic/claude-3-5-sonnet"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "anthropic/claude-3-5-sonnet"),
        ("eu.anthropic.claude-3-5-sonnet-20240620-v1:0", "anthropic/claude-3-5-sonnet"),
        ("anthropic/claude-3.5-sonnet", "anthropic/claude-3-5-sonnet"),
        ("gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("gpt-4o-mini", "openai/gpt-4o-mini"),
        ("deepseek-ai/DeepSeek-V3", "deepseek/deepseek-v3"),
        ("accounts/fireworks/models/deepseek-v3", "deepseek/deepseek-v3"),
        ("meta.llama3-1-70b-instruct-v1:0", "meta/llama-3-1-70b"),
        ("Meta-Llama-3.1-70B-Instruct", "meta/llama-3-1-70b"),
        ("accounts/fireworks/models/llama-v3p1-70b-instruct", "meta/llama-3-1-70b"),
        ("gemini-2.5-pro", "google/gemini-2-5-pro"),
        ("o3", "openai/o3"),
        ("something-of-mine", "other/something-of-mine"),
    ],
)
def test_an_id_has_one_common_name(model: str, name: str) -> None:
    assert name_of(model) == name


def test_sizes_and_variants_stay_apart() -> None:
    ids = ("gpt-4o", "gpt-4o-mini", "gpt-4o-audio", "llama-3.1-8b", "llama-3.1-70b")
    assert len({name_of(model) for model in ids}) == len(ids)
