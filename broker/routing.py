"""Which providers can answer a request, by the name of its model; pure.

A name is `provider/model`, `model@provider` or `model`. A named provider gets the model's name
untouched, whether anybody has heard of it or not.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker import providers, subjects
from broker.errors import InferenceError


@dataclass(frozen=True, slots=True)
class Target:
    """Where an attempt can go. `listed`: the pool says it serves this model."""

    provider: str
    pool: str
    model: str
    listed: bool

    @property
    def subject(self) -> str:
        """Where the interactive jobs of this target are published."""
        name = self.model if self.listed else subjects.UNLISTED
        return subjects.job(subjects.INTERACTIVE, self.provider, self.pool, name)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is known of the workers: provider -> pool -> listed models, and every known provider.

    A provider is known once a worker of it has run here; it is live while one does.
    """

    live: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    known: frozenset[str] = frozenset()

    def models(self) -> list[tuple[str, str]]:
        """(provider, model) of everything that is listed, in order."""
        return sorted(
            {(name, m) for name, pools in self.live.items() for ms in pools.values() for m in ms}
        )


def targets(model: str, fleet: Fleet) -> list[Target]:
    """The candidates in order. Raises model_not_found, or no_worker for a provider that is down."""
    named = _named(model, fleet)
    if named is not None:
        provider, name = named
        if provider in fleet.live:
            return [_target(provider, name, fleet)]
        if provider in fleet.known:
            raise InferenceError(
                "no_worker", f"no worker of provider {provider!r} is running", provider=provider
            )
        raise _not_found(model, fleet, f"provider {provider!r} is not on here")
    found = [_target(provider, model, fleet) for provider, m in fleet.models() if m == model]
    if not found:
        raise _not_found(model, fleet, "")
    return found


def _named(model: str, fleet: Fleet) -> tuple[str, str] | None:
    """(provider, model) when the name says the provider."""
    head, slash, rest = model.partition("/")
    if slash and rest and (provider := _provider(head, fleet)):
        return provider, rest
    rest, at, tail = model.rpartition("@")
    if at and rest and (provider := _provider(tail, fleet)):
        return provider, rest
    return None


def _provider(word: str, fleet: Fleet) -> str | None:
    if word in fleet.known or word in fleet.live:
        return word
    return providers.canonical(word)


def _target(provider: str, model: str, fleet: Fleet) -> Target:
    pools = fleet.live[provider]
    for pool, models in sorted(pools.items()):
        if model in models:
            return Target(provider, pool, model, listed=True)
    pool = subjects.DEFAULT_POOL if subjects.DEFAULT_POOL in pools else min(pools)
    return Target(provider, pool, model, listed=False)


def near(model: str, fleet: Fleet) -> list[str]:
    """Up to three model ids that look like `model`."""
    ids = {f"{provider}/{name}": name for provider, name in fleet.models()}
    bare = model.partition("/")[2] or model
    hits = difflib.get_close_matches(model, ids, 3, 0.6)
    for name in difflib.get_close_matches(bare, set(ids.values()), 3, 0.6):
        hits += [full for full, short in ids.items() if short == name and full not in hits]
    return hits[:3]


def _not_found(model: str, fleet: Fleet, why: str) -> InferenceError:
    parts = [f"The model {model!r} does not exist or you do not have access to it"]
    if why:
        parts.append(why)
    if hits := near(model, fleet):
        parts.append("did you mean " + " or ".join(repr(hit) for hit in hits) + "?")
    elif fleet.live:
        parts.append(f"providers that are on: {', '.join(sorted(fleet.live))}")
    return InferenceError("model_not_found", "; ".join(parts), param="model")
