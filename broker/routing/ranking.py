"""Which candidate is tried first: what the caller asked for, then price and load; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from broker.routing.candidates import NO_ALIAS, Candidate
from broker.routing.filters import metric
from broker.routing.preferences import Percentiles, Preferences, named
from broker.routing.spread import Spread, at
from broker.routing.world import Ask, World

# Values this close count as equal, and load decides.
_NEAR = 1.05
# How much sooner a call has to be over elsewhere for that to count more than the weights; and how
# many in flight, at the lightest of the equals, are taken to make a call last twice as long.
_MUCH = 2.0
_FEW = 4.0
# How far off a percentile may be.
_EXACT = 1.025
_first = itemgetter(0)
# A number from 0 to below 1.
Dice = Callable[[], float]
# What `provider.sort` sorts by -> the metric, of `names.METRICS`; "price" is the sum of two.
_SORTS = {"latency": "ttft", "throughput": "speed"}
PRICE = "price"
WEIGHTS = "weights"


def rank(found: Iterable[Candidate], ask: Ask, world: World, dice: Dice) -> list[Candidate]:
    """The candidates, best first. Those whose breaker is open come last."""
    preferences = ask.preferences
    across = preferences.across
    groups: dict[int, list[Candidate]] = {}
    for candidate in found:
        groups.setdefault(0 if across else candidate.rank, []).append(candidate)
    ordered = [
        c for _, group in sorted(groups.items()) for c in _sorted(group, preferences, world, dice)
    ]
    if any(candidate.live.resting for candidate in ordered):
        ordered.sort(key=lambda candidate: candidate.live.resting)
    return ordered


def strategy(candidate: Candidate, preferences: Preferences) -> str:
    """What its group is sorted by."""
    asked = candidate.wish.metric or candidate.wish.sort or preferences.by
    return asked or (PRICE if candidate.deployment == NO_ALIAS else WEIGHTS)


def _sorted(
    group: list[Candidate], preferences: Preferences, world: World, dice: Dice
) -> list[Candidate]:
    placed: list[Candidate] = []
    for same in _by_preference(group, preferences, world):
        if strategy(same[0], preferences) == WEIGHTS:
            ways: dict[int, list[Candidate]] = {}
            for candidate in same:
                ways.setdefault(candidate.deployment, []).append(candidate)
            placed += _balanced([_by_value(way, PRICE, dice) for way in ways.values()], dice)
        else:
            placed += _by_value(same, strategy(same[0], preferences), dice)
    return placed


def _by_value(group: list[Candidate], by: str, dice: Dice) -> list[Candidate]:
    if len(group) == 1:
        return group
    return [
        candidate
        for equals in _tiers(group, by)
        for candidate in (_balanced([[c] for c in equals], dice) if len(equals) > 1 else equals)
    ]


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


def _balanced(equals: list[list[Candidate]], dice: Dice) -> list[Candidate]:
    """Equals in the order in which they are tried; each may be several candidates, best first.

    They are drawn by their weights and speeds; and of each two that follow each other the second
    one goes first where a call would be over much sooner there, or only it has a free slot.
    """
    seen = [first_ms for one in equals if (first_ms := one[0].live.first_ms)]
    # What nobody has seen lately counts as neither fast nor slow.
    usual = sum(seen) / len(seen) if seen else 1.0
    of_provider: dict[str, float] = {}
    for one in equals:
        head = one[0]
        of_provider[head.provider] = of_provider.get(head.provider, 0.0) + head.weight
    lightest = min(of_provider.values())
    drawn = []
    for one in equals:
        head = one[0]
        live = head.live
        pace = live.first_ms or usual
        # Drawing without putting back, by weight / pace (Efraimidis and Spirakis).
        place = -math.log(1.0 - dice()) * pace / head.weight
        share = of_provider[head.provider] / lightest
        takes = pace * (1 + live.busy / (_FEW * share))
        drawn.append((place, 0 < live.slots <= live.busy, takes, one))
    drawn.sort(key=_first)
    for n in range(len(drawn) - 1):
        (_, full, takes, _), (_, other_full, other_takes, _) = drawn[n], drawn[n + 1]
        if full > other_full or (full == other_full and takes > other_takes * _MUCH):
            drawn[n], drawn[n + 1] = drawn[n + 1], drawn[n]
    return [candidate for _, _, _, one in drawn for candidate in one]
