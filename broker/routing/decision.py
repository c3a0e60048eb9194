"""Decides where a request goes, and can say why; pure.

Aliases and fallbacks are expanded, every name becomes its candidates, conditions leave some out
and the rest are ranked. Source: OpenRouter's provider routing, Unify's `model@provider` and
haimaker's `compliance`, as far as they agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from broker.errors import InferenceError
from broker.routing import filters, names, spellings
from broker.routing.candidates import NO_ALIAS, Candidate, candidates
from broker.routing.equals import Dice, Equals
from broker.routing.fleet import Target
from broker.routing.names import Wish
from broker.routing.preferences import NONE
from broker.routing.ranking import rank, strategy
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
    # Who is tried where the prompt is too long for those.
    spare: tuple[Candidate, ...] = ()

    @property
    def explained(self) -> str:
        """In a line, for a header."""
        tried = ", ".join([candidate.name for candidate in self.chosen])
        said = f"{self.strategy}; {tried}"
        if not self.spare:
            return said
        return f"{said}; longer prompts: {', '.join([one.name for one in self.spare])}"

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where the attempts go, in order."""
        return tuple(candidate.target for candidate in (*self.chosen, *self.spare))


@dataclass(slots=True)
class Ranked:
    """Who is eligible in the present state of the fleet, in groups of equals, best first."""

    # The world's number of news that it was made at.
    news: int
    strategy: str
    tiers: list[Equals]
    left_out: tuple[Candidate, ...]
    # Whether one alone can be chosen.
    alone: bool


@dataclass(slots=True)
class Slate:
    """Who can answer requests that ask alike, while the fleet stays as it is."""

    eligible: tuple[Candidate, ...]
    left_out: tuple[Candidate, ...]
    spare: tuple[Candidate, ...]
    # What fits into every window that is known, in tokens.
    fits: float = math.inf
    # Made for the last request, and good until there is news of how workers do.
    ranked: Ranked | None = None


def slate(ask: Ask, world: World) -> Slate:
    """The candidates of a request, whatever their present state. Raises as `decide` does."""
    found: dict[tuple[str, str], Candidate] = {}
    failures: list[InferenceError] = []
    for place, wish, weight, deployment in _wishes(ask, world):
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
    left_out = tuple(c for c in found.values() if c.excluded)
    windows = (c.target.window for c in eligible if c.target.window)
    spare = _spare(ask, world)
    return Slate(tuple(eligible), left_out, spare, min(windows, default=math.inf))


def decide(ask: Ask, world: World, dice: Dice, known: Slate | None = None) -> Decision:
    """The decision for a request; `known` is the slate of an earlier one that asked alike.

    Raises `InferenceError`: model_not_found, no_worker, no_matching_provider,
    no_compliant_provider, unsupported_operation, or invalid_request for a name that cannot be read.
    """
    known = slate(ask, world) if known is None else known
    ranked = known.ranked
    if ranked is None or ranked.news != world.news or ask.input_tokens > known.fits:
        ranked = _ranked(known, ask, world)
        if world.news and ask.input_tokens <= known.fits:
            known.ranked = ranked
    left: list[Candidate] = []
    balanced = True
    for tier in ranked.tiers:
        drawn = tier.drawn(world, dice, balanced=balanced)
        left += drawn
        balanced = world.troubled and balanced and all(_rests(c, world) for c in drawn)
    if world.troubled:
        left.sort(key=lambda candidate: _rests(candidate, world))
    out = ranked.left_out
    if ranked.alone and len(left) > 1:
        out += tuple(c.without("fallbacks are not allowed") for c in left[1:])
        del left[1:]
    return Decision(ask.model, ranked.strategy, tuple(left[:MAX_TARGETS]), out, known.spare)


def present(decision: Decision, world: World) -> Decision:
    """The same, with what is known at this moment of every candidate."""
    chosen = tuple(c.now(world.state(c.provider, c.target.model)) for c in decision.chosen)
    return replace(decision, chosen=chosen)


def _ranked(known: Slate, ask: Ask, world: World) -> Ranked:
    state = world.state
    found = [c.now(state(c.provider, c.target.model)) for c in known.eligible]
    try:
        left = filters.apply(filters.PASSING, found, ask, world)
    except InferenceError:
        # Of those that are away nobody knows how fast they would be.
        if away := [c for c in known.left_out if c.excluded == filters.AWAY]:
            raise filters.nobody_there(away) from None
        raise
    tiers = rank(left, ask, world)
    out = known.left_out + tuple(candidate for candidate in found if candidate.excluded)
    preferences = ask.preferences
    alone = preferences.allow_fallbacks is False and not preferences.order
    first = tiers[0].drawn(world, _zero, balanced=False)[0]
    return Ranked(world.news, strategy(first, preferences), tiers, out, alone)


def _rests(candidate: Candidate, world: World) -> bool:
    return world.state(candidate.provider, candidate.target.model).resting


def _zero() -> float:
    return 0.0


def _wishes(ask: Ask, world: World) -> Iterator[tuple[int, Wish, float, int]]:
    """(place, wish, weight, deployment): those of one alias share a place."""
    rules, known = world.rules, world.fleet.known
    place = 0
    for asked in (ask.model, *ask.models):
        wish = names.read(asked, known)
        aliased = spellings.alias(asked, wish, world)
        if aliased is None:
            yield place, wish, 1.0, NO_ALIAS
            after = spellings.written_for(asked, wish, rules.fallbacks, known)
        else:
            ways, alias = aliased
            for number, (way, weight) in enumerate(ways):
                yield place, way, weight, number
            after = alias.fallbacks
        for fallback in after:
            place += 1
            yield place, names.read(fallback, known), 1.0, NO_ALIAS
        place += 1


def _spare(ask: Ask, world: World) -> tuple[Candidate, ...]:
    """Who is there for prompts that are too long for the others, in the order that is written."""
    known, written = world.fleet.known, world.rules.context_fallbacks
    if not written or ask.preferences.allow_fallbacks is False:
        return ()
    found: list[Candidate] = []
    for asked in (ask.model, *ask.models):
        wish = names.read(asked, known)
        for name in spellings.written_for(asked, wish, written, known):
            with suppress(InferenceError):  # nobody serves it here
                served = candidates(names.read(name, known), world, widen=False)
                tiers = rank(filters.apply(filters.LASTING, served, ask, world), ask, world)
                found += (c for tier in tiers for c in tier.drawn(world, _zero, balanced=False))
    for candidate in found:
        candidate.target = replace(candidate.target, spare=True)
        candidate.rank = 1
    return tuple(found)
