"""Which targets a model's name leads to, and what the caller is told when there are none."""

from __future__ import annotations

import pytest

from broker.errors import InferenceError
from broker.routing import Ask, Fleet, Target, World, decide, near

FLEET = Fleet(
    live={
        "openai": {"main": frozenset({"gpt-4o", "gpt-4o-mini"})},
        "azure-east": {"main": frozenset({"gpt-4o"})},
        "anthropic": {
            "main": frozenset({"claude-sonnet-5"}),
            "big": frozenset({"claude-opus-5"}),
        },
        "gemini": {"main": frozenset()},
        "vllm": {"gpu": frozenset({"meta-llama/Llama-4"})},
    },
    known=frozenset({"openai", "azure-east", "anthropic", "gemini", "vllm", "groq"}),
)

NAMED = [
    # model asked for, provider, pool, model at the provider, listed
    ("openai/gpt-4o", "openai", "main", "gpt-4o", True),
    ("openai/o9-unheard-of", "openai", "main", "o9-unheard-of", False),
    ("openai/ft:gpt-4o:acme/x@y", "openai", "main", "ft:gpt-4o:acme/x@y", False),
    ("gpt-4o@azure-east", "azure-east", "main", "gpt-4o", True),
    ("deploy@ment@azure-east", "azure-east", "main", "deploy@ment", False),
    ("anthropic/claude-opus-5", "anthropic", "big", "claude-opus-5", True),
    ("google/gemini-3-pro", "gemini", "main", "gemini-3-pro", False),  # an alias of the registry
    ("Google-AI/gemini-3-pro", "gemini", "main", "gemini-3-pro", False),
    ("anthropic/claude-sonnet-5", "anthropic", "main", "claude-sonnet-5", True),
    ("anthropic/claude-unlisted", "anthropic", "main", "claude-unlisted", False),
    ("vllm/meta-llama/Llama-4", "vllm", "gpu", "meta-llama/Llama-4", True),
    ("vllm/unlisted", "vllm", "gpu", "unlisted", False),  # there is no pool "main"
    ("meta-llama/Llama-4", "vllm", "gpu", "meta-llama/Llama-4", True),  # no such provider: a name
]


@pytest.mark.parametrize(("asked", "provider", "pool", "model", "listed"), NAMED)
def test_a_name_leads_to_one_target(
    asked: str, provider: str, pool: str, model: str, listed: bool
) -> None:
    assert targets(asked, FLEET) == [Target(provider, pool, model, listed)]


def test_a_plain_name_leads_to_every_provider_that_lists_it() -> None:
    assert targets("gpt-4o", FLEET) == [
        Target("azure-east", "main", "gpt-4o", listed=True),
        Target("openai", "main", "gpt-4o", listed=True),
    ]


def targets(model: str, fleet: Fleet) -> list[Target]:
    return list(decide(Ask(model), World(fleet), lambda: 0.0).targets)


SUBJECTS = [
    (Target("openai", "main", "gpt-4.1", listed=True), "req.int.openai.main.gpt-4_1"),
    (Target("openai", "main", "whatever", listed=False), "req.int.openai.main._"),
    (Target("my.vllm", "a b", "x>*y", listed=True), "req.int.my_vllm.a_b.x__y"),
]


@pytest.mark.parametrize(("target", "subject"), SUBJECTS)
def test_a_subject_has_five_tokens_and_no_wildcards(target: Target, subject: str) -> None:
    assert target.subject == subject
    assert subject.count(".") == 4


def test_a_provider_that_ran_here_and_has_no_worker_now_is_down_not_unknown() -> None:
    with pytest.raises(InferenceError) as told:
        targets("groq/llama", FLEET)
    assert told.value.reason == "no_worker"
    assert told.value.provider == "groq"


@pytest.mark.parametrize("model", ["mistral/large", "large@mistral", "no-such-model", "/", "@", ""])
def test_an_unknown_model_names_the_field_at_fault(model: str) -> None:
    with pytest.raises(InferenceError) as told:
        targets(model, FLEET)
    assert told.value.reason == "model_not_found"
    assert told.value.param == "model"


def test_a_registered_provider_that_is_off_is_said_to_be_off() -> None:
    with pytest.raises(InferenceError, match="'mistral' is not on here"):
        targets("mistral/large", FLEET)


@pytest.mark.parametrize("asked", ["gpt-4o-mni", "openai/gpt-4o-mni"])
def test_a_slip_of_the_pen_is_answered_with_near_names(asked: str) -> None:
    assert "openai/gpt-4o-mini" in near(asked, FLEET)
    if "/" not in asked:
        with pytest.raises(InferenceError, match=r"did you mean .*'openai/gpt-4o-mini'"):
            targets(asked, FLEET)


def test_near_names_are_three_at_most_and_each_once() -> None:
    live = {f"p{n}": {"main": frozenset({"gpt-4o", "gpt-4o-x"})} for n in range(9)}
    found = near("gpt-4o", Fleet(live, frozenset(live)))
    assert len(found) == 3
    assert len(set(found)) == 3


def test_without_any_worker_a_model_is_not_found_and_nothing_breaks() -> None:
    with pytest.raises(InferenceError) as told:
        targets("gpt-4o", Fleet())
    assert told.value.reason == "model_not_found"


def test_models_are_listed_once_though_two_pools_have_them() -> None:
    live = {"openai": {"a": frozenset({"m"}), "b": frozenset({"m", "n"})}}
    assert Fleet(live, frozenset(live)).models() == [("openai", "m"), ("openai", "n")]
