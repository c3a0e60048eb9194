"""Rebuilding the vendored data, from two wheels with a few made-up offers."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.catalog import build
from broker.catalog.offers import Data, Offer, Prices, Rates, Tier, decode

LITELLM: dict[str, dict[str, Any]] = {
    "sample_spec": {"litellm_provider": "one of many", "mode": "chat"},
    "m1": {
        "litellm_provider": "openai",
        "mode": "chat",
        "max_input_tokens": 100_000,
        "max_output_tokens": 8_000.0,
        "input_cost_per_token": 2.5e-06,
        "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 1.25e-07,
        "input_cost_per_token_above_200k_tokens": 5e-06,
        "input_cost_per_token_batches": 1.25e-06,
        "output_cost_per_token_above_200k_tokens_priority": 4e-05,
        "output_cost_per_reasoning_token": "unknown",
        "supports_vision": True,
        "supports_web_search": False,
    },
    "groq/maker/same": {
        "litellm_provider": "groq",
        "mode": "chat",
        "max_input_tokens": 131_072,
        "input_cost_per_token": 1.005e-07,
    },
    "openai/drawn": {
        "litellm_provider": "openai",
        "mode": "image_generation",
        "output_cost_per_image": 0.04,
    },
    "azure/eu/m1": {"litellm_provider": "azure", "mode": "chat"},
    "far/m1": {"litellm_provider": "nobody we know", "mode": "chat"},
    "openai/film": {"litellm_provider": "openai", "mode": "video_generation"},
}
# Its data is Python. What runs on its import is not needed, and not run.
GENAI = """
from decimal import Decimal
from .types import Model, Prices, Provider, Tier, Tiered, When

providers = [
    Provider("openai", [
        Model("m1", 400_000, Prices(
            input_mtok=Tiered(Decimal("3"), [Tier(200_000, Decimal("6"))]),
            output_mtok=Tiered(Decimal("10"), [Tier(200_000, Decimal("15"))]),
        )),
        Model("m2", None, [
            When(Prices(input_mtok=Decimal("9"))), When(Prices(input_mtok=Decimal("0.075"))),
        ]),
    ]),
    Provider("groq", [Model("maker/same", 131_072, Prices(input_mtok=Decimal("0.1")))]),
    Provider("openrouter", [Model("a-name-of-their-own", 1, Prices())]),
    Provider("nobody we know", [Model("m1", 1, Prices())]),
]
"""
TYPES = """
from collections import namedtuple
Provider = namedtuple("Provider", "id models")
Model = namedtuple("Model", "id context_window prices")
Prices = namedtuple("Prices", "input_mtok output_mtok", defaults=(None, None))
Tier = namedtuple("Tier", "start price")
Tiered = namedtuple("Tiered", "base tiers")
When = namedtuple("When", "prices")
"""


@dataclass
class Built:
    data: Data
    report: list[str]
    notices: str

    def offer(self, name: str) -> Offer:
        [found] = [offer for offer in self.data.offers if f"{offer.provider}/{offer.model}" == name]
        return found


def wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        for place, text in files.items():
            made.writestr(place, text)
        made.writestr(f"{name}.dist-info/licenses/LICENSE", f"The licence of {name}.\n")
    return str(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("catalog")
    prices = {"litellm/model_prices_and_context_window_backup.json": json.dumps(LITELLM)}
    litellm = wheel(folder, "litellm-1.2.3", prices)
    package = {"__init__": "raise AssertionError", "data": GENAI, "types": TYPES}
    modules = {f"genai_prices/{name}.py": text for name, text in package.items()}
    genai = wheel(folder, "genai_prices-4.5.6", modules)
    data = folder / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "DATA", data)
        build.main([litellm, genai, "2026-01-02"])
    for name in ("genai_prices", "genai_prices.data", "genai_prices.types"):
        del sys.modules[name]
    report = (data / "disagreements.md").read_text().partition("|---|---|---|---|\n")[2]
    return Built(
        decode((data / "offers.json").read_bytes()),
        report.splitlines(),
        (data / "NOTICES.md").read_text(),
    )


def test_prices_are_merged_in_nano_dollars_of_a_million(built: Built) -> None:
    assert built.data.date == "2026-01-02"
    assert built.offer("openai/m1").rates == Rates(
        {
            "input_tokens": 2_500_000_000,
            "output_tokens": 10_000_000_000,
            "cache_read_tokens": 125_000_000,
        },
        (Tier(200_000, {"input_tokens": 5_000_000_000}),),
    )
    assert built.offer("openai/m1").variants == {
        "batch": Rates({"input_tokens": 1_250_000_000}),
        "priority": Rates({}, (Tier(200_000, {"output_tokens": 40_000_000_000}),)),
    }
    prices: dict[str, Prices] = {
        "groq/maker/same": {"input_tokens": 100_500_000},
        "openai/drawn": {"images": 40_000_000},
        # What the leading source lacks is the other one's, and of prices by date the newest.
        "openai/m2": {"input_tokens": 75_000_000},
    }
    assert {name: built.offer(name).rates.prices for name in prices} == prices


def test_offers_are_those_of_known_providers_under_the_providers_own_ids(built: Built) -> None:
    names = [f"{offer.provider}/{offer.model}" for offer in built.data.offers]
    assert names == ["groq/maker/same", "openai/drawn", "openai/m1", "openai/m2"]
    offer = built.offer("openai/m1")
    assert (offer.max_input, offer.max_output) == (100_000, 8_000)
    assert (offer.abilities, offer.operations) == (frozenset({"images"}), ("generate",))
    assert built.offer("openai/drawn").operations == ("image",)
    assert (offer.source, built.offer("openai/m2").source) == (
        "litellm 1.2.3",
        "genai-prices 4.5.6",
    )


def test_the_report_tells_prices_tiers_and_windows_that_differ_by_more_than_1_percent(
    built: Built,
) -> None:
    assert built.report == [
        "| openai/m1 | input_tokens | 2.5 | 3 |",
        "| openai/m1 | input_tokens above 200000 | 5 | 6 |",
        "| openai/m1 | max_input | 100000 | 400000 |",
        # Only one of them has a price of its own for long inputs.
        "| openai/m1 | output_tokens above 200000 | 10 | 15 |",
    ]


def test_the_notices_hold_the_licences_of_both(built: Built) -> None:
    for name, file in (("litellm 1.2.3", "litellm-1.2.3"), ("genai-prices 4.5.6", "genai_prices-")):
        assert f"## {name}\n\n```\nThe licence of {file}" in built.notices
