"""What is known of the workers, and the targets that they make; pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker import subjects
from broker.errors import InferenceError
from broker.routing.residency import Claim


@dataclass(frozen=True, slots=True)
class Target:
    """Where an attempt can go.

    `listed`: the pool says it serves this model; `window`: tokens that it reads, 0 = not known;
    `thinks`: it may reason for long before it says anything; `prefill`: it can be handed the
    beginning of its answer to continue; `spare`: it is for prompts too long for others, alone.
    """

    provider: str
    pool: str
    model: str
    listed: bool
    window: int = 0
    thinks: bool = False
    prefill: bool = False
    spare: bool = False

    @property
    def subject(self) -> str:
        """Where the interactive jobs of this target are published."""
        name = self.model if self.listed else subjects.UNLISTED
        return subjects.job(subjects.INTERACTIVE, self.provider, self.pool, name)


_MAIN: Mapping[str, frozenset[str]] = {subjects.DEFAULT_POOL: frozenset()}


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is known of the workers: provider -> pool -> listed models, and every known provider.

    A provider is known once a worker of it has run here; it is live while one does. `away` is what
    those listed that have no worker now.
    """

    live: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    # Provider -> where it processes requests, as its workers announce it.
    claims: Mapping[str, frozenset[Claim]] = field(default_factory=dict)
    away: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)

    def models(self) -> list[tuple[str, str]]:
        """(provider, model) of everything that is listed, in order."""
        return sorted(
            {(name, m) for name, pools in self.live.items() for ms in pools.values() for m in ms}
        )

    def listed(self, model: str) -> list[tuple[str, str]]:
        """(provider, model) of the pools that list this name, be their workers here or away."""
        return [
            (name, model)
            for name, pools in sorted({**self.away, **self.live}.items())
            if any(model in models for models in pools.values())
        ]

    def knows(self, provider: str) -> bool:
        """Whether a worker of it runs here, or has done so."""
        return provider in self.live or provider in self.known

    def target(self, provider: str, model: str) -> Target:
        """Where jobs for a known provider's model go: its pool that lists it, or its main one."""
        pools = self.live.get(provider) or self.away.get(provider) or _MAIN
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


def not_found(model: str, fleet: Fleet, why: str) -> InferenceError:
    """The 404 for a model, with ids that look like it."""
    parts = [f"The model {model!r} does not exist or you do not have access to it"]
    if why:
        parts.append(why)
    if hits := near(model, fleet):
        parts.append("did you mean " + " or ".join(repr(hit) for hit in hits) + "?")
    elif fleet.live:
        parts.append(f"providers that are on: {', '.join(sorted(fleet.live))}")
    return InferenceError("model_not_found", "; ".join(parts), param="model")
