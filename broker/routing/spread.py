"""How figures of the last minutes are spread, for percentiles: counts in growing buckets; pure.

A bucket's figures are within 5 % of each other, so that a percentile is good to 2.5 %; what many
processes counted is added up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

_GROWTH = math.log(1.05)
Counts = Mapping[int, int]


class Spread(msgspec.Struct, frozen=True, array_like=True):
    """Of one model: milliseconds to the first token, and tokens per second, of each answer."""

    first_ms: Counts = {}
    per_second: Counts = {}


NOTHING = Spread()


def bucket(figure: float) -> int:
    """The number of the bucket of a figure above 0."""
    return round(math.log(figure) / _GROWTH)


def at(counts: Counts, part: float) -> float | None:
    """The figure that this part (0 to 1) of all does not exceed; None where there are none."""
    if not counts:
        return None
    left = max(1, math.ceil(part * sum(counts.values()) - 1e-9))
    for number in sorted(counts):
        left -= counts[number]
        if left <= 0:
            return math.exp(number * _GROWTH)
    return None


def together(spreads: Iterable[Spread]) -> Spread:
    """What several processes counted, as one."""
    first: Counter[int] = Counter()
    speed: Counter[int] = Counter()
    for spread in spreads:
        first.update(spread.first_ms)
        speed.update(spread.per_second)
    return Spread(first, speed)
