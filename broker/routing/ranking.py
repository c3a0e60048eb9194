"""Which candidate is tried first: what the caller asked for, then price and load; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from broker.routing.candidates import NO_ALIAS, Candidate
from broker.routing.equals import Equals
from broker.routing.filters import metric
from broker.routing.preferences import Percentiles, Preferences, named
from broker.routing.spread import Spread, at
from broker.routing.world import Ask, World

# Values this close count as equal, and load decides.
_NEAR = 1.05
# How far off a percentile may be.
_EXACT = 1.025
_first = itemgetter(0)
# What `provider.sort` sorts by -> the metric, of `names.METRICS`; "price" is the sum of two.
_SORTS = {"latency": "ttft", "throughput": "speed"}
PRICE = "price"
WEIGHTS = "weights"


def rank(found: Iterable[Candidate], ask: Ask, world: World) -> list[Equals]:
    """The candidates by their paces, best first: groups of equals, of which one is drawn later."""
    preferences = ask.preferences
    across = preferences.across
    groups: dict[int, list[Candidate]] = {}
    for candidate in found:
        groups.setdefault(0 if across else candidate.rank, []).append(candidate)
    ranked: list[Equals] = []
    for _, group in sorted(groups.items()):
        for same in _by_preference(group, preferences, world):
            by = strategy(same[0], preferences)
            if by == WEIGHTS:
                ranked.append(Equals([*_ways(same)]))
            else:
                ranked += (Equals([[one] for one in tier]) for tier in _tiers(same, by))
    return ranked


def _ways(group: list[Candidate]) -> Iterable[list[Candidate]]:
    """Of each deployment of an alias its hosts, the cheapest first."""
    ways: dict[int, list[Candidate]] = {}
    for candidate in group:
        ways.setdefault(candidate.deployment, []).append(candidate)
    for way in ways.values():
        yield [candidate for tier in _tiers(way, PRICE) for candidate in tier]


def strategy(candidate: Candidate, preferences: Preferences) -> str:
    """What its group is sorted by."""
    asked = candidate.wish.metric or candidate.wish.sort or preferences.by
    return asked or (PRICE if candidate.deployment == NO_ALIAS else WEIGHTS)


def _by_preference(
    group: list[Candidate], preferences: Preferences, world: World
) -> list[list[Candidate]]:
    """Groups by the places of `order`, and by who keeps the figures that are preferred."""
    if not (
        preferences.order
        or preferences.preferred_min_throughput
        or preferences.preferred_max_latency
    ):
        return [group]
    places = {name: n for n, name in enumerate(named(preferences.order))}

    def place(candidate: Candidate) -> tuple[int, bool]:
        placed = places.get(candidate.provider, len(places))
        spread = world.spread(candidate.provider, candidate.target.model)
        return placed, _falls_short(spread, preferences)

    return [list(same) for _, same in groupby(sorted(group, key=place), key=place)]


def _tiers(group: Sequence[Candidate], by: str) -> list[list[Candidate]]:
    """Groups of nearly equal value, best first; what is not known comes last."""
    valued = [(_value(candidate, by), candidate) for candidate in group]
    valued.sort(key=_first)
    tiers: list[list[Candidate]] = []
    best = -math.inf
    for value, candidate in valued:
        if not tiers or (value != best and value > best * (_NEAR if best > 0 else 1 / _NEAR)):
            tiers.append([])
            best = value
        tiers[-1].append(candidate)
    return tiers


def _value(candidate: Candidate, by: str) -> float:
    """Lower is better."""
    if by == PRICE:
        offer = candidate.offer
        return math.inf if offer is None else offer.sort_price
    name = _SORTS.get(by, by)
    value = metric(candidate, name)
    if value is None:
        return math.inf
    return -value if name == "speed" else value


def _falls_short(spread: Spread, preferences: Preferences) -> bool:
    """Whether it is known not to keep what the caller would rather have: each of the bounds."""
    for part, seconds in _bounds(preferences.preferred_max_latency):
        first_ms = at(spread.first_ms, part)
        if first_ms is not None and first_ms > seconds * 1000 * _EXACT:
            return True
    for part, least in _bounds(preferences.preferred_min_throughput):
        # p90 is what nine of ten answers are faster than.
        per_second = at(spread.per_second, 1 - part)
        if per_second is not None and per_second * _EXACT < least:
            return True
    return False


def _bounds(bound: float | Percentiles | None) -> list[tuple[float, float]]:
    """(part of all answers, bound on it); a number is one on the middle."""
    if bound is None:
        return []
    if not isinstance(bound, Percentiles):
        return [(0.5, bound)]
    given = ((0.5, bound.p50), (0.75, bound.p75), (0.9, bound.p90), (0.99, bound.p99))
    return [(part, limit) for part, limit in given if limit is not None]
