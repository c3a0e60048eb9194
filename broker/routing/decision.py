"""Decides where a request goes, and can say why; pure.

Aliases and fallbacks are expanded, every name becomes its candidates, conditions leave some out
and the rest are ranked. Source: OpenRouter's provider routing, Unify's `model@provider` and
haimaker's `compliance`, as far as they agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from broker.errors import InferenceError
from broker.routing import filters, names
from broker.routing.candidates import NO_ALIAS, Candidate, candidates
from broker.routing.fleet import Target
from broker.routing.preferences import NONE
from broker.routing.ranking import Dice, rank, strategy
from broker.routing.world import Ask, World

# Beyond this many a request is not routed but broadcast.
MAX_TARGETS = 16


@dataclass(frozen=True, slots=True)
class Decision:
    """Who is tried, best first, by which strategy; and who was left out, each with the reason."""

    requested: str
    strategy: str
    chosen: tuple[Candidate, ...]
    left_out: tuple[Candidate, ...] = ()

    @property
    def explained(self) -> str:
        """In a line, for a header; empty where there was nothing to decide."""
        if len(self.chosen) + len(self.left_out) < 2:
            return ""
        tried = ", ".join(f"{c.provider}/{c.target.model}" for c in self.chosen)
        return f"{self.strategy}; {tried}"

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where the attempts go, in order."""
        return tuple(candidate.target for candidate in self.chosen)


@dataclass(frozen=True, slots=True)
class Slate:
    """Who can answer requests that ask alike, while the fleet stays as it is."""

    eligible: tuple[Candidate, ...]
    left_out: tuple[Candidate, ...]


def slate(ask: Ask, world: World) -> Slate:
    """The candidates of a request, whatever their present state. Raises as `decide` does."""
    found: dict[tuple[str, str], Candidate] = {}
    failures: list[InferenceError] = []
    for place, name, weight, deployment in _names(ask, world):
        wish = names.read(name, world.fleet.known)
        try:
            served = candidates(wish, world, widen=ask.preferences is not NONE)
        except InferenceError as exc:
            failures.append(exc)
            continue
        for candidate in served:
            candidate.rank, candidate.weight, candidate.deployment = place, weight, deployment
            found.setdefault((candidate.provider, candidate.target.model), candidate)
    if not found:
        raise failures[0]
    eligible = filters.apply(filters.LASTING, list(found.values()), ask, world)
    return Slate(tuple(eligible), tuple(c for c in found.values() if c.excluded))


def decide(ask: Ask, world: World, dice: Dice, known: Slate | None = None) -> Decision:
    """The decision for a request; `known` is the slate of an earlier one that asked alike.

    Raises `InferenceError`: model_not_found, no_worker, no_matching_provider,
    no_compliant_provider, unsupported_operation, or invalid_request for a name that cannot be read.
    """
    known = slate(ask, world) if known is None else known
    state = world.state
    present = [c.now(state(c.target.provider, c.target.model)) for c in known.eligible]
    try:
        left = rank(filters.apply(filters.PASSING, present, ask, world), ask, world, dice)
    except InferenceError:
        # Of those that are away nobody knows how fast they would be.
        if away := [
            candidate for candidate in known.left_out if candidate.excluded == filters.AWAY
        ]:
            raise filters.nobody_there(away) from None
        raise
    if ask.preferences.allow_fallbacks is False and not ask.preferences.order:
        for candidate in left[1:]:
            candidate.excluded = "fallbacks are not allowed"
        left = left[:1]
    out = known.left_out
    if len(left) < len(present):
        out += tuple(candidate for candidate in present if candidate.excluded)
    return Decision(ask.model, strategy(left[0], ask.preferences), tuple(left[:MAX_TARGETS]), out)


def _names(ask: Ask, world: World) -> Iterator[tuple[int, str, float, int]]:
    """(place, name, weight, deployment): those of one alias share a place."""
    place = 0
    for asked in (ask.model, *ask.models):
        alias = world.rules.aliases.get(asked)
        for number, deployment in enumerate(alias.deployments if alias else ()):
            yield place, deployment.model, deployment.weight, number
        if alias is None:
            yield place, asked, 1.0, NO_ALIAS
        fallbacks = alias.fallbacks if alias else world.rules.fallbacks.get(asked, ())
        for fallback in fallbacks:
            place += 1
            yield place, fallback, 1.0, NO_ALIAS
        place += 1
