"""Where requests go: candidates, conditions, order and reasons, decided from tables."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from broker.catalog.catalog import Catalog
from broker.catalog.offers import NANO, Offer, Rates
from broker.errors import InferenceError
from broker.routing import Ask, Decision, Fleet, World, decide, slate
from broker.routing.preferences import read
from broker.routing.residency import Claim, agreed
from broker.routing.spread import Spread, bucket
from broker.routing.world import Alias, Deployment, Live, Rules

LLAMA = "meta/llama-3-1-70b"


def offer(provider: str, model: str, price: float, **fields: Any) -> Offer:
    """Price in USD per million tokens, in and out alike."""
    prices = {"input_tokens": int(price * NANO), "output_tokens": int(price * NANO)}
    return Offer(provider, model, fields.pop("name", LLAMA), rates=Rates(prices), **fields)


CATALOG = Catalog(
    [
        offer("groq", "llama-3.1-70b", 0.6, max_input=8_000),
        offer("together_ai", "meta-llama/Llama-3.1-70B", 0.9, max_input=128_000),
        offer("fireworks", "llama-v3p1-70b", 0.61, abilities=frozenset({"tools"})),
        offer("bedrock", "meta.llama3-1-70b", 2.0, abilities=frozenset({"tools", "images"})),
        offer("openai", "gpt-4o", 5.0, name="openai/gpt-4o"),
        offer("azure", "gpt-4o", 5.0, name="openai/gpt-4o"),
        offer("openai", "text-embedding-3-small", 0.1, operations=("embed",), name="openai/embed"),
    ]
)
LIVE = ("groq", "together_ai", "fireworks", "bedrock", "openai", "azure", "my_vllm")
FLEET = Fleet(
    {name: {"main": frozenset()} for name in LIVE} | {"my_vllm": {"gpu": frozenset({"own-7b"})}},
    frozenset({*LIVE, "mistral"}),
)


EU = Claim(frozenset({"EU"}), "https://a.example/eu")


def world(live: Mapping[tuple[str, str], Live] | None = None, rules: Rules | None = None) -> World:
    states = live or {}

    def state(provider: str, model: str) -> Live:
        return states.get((provider, model)) or states.get((provider, "")) or Live()

    return World(FLEET, CATALOG, rules or Rules(), state)


def decision(model: str, given: World | None = None, seed: int = 1, **fields: Any) -> Decision:
    preferences = fields.pop("provider", None)
    if preferences is not None:
        fields["preferences"] = read(msgspec.json.encode(preferences))
    return decide(Ask(model, **fields), given or world(), random.Random(seed).random)


def providers(*args: Any, **fields: Any) -> list[str]:
    return [target.provider for target in decision(*args, **fields).targets]


def test_a_plain_name_goes_to_every_host_cheapest_first() -> None:
    found = providers(LLAMA)
    assert set(found[:2]) == {"groq", "fireworks"}  # 0.60 and 0.61: near enough to be equal
    assert found[2:] == ["together_ai", "bedrock"]


def test_each_host_is_asked_for_its_own_id() -> None:
    models = {t.provider: t.model for t in decision(LLAMA).targets}
    assert models["together_ai"] == "meta-llama/Llama-3.1-70B"
    assert models["fireworks"] == "llama-v3p1-70b"


def test_a_named_provider_gets_the_name_untouched() -> None:
    (target,) = decision("groq/anything-new").targets
    assert (target.provider, target.model) == ("groq", "anything-new")


def test_limits_hold_for_a_named_provider_too() -> None:
    (target,) = decision("openai/gpt-4o@ttft<6ic").targets
    assert (target.provider, target.model) == ("openai", "gpt-4o")
    with pytest.raises(InferenceError, match=r"not input-cost <= 0\.5: it is 5") as told:
        decision("openai/gpt-4o@ttft<0.5ic")
    assert told.value.reason == "no_matching_provider"


def test_a_provider_object_widens_a_named_model_to_its_hosts() -> None:
    assert providers("openai/gpt-4o") == ["openai"]
    assert set(providers("openai/gpt-4o", provider={"sort": "price"})) == {"openai", "azure"}


SORTED = [
    ({"sort": "price"}, "together_ai", 2),
    ({"order": ["bedrock", "together"]}, "bedrock", 0),
    ({"order": ["bedrock", "together"]}, "together_ai", 1),
    ({"only": ["bedrock"]}, "bedrock", 0),
]


@pytest.mark.parametrize(("provider", "name", "place"), SORTED)
def test_preferences_decide_the_order(provider: dict[str, Any], name: str, place: int) -> None:
    assert providers(LLAMA, provider=provider)[place] == name


FILTERED = [
    ({"only": ["groq", "bedrock"]}, {"groq", "bedrock"}),
    ({"ignore": ["groq"]}, {"together_ai", "fireworks", "bedrock"}),
    ({"order": ["bedrock"], "allow_fallbacks": False}, {"bedrock"}),
    ({"max_price": {"prompt": 0.7}}, {"groq", "fireworks"}),
    ({"max_price": {"completion": 1}}, {"groq", "fireworks", "together_ai"}),
    ({"require_parameters": True}, {"groq", "together_ai", "bedrock", "fireworks"}),
]


@pytest.mark.parametrize(("provider", "left"), FILTERED)
def test_preferences_leave_providers_out(provider: dict[str, Any], left: set[str]) -> None:
    assert set(providers(LLAMA, provider=provider)) == left


HELD = Rules(
    private=frozenset({"bedrock", "groq"}),
    quantizations={"groq": "fp8", "together_ai": "bf16", "fireworks": "fp8"},
)
HOLDING = [
    ({"zdr": True}, {"groq", "bedrock"}),
    ({"data_collection": "deny"}, {"groq", "bedrock"}),
    ({"data_collection": "allow"}, {"groq", "together_ai", "fireworks", "bedrock"}),
    ({"zdr": False}, {"groq", "together_ai", "fireworks", "bedrock"}),
    ({"quantizations": ["fp8"]}, {"groq", "fireworks"}),
    ({"quantizations": ["bf16", "fp16"]}, {"together_ai"}),
    ({"quantizations": ["fp8", "bf16"]}, {"groq", "together_ai", "fireworks"}),
    ({"quantizations": ["unknown"]}, {"bedrock"}),
    ({"quantizations": ["fp8"], "zdr": True}, {"groq"}),
]


@pytest.mark.parametrize(("provider", "left"), HOLDING)
def test_what_the_settings_say_of_providers_is_what_requests_ask_for(
    provider: dict[str, Any], left: set[str]
) -> None:
    assert set(providers(LLAMA, world(rules=HELD), provider=provider)) == left


PICTURES = Catalog(
    [
        Offer("openai", "draw", "maker/draw", ("image",), rates=Rates({"images": NANO // 25})),
        Offer("azure", "draw", "maker/draw", ("image",), rates=Rates({"images": NANO // 10})),
        Offer("groq", "draw", "maker/draw", ("image",), rates=Rates({"output_tokens": NANO})),
        Offer("bedrock", "draw", "maker/draw", ("image",)),
        Offer("openai", "ask", "maker/ask", rates=Rates({"input_tokens": NANO})),
        Offer("azure", "ask", "maker/ask", rates=Rates({"requests": NANO // 100})),
        Offer("groq", "ask", "maker/ask", ("rerank",), rates=Rates({"search_units": 2000 * NANO})),
    ]
)
PER_PIECE = [
    ("maker/draw", "image", {"image": 0.05}, {"openai"}),
    ("maker/draw", "image", {"image": 0.1}, {"openai", "azure"}),
    ("maker/draw", "image", {"image": 0.01}, set()),
    ("maker/draw", "image", {"request": 0}, {"openai", "azure", "groq"}),
    ("maker/ask", "generate", {"request": 0.009}, {"openai"}),
    ("maker/ask", "generate", {"request": 0.01, "image": 0}, {"openai", "azure"}),
    ("maker/ask", "rerank", {"request": 0.002}, {"groq"}),
    ("maker/ask", "rerank", {"request": 0.001}, set()),
]


@pytest.mark.parametrize(("model", "operation", "limits", "left"), PER_PIECE)
def test_prices_of_pictures_and_requests_are_limits_too(
    model: str, operation: str, limits: dict[str, float], left: set[str]
) -> None:
    given = replace(world(), catalog=PICTURES)
    asked = {"operation": operation, "provider": {"max_price": limits}}
    if left:
        assert set(providers(model, given, **asked)) == left
        return
    with pytest.raises(InferenceError) as told:
        providers(model, given, **asked)
    assert told.value.reason == "no_matching_provider"
    assert "costs 0.04 USD, over 0.01" in told.value.message or "0.002 USD" in told.value.message


def test_who_lacks_an_ability_is_left_out_where_all_are_required() -> None:
    needs = frozenset({"tools", "images"})
    found = decision(LLAMA, needs=needs, provider={"require_parameters": True})
    assert "fireworks" not in {t.provider for t in found.targets}
    assert {c.provider: c.excluded for c in found.left_out} == {"fireworks": "lacks images"}


def test_without_fallbacks_the_first_is_the_only_one() -> None:
    found = decision(LLAMA, provider={"allow_fallbacks": False})
    assert len(found.targets) == 1
    assert {c.excluded for c in found.left_out} == {"fallbacks are not allowed"}


NOBODY = [
    (LLAMA, {"only": ["xai"]}, "no_matching_provider", "groq: not in provider.only"),
    (LLAMA, {"max_price": {"prompt": 0.1}}, "no_matching_provider", "over 0.1"),
    (f"{LLAMA}@ic<0.1ic", None, "no_matching_provider", "not input-cost <= 0.1: it is 0.6"),
    (f"{LLAMA}@ttft<5ttft", None, "no_matching_provider", "it is not known"),
    (LLAMA, {"compliance": "DE"}, "no_compliant_provider", "not certified for DE"),
    (LLAMA, {"zdr": True}, "no_matching_provider", "may keep data"),
    (LLAMA, {"quantizations": ["fp8"]}, "no_matching_provider", "quantization is unknown"),
    (
        "openai/text-embedding-3-small",
        None,
        "unsupported_operation",
        "does not offer chat, but embeddings",
    ),
    ("mistral/large", None, "no_worker", "mistral"),
    ("no-such-model", None, "model_not_found", "does not exist"),
]


@pytest.mark.parametrize(("model", "provider", "reason", "why"), NOBODY)
def test_where_nobody_is_left_the_reason_is_told(
    model: str, provider: dict[str, Any] | None, reason: str, why: str
) -> None:
    with pytest.raises(InferenceError) as told:
        decision(model, provider=provider)
    assert told.value.reason == reason
    assert why in told.value.message


AWAY = Fleet(
    {"groq": {"main": frozenset()}},
    frozenset({"groq", "together_ai", "mistral", "my_vllm"}),
    {"groq": frozenset({Claim(frozenset({"US"}), "x")}), "mistral": frozenset({EU})},
    {"my_vllm": {"gpu": frozenset({"own-7b"})}, "mistral": {"main": frozenset({LLAMA})}},
)
ABSENT = [
    (LLAMA, {"only": ["together"]}, "no_worker"),
    (LLAMA, {"compliance": "EU"}, "no_worker"),
    (LLAMA, {"ignore": ["groq"]}, "no_worker"),
    (LLAMA, {"order": ["mistral"], "allow_fallbacks": False}, "no_worker"),
    (LLAMA, {"max_price": {"prompt": 0.5}, "only": ["groq", "mistral"]}, "no_matching_provider"),
    (f"{LLAMA}@ttft<5ttft", None, "no_worker"),
    (f"{LLAMA}@ic<0.5ic", None, "no_matching_provider"),
    ("own-7b", None, "no_worker"),
    ("own-7b", {"zdr": True}, "no_matching_provider"),
    # Whoever is there is left out by what lasts, and so would be those that are not.
    (LLAMA, {"compliance": "JP"}, "no_compliant_provider"),
    (LLAMA, {"only": ["openai"]}, "no_matching_provider"),
]


@pytest.mark.parametrize(("model", "provider", "reason"), ABSENT)
def test_that_workers_are_away_is_never_told_as_a_refusal(
    model: str, provider: dict[str, Any] | None, reason: str
) -> None:
    with pytest.raises(InferenceError) as told:
        decision(model, replace(world(), fleet=AWAY), provider=provider)
    assert told.value.reason == reason, told.value.message
    if reason == "no_worker":
        assert told.value.row.http == 503
        assert "is running" in told.value.message


def test_who_is_away_is_left_out_while_somebody_is_there() -> None:
    found = decision(LLAMA, replace(world(), fleet=AWAY))
    assert [target.provider for target in found.targets] == ["groq"]
    assert {c.provider: c.excluded for c in found.left_out} == {
        "together_ai": "no worker is running",
        "mistral": "no worker is running",
    }


def test_compliance_is_what_the_operator_wrote() -> None:
    rules = Rules(compliance={"bedrock": frozenset({"EU", "US"}), "groq": frozenset({"US"})})
    given = world(rules=rules)
    assert providers(LLAMA, given, provider={"compliance": "DE"}) == ["bedrock"]
    assert set(providers(LLAMA, given, provider={"compliance": "us"})) == {"bedrock", "groq"}


def claim(*regions: str, models: str = "", source: str = "https://a.example/where") -> Claim:
    return Claim(frozenset(regions), source, "2026-11-21", models)


CLAIMS = {
    "groq": frozenset({claim("US")}),
    "bedrock": frozenset({claim("EU", models="meta."), claim("US", models="other.")}),
}


@pytest.mark.parametrize(
    ("region", "written", "expected"),
    [
        ("US", {}, {"groq"}),
        ("DE", {}, {"bedrock"}),
        # The operator's word counts, and takes a default back where it is empty.
        ("US", {"groq": frozenset({"EU"})}, set()),
        ("DE", {"groq": frozenset({"EU"})}, {"groq", "bedrock"}),
        ("DE", {"bedrock": frozenset()}, set()),
    ],
)
def test_where_the_operator_wrote_nothing_what_workers_announce_counts(
    region: str, written: dict[str, frozenset[str]], expected: set[str]
) -> None:
    fleet = replace(FLEET, claims=CLAIMS)
    given = replace(world(rules=Rules(compliance=written)), fleet=fleet)
    if expected:
        assert set(providers(LLAMA, given, provider={"compliance": region})) == expected
    else:
        with pytest.raises(InferenceError) as told:
            decision(LLAMA, given, provider={"compliance": region})
        assert told.value.reason == "no_compliant_provider"


@pytest.mark.parametrize(
    ("model", "region", "code", "refused"),
    [
        ("bedrock/x", "", "DE", False),
        ("bedrock/x", "eu-central-1", "DE", False),
        # Who is certified for the EU is so for its members, wherever in it.
        ("bedrock/x", "eu-west-1", "DE", False),
        ("bedrock/x", "eu", "EU", False),
        ("bedrock/x", "us-east-1", "DE", True),
        # Europe's, and not the union's.
        ("bedrock/x", "eu-west-2", "EU", True),
        ("bedrock/x", "eu-central-2", "DE", True),
        ("bedrock/x", "nowhere-9", "DE", True),
        ("bedrock/x", "global", "EU", True),
        ("bedrock/arn:aws:bedrock:us-east-1:1:inference-profile/x", "eu-west-1", "DE", True),
        ("bedrock/arn:aws:bedrock:eu-west-1:1:inference-profile/x", "us-east-1", "DE", False),
        ("bedrock/projects/p/locations/us-central1/endpoints/1", "europe-west3", "DE", True),
    ],
)
def test_a_region_that_a_request_names_has_to_be_where_it_asks_for_compliance(
    model: str, region: str, code: str, refused: bool
) -> None:
    given = world(rules=Rules(compliance={"bedrock": frozenset({"EU", "US"})}))
    assert providers(model, given, region="us-east-1") == ["bedrock"]
    asked: dict[str, Any] = {"provider": {"compliance": code}, "region": region}
    if not refused:
        assert providers(model, given, **asked) == ["bedrock"]
        return
    with pytest.raises(InferenceError, match=f"is not known to be in {code}") as told:
        decision(model, given, **asked)
    assert (told.value.reason, told.value.row.http) == ("no_compliant_provider", 403)


def test_a_target_knows_whether_its_model_reasons_however_it_is_asked_for() -> None:
    known: dict[str, Any] = {"abilities": frozenset({"reasoning"}), "name": "maker/r1"}
    offers = [offer("groq", "r1", 1, **known), offer("fireworks", "r1", 2, **known)]
    given = replace(world(), catalog=Catalog([*offers, offer("groq", "plain", 1)]))
    for asked in ("groq/r1", "r1@groq", "maker/r1", "groq/r1@ic"):
        assert all(target.thinks for target in decision(asked, given).targets), asked
    for asked in ("groq/plain", "groq/nobody-knows"):
        assert not any(target.thinks for target in decision(asked, given).targets), asked


def test_who_says_so_is_told() -> None:
    given = replace(world(), fleet=replace(FLEET, claims=CLAIMS))
    with pytest.raises(InferenceError) as told:
        decision(LLAMA, given, provider={"compliance": "JP"})
    message = told.value.message
    assert "groq: not certified for JP: it is for US, by https://a.example/where" in message
    assert "fireworks: not certified for JP: nobody says" in message
    rules = Rules(compliance={"groq": frozenset({"US"})})
    found = decision(LLAMA, world(rules=rules), provider={"compliance": "US"})
    assert str(found.chosen[0].claim) == "US, by the settings"


def test_only_what_all_workers_of_a_provider_announce_counts() -> None:
    us, eu = claim("US"), claim("EU")
    said = {"a": [frozenset({us}), frozenset({us, eu})], "b": [frozenset({us}), frozenset()]}
    assert agreed(said) == {"a": {us}, "b": frozenset()}


def test_a_mode_in_the_name_sorts_by_what_was_measured() -> None:
    live = {
        ("groq", "llama-3.1-70b"): Live(first_ms=300, token_ms=2, per_second=400),
        ("together_ai", "meta-llama/Llama-3.1-70B"): Live(first_ms=100, token_ms=9, per_second=90),
        ("bedrock", ""): Live(first_ms=700, token_ms=20, per_second=40),
    }
    assert providers(f"{LLAMA}@ttft", world(live)) == [
        "together_ai",
        "groq",
        "bedrock",
        "fireworks",
    ]
    assert providers(f"{LLAMA}@ots", world(live))[0] == "groq"
    assert providers(f"{LLAMA}:nitro", world(live))[0] == "groq"
    assert providers(f"{LLAMA}@ic<10itl<500ttft", world(live)) == ["groq", "together_ai"]
    assert providers(LLAMA, world(live), provider={"sort": "latency"})[0] == "together_ai"


def counts(*figures: float) -> Counter[int]:
    return Counter(map(bucket, figures))


# Of ten answers each: groq's middle is the better one, but it is slow now and then.
SPREADS = {
    "groq": Spread(counts(*[200] * 8, 3000, 3000), counts(*[100] * 8, 5, 5)),
    "fireworks": Spread(counts(*[500] * 10), counts(*[60] * 10)),
    "together_ai": Spread(counts(*[900] * 10), counts(*[20] * 10)),
}
PREFERRED = [
    # (what is preferred, who falls short of it); bedrock was never seen, so nobody knows.
    ({"preferred_max_latency": 0.3}, {"fireworks", "together_ai"}),
    ({"preferred_max_latency": {"p50": 0.3}}, {"fireworks", "together_ai"}),
    ({"preferred_max_latency": {"p75": 0.6}}, {"together_ai"}),
    ({"preferred_max_latency": {"p90": 0.6}}, {"groq", "together_ai"}),
    ({"preferred_max_latency": {"p99": 4}}, set()),
    ({"preferred_max_latency": {"p50": 0.3, "p99": 4}}, {"fireworks", "together_ai"}),
    ({"preferred_max_latency": {"p50": 0.6, "p99": 2}}, {"groq", "together_ai"}),
    ({"preferred_min_throughput": 80}, {"fireworks", "together_ai"}),
    ({"preferred_min_throughput": {"p90": 50}}, {"groq", "together_ai"}),
    ({"preferred_min_throughput": {"p75": 80}}, {"fireworks", "together_ai"}),
    ({"preferred_min_throughput": {"p99": 4}}, set()),
]


@pytest.mark.parametrize(("preferred", "short"), PREFERRED)
def test_what_a_caller_would_rather_have_is_soft_and_by_percentile(
    preferred: dict[str, Any], short: set[str]
) -> None:
    given = replace(world(), spread=lambda provider, _: SPREADS.get(provider, Spread()))
    found = providers(LLAMA, given, provider=preferred)
    assert len(found) == 4
    assert set(found[4 - len(short) :]) == short


def test_who_rests_is_tried_last() -> None:
    live = {("groq", ""): Live(resting=True), ("fireworks", ""): Live(resting=True)}
    assert set(providers(LLAMA, world(live))[2:]) == {"groq", "fireworks"}


def test_of_equals_the_less_loaded_goes_first() -> None:
    live = {("groq", ""): Live(first_ms=100, busy=9), ("fireworks", ""): Live(first_ms=100, busy=2)}
    assert {providers(LLAMA, world(live), seed=n)[0] for n in range(20)} == {"fireworks"}


def test_equals_share_the_work() -> None:
    first = Counter(providers(LLAMA, seed=n)[0] for n in range(400))
    assert first.keys() == {"groq", "fireworks"}
    assert min(first.values()) > 140


def test_a_prompt_that_does_not_fit_goes_where_it_does() -> None:
    assert "groq" not in providers(LLAMA, input_tokens=50_000)
    # An estimate that fits nowhere excludes nobody.
    assert "groq" in providers("groq/llama-3.1-70b", input_tokens=50_000)


def test_further_models_come_after_the_first() -> None:
    found = [(t.provider, t.model) for t in decision("openai/gpt-4o", models=("own-7b",)).targets]
    assert found == [("openai", "gpt-4o"), ("my_vllm", "own-7b")]
    assert providers("no-such-model", models=("own-7b",)) == ["my_vllm"]


def test_partition_none_sorts_all_models_together() -> None:
    sort = {"by": "price", "partition": "none"}
    found = providers("openai/gpt-4o", models=("groq/llama-3.1-70b",), provider={"sort": sort})
    assert set(found[:2]) == {"groq", "fireworks"}


def test_an_alias_spreads_by_weight_and_falls_back() -> None:
    deployments = (Deployment("openai/gpt-4o", 3), Deployment("azure/gpt-4o", 1))
    rules = Rules(aliases={"auto": Alias(deployments, ("own-7b",))})
    assert {tuple(providers("auto", world(rules=rules), seed=n)[2:]) for n in range(20)} == {
        ("my_vllm",)
    }


# Of 4000 requests, what the lighter of two gets, and how far off chance may be (five sigma).
WEIGHTS = [
    ((90, 10), {}, 0.10),
    ((3, 1), {}, 0.25),
    ((1, 1), {}, 0.5),
    ((1.2, 1), {}, 0.4545),
    # As fast as each other; one of them not seen for a while; one a little slower.
    ((90, 10), {"openai": Live(first_ms=400), "azure": Live(first_ms=400)}, 0.10),
    ((90, 10), {"openai": Live(first_ms=400)}, 0.10),
    ((90, 10), {"azure": Live(first_ms=400)}, 0.10),
    ((1, 1), {"openai": Live(first_ms=200), "azure": Live(first_ms=300)}, 0.4),
    # What each has in flight is what its weight makes of it.
    ((90, 10), {"openai": Live(busy=45, slots=64), "azure": Live(busy=5, slots=64)}, 0.10),
]


@pytest.mark.parametrize(("weights", "live", "share"), WEIGHTS)
def test_the_weights_of_an_alias_are_shares_of_the_work(
    weights: tuple[float, float], live: dict[str, Live], share: float
) -> None:
    assert spread(weights, live)["azure"] / 4000 == pytest.approx(
        share, abs=5 * (share * (1 - share) / 4000) ** 0.5
    )


def spread(weights: tuple[float, float], live: dict[str, Live]) -> Counter[str]:
    """Who goes first, of 4000 requests for openai and azure by weight."""
    names = ("openai/gpt-4o", "azure/gpt-4o")
    deployments = tuple(map(Deployment, names, weights))
    given = world(
        {(p, ""): state for p, state in live.items()}, Rules({"auto": Alias(deployments)})
    )
    dice = random.Random(1).random
    ask = Ask("auto")
    known = slate(ask, given)
    return Counter(decide(ask, given, dice, known).targets[0].provider for _ in range(4000))


LOADED = [
    # All slots are taken: whoever has a free one goes first, whatever the weights are.
    ((90, 10), {"openai": Live(busy=64, slots=64), "azure": Live(slots=64)}, "azure"),
    ((10, 90), {"openai": Live(busy=2, slots=2), "azure": Live(busy=9, slots=64)}, "azure"),
    # Much slower, or much more in flight for its weight.
    ((1, 1), {"openai": Live(first_ms=1000), "azure": Live(first_ms=100)}, "azure"),
    ((1, 1), {"openai": Live(busy=30, slots=64), "azure": Live(busy=3, slots=64)}, "azure"),
    ((90, 10), {"openai": Live(busy=10, slots=64), "azure": Live(busy=9, slots=64)}, "openai"),
]


@pytest.mark.parametrize(("weights", "live", "first"), LOADED)
def test_who_is_clearly_quicker_goes_first_whatever_the_weights(
    weights: tuple[float, float], live: dict[str, Live], first: str
) -> None:
    assert spread(weights, live) == {first: 4000}


def test_two_models_of_one_provider_are_shared_by_weight_under_load() -> None:
    deployments = (Deployment("openai/gpt-4o", 90), Deployment("openai/canary", 10))
    given = world({("openai", ""): Live(busy=40, slots=64)}, Rules({"auto": Alias(deployments)}))
    dice = random.Random(1).random
    first = Counter(decide(Ask("auto"), given, dice).targets[0].model for _ in range(2000))
    assert first["canary"] / 2000 == pytest.approx(0.1, abs=0.034)


def test_weights_hold_while_many_are_in_flight() -> None:
    """Requests come and go, 20 at a time on average: the canary of 10 % keeps to its share."""
    dice = random.Random(2)
    busy = Counter[str]()
    given_to = Counter[str]()
    ends: list[tuple[float, str]] = []
    names = (Deployment("openai/gpt-4o", 90), Deployment("azure/gpt-4o", 10))
    rules = Rules({"auto": Alias(names)})

    def state(provider: str, _model: str) -> Live:
        return Live(first_ms=100, busy=busy[provider], slots=64)

    given = World(FLEET, CATALOG, rules, state)
    known = slate(Ask("auto"), given)
    now = 0.0
    for _ in range(4000):
        now += dice.expovariate(20)
        while ends and ends[0][0] <= now:
            busy[ends.pop(0)[1]] -= 1
        first = decide(Ask("auto"), given, dice.random, known).targets[0].provider
        given_to[first] += 1
        busy[first] += 1
        ends.append((now + 1, first))
    assert 0.08 < given_to["azure"] / 4000 < 0.12


SPELLINGS = [
    # (written for, asked for, whether it follows)
    ("openai/gpt-4o", "openai/gpt-4o", True),
    ("openai/gpt-4o", "gpt-4o", True),
    ("openai/gpt-4o", "gpt-4o@openai", True),
    ("openai/gpt-4o", "openai/gpt-4o:nitro", True),
    ("openai/gpt-4o", "gpt-4o:floor", True),
    ("openai/gpt-4o", "gpt-4o@ic<99ic", True),
    ("openai/gpt-4o", "gpt-4o@azure", False),
    ("openai/gpt-4o", "azure/gpt-4o", False),
    ("gpt-4o", "openai/gpt-4o", True),
    ("gpt-4o", "gpt-4o@azure", True),
    ("gpt-4o@openai", "openai/gpt-4o", True),
    ("gpt-4o@openai", "gpt-4o", True),
    ("openai/gpt-4o", "gpt-4o-mini@openai", False),
]


@pytest.mark.parametrize(("written", "asked", "follows"), SPELLINGS)
def test_configured_fallbacks_follow_their_model_however_it_is_spelled(
    written: str, asked: str, follows: bool
) -> None:
    rules = Rules(fallbacks={written: ("own-7b",), "other": ("groq/x",)})
    assert ("my_vllm" in providers(asked, world(rules=rules))) is follows


def test_who_is_named_for_longer_prompts_comes_last_and_meets_the_conditions() -> None:
    written = {"openai/gpt-4o": ("my_vllm/own-7b", "nobody/x", "mistral/y", LLAMA)}
    given = world(rules=Rules(context_fallbacks=written, private=frozenset({"openai", "my_vllm"})))
    found = decision("gpt-4o:floor", given, models=("groq/x",))
    assert {c.provider for c in found.chosen} == {"openai", "azure", "groq"}
    # Who is away is left out; of several hosts the cheapest is first.
    named = [c.provider for c in found.spare]
    assert (named[0], named[-1]) == ("my_vllm", "bedrock")
    assert "mistral" not in named
    chosen, spare = found.targets[: len(found.chosen)], found.targets[len(found.chosen) :]
    assert all(target.spare for target in spare)
    assert not any(target.spare for target in chosen)
    assert found.explained.endswith("; longer prompts: " + ", ".join(c.name for c in found.spare))
    private = decision("openai/gpt-4o", given, provider={"zdr": True})
    assert [c.provider for c in private.spare] == ["my_vllm"]
    assert not decision("openai/gpt-4o", given, provider={"allow_fallbacks": False}).spare
    assert not decision("gpt-4o@azure", given).spare


def test_of_fallbacks_the_closest_counts() -> None:
    rules = Rules(
        fallbacks={"gpt-4o": ("own-7b",), "azure/gpt-4o": ("groq/x",), "gpt-4o:nitro": ("groq/y",)}
    )
    after = {
        asked: decision(asked, world(rules=rules)).targets[-1].model
        for asked in ("gpt-4o", "openai/gpt-4o", "gpt-4o@azure", "gpt-4o:nitro", "gpt-4o:floor")
    }
    assert after == {
        "gpt-4o": "own-7b",
        "openai/gpt-4o": "own-7b",
        "gpt-4o@azure": "x",
        "gpt-4o:nitro": "y",
        "gpt-4o:floor": "own-7b",
    }


ALIASED = Rules(
    aliases={
        "house": Alias((Deployment("groq/llama-3.1-70b"), Deployment(LLAMA)), ("own-7b",)),
        "pair": Alias((Deployment("bedrock/meta.llama3-1-70b"), Deployment("groq/llama-3.1-70b"))),
    }
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("house@bedrock", ["bedrock", "my_vllm"]),
        ("house@groq", ["groq", "my_vllm"]),
        ("pair@groq", ["groq"]),
        ("pair:floor", ["groq", "bedrock"]),
        ("pair@ic", ["groq", "bedrock"]),
        ("pair@ic<1ic", ["groq"]),
    ],
)
def test_an_alias_takes_what_is_said_beside_its_name(asked: str, expected: list[str]) -> None:
    for seed in range(9):
        assert providers(asked, world(rules=ALIASED), seed=seed) == expected


def test_a_providers_own_model_is_no_alias() -> None:
    (target,) = decision("groq/house", world(rules=ALIASED)).targets
    assert (target.provider, target.model) == ("groq", "house")
