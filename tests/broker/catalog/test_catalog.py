"""The vendored catalogue: well-formed, looked up by id and by common name, and changeable."""

from __future__ import annotations

from pathlib import Path

import pytest

import broker.catalog
from broker.catalog.catalog import Catalog, load
from broker.catalog.offers import NANO
from broker.providers import REGISTRY


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def test_its_providers_are_those_of_the_registry_and_its_day_is_known(catalog: Catalog) -> None:
    assert len(catalog) > 2000
    assert len(catalog.date) == len("2026-11-21")
    assert {offer.provider for offer in catalog} <= set(REGISTRY)


@pytest.mark.parametrize(
    ("provider", "model", "prices"),
    [
        ("openai", "gpt-4o", {"input_tokens": 2_500_000_000, "output_tokens": 10 * NANO}),
        ("openai", "text-embedding-3-small", {"input_tokens": 20_000_000}),
        ("cohere", "rerank-v3.5", {"search_units": 2_000 * NANO}),
    ],
)
def test_well_known_prices_are_there(
    catalog: Catalog, provider: str, model: str, prices: dict[str, int]
) -> None:
    offer = catalog.offer(provider, model)
    assert offer is not None
    assert prices.items() <= offer.rates.prices.items()
    assert offer.source


@pytest.mark.parametrize(
    ("provider", "model", "operations"),
    [
        ("openai", "gpt-4o", ("generate",)),
        ("openai", "text-embedding-3-small", ("embed",)),
        ("cohere", "rerank-v3.5", ("rerank",)),
        ("vertex_ai", "semantic-ranker-default-004", ("rerank",)),
        # Not in the catalogue, but told by the name.
        ("huggingface", "intfloat/multilingual-e5-large", ("embed",)),
        ("mistral", "mistral-moderation-latest", ("moderate",)),
        ("vllm", "mine/BGE-Reranker", ("rerank",)),
        ("openai_compatible", "whisper-large-v9", ("transcribe",)),
        ("vllm", "mine", ()),
        ("sim", "sim", ()),
    ],
)
def test_what_a_model_is_for_is_known(
    catalog: Catalog, provider: str, model: str, operations: tuple[str, ...]
) -> None:
    assert catalog.operations(provider, model) == operations


def test_tiers_and_batch_prices_are_there(catalog: Catalog) -> None:
    gemini = catalog.offer("gemini", "gemini-2.5-pro")
    assert gemini is not None
    assert [tier.above for tier in gemini.rates.tiers] == [200_000]
    gpt = catalog.offer("openai", "gpt-4o")
    assert gpt is not None
    assert gpt.variants["batch"].prices["input_tokens"] * 2 == gpt.rates.prices["input_tokens"]


def test_a_snapshot_that_is_not_listed_is_the_model_it_is_a_snapshot_of(catalog: Catalog) -> None:
    assert catalog.offer("openai", "gpt-4o-2031-01-01") == catalog.offer("openai", "gpt-4o")
    assert catalog.offer("openai", "nobody-has-heard-of-it") is None


def test_hosts_are_found_by_the_common_name_and_by_any_id(catalog: Catalog) -> None:
    by_name = catalog.hosts("anthropic/claude-sonnet-4-5")
    assert {"anthropic", "bedrock", "vertex_ai"} <= {offer.provider for offer in by_name}
    assert catalog.hosts("us.anthropic.claude-sonnet-4-5-20250929-v1:0") == by_name


def test_what_the_operator_writes_goes_first_and_the_rest_stays() -> None:
    rates = {"prices": {"input_tokens": 1}}
    changed = load([{"provider": "openai", "model": "gpt-4o", "rates": rates}])
    offer = changed.offer("openai", "gpt-4o")
    assert offer is not None
    assert offer.rates.prices == {"input_tokens": 1}
    assert offer.source == "configuration"
    assert "tools" in offer.abilities
    assert len(changed) == len(load())


def test_a_model_of_ones_own_can_be_added() -> None:
    catalog = load([{"provider": "vllm", "model": "mine", "max_input": 8192}])
    offer = catalog.offer("vllm", "mine")
    assert offer is not None
    assert (offer.name, offer.max_input) == ("other/mine", 8192)


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "openai"},
        {"provider": "openai", "model": "gpt-4o", "max_input": "many"},
        {"provider": "openai", "model": "gpt-4o", "rates": {"prices": {"input_tokens": 1.5}}},
    ],
)
def test_a_change_that_is_wrong_is_said_by_its_number(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^\[1\]: "):
        load([{"provider": "openai", "model": "gpt-4o"}, change])


def test_the_sources_are_named_and_their_differences_reported() -> None:
    folder = Path(broker.catalog.__file__).parent / "data"
    notices = (folder / "NOTICES.md").read_text()
    assert "litellm" in notices
    assert "genai-prices" in notices
    assert notices.count("MIT") >= 2
    assert (folder / "disagreements.md").read_text().count("\n| ") > 10


def test_a_name_with_a_path_that_nobody_has_is_no_model() -> None:
    catalog = load()
    assert catalog.hosts("openai/gpt-4o-mini")
    assert catalog.hosts("meta-llama/Llama-3.3-70B-Instruct-Turbo")
    assert catalog.hosts("openia/gpt-4o-mini") == []
