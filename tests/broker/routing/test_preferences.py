"""The `provider` object: what is read, and what is refused with the path of the field."""

from __future__ import annotations

import pytest

from broker.errors import InferenceError
from broker.routing.countries import EU, covers
from broker.routing.preferences import NONE, named, read


def test_no_object_is_no_preference() -> None:
    assert read(b"") is NONE


def test_sort_has_a_short_and_a_long_form() -> None:
    assert read(b'{"sort": "latency"}').by == "latency"
    across = read(b'{"sort": {"by": "price", "partition": "none"}}')
    assert (across.by, across.across) == ("price", True)
    assert not read(b'{"sort": {"by": "price"}}').across


def test_compliance_is_one_region_or_several_in_any_case() -> None:
    assert read(b'{"compliance": "eu"}').regions == ("EU",)
    assert read(b'{"compliance": ["US", "de"]}').regions == ("US", "DE")


WRONG = [
    (b'{"sort": "beauty"}', "provider.sort"),
    (b'{"sort": {"by": "beauty"}}', "provider.sort.by"),
    (b'{"order": "openai"}', "provider.order"),
    (b'{"only": [1]}', "provider.only[0]"),
    (b'{"max_price": {"prompt": -1}}', "provider.max_price.prompt"),
    (b'{"allow_fallbacks": "no"}', "provider.allow_fallbacks"),
    (b'{"data_collection": "some"}', "provider.data_collection"),
    (b'{"compliance": "Mars"}', "provider.compliance"),
    (b'{"compliance": ["EU", "XX"]}', "provider.compliance"),
    (b'{"preferred_max_latency": {"p42": 1}}', "provider.preferred_max_latency"),
]


@pytest.mark.parametrize(("source", "param"), WRONG)
def test_what_is_wrong_is_named(source: bytes, param: str) -> None:
    with pytest.raises(InferenceError) as told:
        read(source)
    assert (told.value.reason, told.value.param) == ("invalid_request", param)


def test_fields_of_a_later_day_are_passed_over() -> None:
    assert read(b'{"only": ["openai"], "telepathy": true}').only == ["openai"]


def test_providers_are_known_by_every_spelling() -> None:
    assert named(["together-ai", "Google", "azure/eastus", "my_vllm"]) == [
        "together_ai",
        "gemini",
        "azure",
        "my_vllm",
    ]


def test_the_eu_is_all_of_its_members() -> None:
    assert covers(frozenset({"EU"}), "FR")
    assert covers(EU, "EU")
    assert not covers(EU - {"FR"}, "EU")
    assert not covers(frozenset({"US"}), "FR")
    assert not covers(frozenset({"EU"}), "CH")
