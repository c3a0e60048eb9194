"""Which candidate is tried first: what the caller asked for, then price and load; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from broker.routing.candidates import Candidate
from broker.routing.filters import metric
from broker.routing.preferences import Percentiles, Preferences, named
from broker.routing.world import Ask, Live

# Values this close count as equal, and load decides.
_NEAR = 1.05
_first = itemgetter(0)
# A number from 0 to below 1.
Dice = Callable[[], float]
# What `provider.sort` sorts by -> the metric, of `names.METRICS`; "price" is the sum of two.
_SORTS = {"latency": "ttft", "throughput": "speed"}
PRICE = "price"


def rank(found: Iterable[Candidate], ask: Ask, dice: Dice) -> list[Candidate]:
    """The candidates, best first. Those whose breaker is open come last."""
    preferences = ask.preferences
    across = preferences.across
    groups: dict[int, list[Candidate]] = {}
    for candidate in found:
        groups.setdefault(0 if across else candidate.rank, []).append(candidate)
    ordered = [c for _, group in sorted(groups.items()) for c in _sorted(group, preferences, dice)]
    if any(candidate.live.resting for candidate in ordered):
        ordered.sort(key=lambda candidate: candidate.live.resting)
    return ordered


def strategy(candidate: Candidate, preferences: Preferences) -> str:
    """What its group is sorted by."""
    return candidate.wish.metric or candidate.wish.sort or preferences.by or PRICE


def _sorted(group: list[Candidate], preferences: Preferences, dice: Dice) -> list[Candidate]:
    tiers: list[list[Candidate]] = []
    for same in _by_preference(group, preferences):
        tiers += _tiers(same, preferences)
    return [candidate for equals in tiers for candidate in _balanced(equals, dice)]


def _by_preference(group: list[Candidate], preferences: Preferences) -> list[list[Candidate]]:
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
        return placed, _falls_short(candidate.live, preferences)

    return [list(same) for _, same in groupby(sorted(group, key=place), key=place)]


def _tiers(group: Sequence[Candidate], preferences: Preferences) -> list[list[Candidate]]:
    """Groups of nearly equal value, best first; what is not known comes last."""
    if len(group) == 1:
        return [list(group)]
    by = strategy(group[0], preferences)
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


def _falls_short(live: Live, preferences: Preferences) -> bool:
    """Whether it is known not to keep what the caller would rather have."""
    least = _figure(preferences.preferred_min_throughput)
    most = _figure(preferences.preferred_max_latency)
    slow = least is not None and 0 < live.per_second < least
    return slow or (most is not None and live.first_ms > most * 1000)


def _figure(bound: float | Percentiles | None) -> float | None:
    """The bound on the middle; where only higher percentiles are bounded, the tightest of those."""
    if not isinstance(bound, Percentiles):
        return bound
    return next((x for x in (bound.p50, bound.p75, bound.p90, bound.p99) if x is not None), None)


def _balanced(equals: list[Candidate], dice: Dice) -> list[Candidate]:
    """Two picked by weight, the less loaded of them first, until all are placed."""
    if len(equals) == 1:
        return equals
    left, placed = list(equals), []
    while len(left) > 1:
        one = _drawn(left, dice)
        other = _drawn([candidate for candidate in left if candidate is not one], dice)
        first = min(one, other, key=_load)
        left.remove(first)
        placed.append(first)
    return placed + left


def _drawn(candidates: Sequence[Candidate], dice: Dice) -> Candidate:
    point = dice() * sum(candidate.weight for candidate in candidates)
    for candidate in candidates:
        point -= candidate.weight
        if point < 0:
            return candidate
    return candidates[-1]


def _load(candidate: Candidate) -> float:
    """Peak EWMA: how long a call would take that joins those in flight, for its weight."""
    live = candidate.live
    return max(live.first_ms, 1.0) * (live.busy + 1) / max(live.slots, 1) / candidate.weight
