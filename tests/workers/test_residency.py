"""Where providers process requests, by the address that is called: every row has its source."""

from __future__ import annotations

import re
from datetime import date

import pytest

from broker.providers import REGISTRY
from broker.routing.countries import CODES
from tests.workers.test_registry import Settings
from workers import registry

ALL = [(kind, claim) for kind in REGISTRY for _, claim in registry.provider(kind).residency]


def test_every_claim_has_its_source_and_the_day_it_was_read() -> None:
    assert len(ALL) >= 8
    for kind, claim in ALL:
        assert claim.regions, kind
        assert claim.regions <= CODES, kind
        assert re.fullmatch(r"https://[a-z0-9.-]+/\S+", claim.source), kind
        assert date.fromisoformat(claim.date) >= date(2026, 11, 21), kind


@pytest.mark.parametrize(
    ("kind", "base_url", "options", "regions"),
    [
        ("mistral", None, {}, set()),
        ("mistral", "https://api.eu.mistral.ai/v1", {}, {"EU"}),
        ("mistral", "https://api.us.mistral.ai:443/v1", {}, {"US"}),
        ("mistral", "https://api.eu.mistral.ai.example/v1", {}, set()),
        ("mistral", "https://api.eu.mistral.ai@evil.example/v1", {}, set()),
        ("mistral", "https://apixeu.mistral.ai/v1", {}, set()),
        ("mistral", "http://api.eu.mistral.ai/v1", {}, set()),
        ("openai", None, {}, set()),
        ("openai", "https://us.api.openai.com/v1", {}, {"US"}),
        ("xai", "https://us.api.x.ai/v1", {}, {"US"}),
        ("vertex_ai", None, {"location": "eu"}, {"EU"}),
        ("vertex_ai", None, {"location": "us"}, {"US"}),
        ("vertex_ai", None, {"location": "global"}, set()),
        ("vertex_ai", None, {"location": "europe-west2"}, set()),
        ("bedrock", None, {"region": "ap-southeast-2"}, {"EU", "US"}),
        ("bedrock", "https://my-gateway.example", {}, set()),
        ("anthropic", None, {}, set()),
        ("groq", None, {}, set()),
    ],
)
def test_what_holds_depends_on_the_address(
    kind: str, base_url: str | None, options: dict[str, str], regions: set[str]
) -> None:
    loaded = registry.load(Settings(kind, base_url=base_url, options=options))
    assert {region for claim in loaded.claims for region in claim.regions} == regions


def test_bedrock_claims_it_for_models_of_one_part_of_the_world_alone() -> None:
    claims = registry.load(Settings("bedrock")).claims
    assert {(claim.models, *claim.regions) for claim in claims} == {("eu.", "EU"), ("us.", "US")}
