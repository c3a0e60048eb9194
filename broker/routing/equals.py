"""Shares requests between candidates that are equally good, by weight, pace and load; pure.

Two are drawn by weight and pace, and load decides between them (power of two choices): the second
one goes first where a call would be over much sooner there, or only it has a free slot.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate

from broker.routing.candidates import Candidate
from broker.routing.world import World

# How much sooner a call has to be over elsewhere for that to count more than the weights; and how
# many in flight, at the lightest of the equals, are taken to make a call last twice as long.
_MUCH = 2.0
_FEW = 4.0
# A number from 0 to below 1.
Dice = Callable[[], float]


class Equals:
    """Ways to serve a request, of one or several candidates each: the first speaks for its way."""

    __slots__ = ("_chances", "_count", "_few", "_heads", "_paces", "_ways")

    def __init__(self, ways: Sequence[list[Candidate]]) -> None:
        self._ways = ways
        self._heads = heads = [way[0] for way in ways]
        self._count = sum(map(len, ways))
        if len(ways) < 2:
            return
        seen = [head.live.first_ms for head in heads if head.live.first_ms]
        # What nobody has seen lately counts as neither fast nor slow.
        usual = sum(seen) / len(seen) if seen else 1.0
        self._paces = [head.live.first_ms or usual for head in heads]
        pairs = zip(heads, self._paces, strict=True)
        self._chances = list(accumulate(head.weight / pace for head, pace in pairs))
        # What a provider has in flight is that of all its models here.
        shares: dict[str, float] = {}
        for head in heads:
            shares[head.provider] = shares.get(head.provider, 0.0) + head.weight
        lightest = min(shares.values())
        self._few = [_FEW * shares[head.provider] / lightest for head in heads]

    def drawn(self, world: World, dice: Dice, *, balanced: bool) -> list[Candidate]:
        """All of them, in the order in which they are tried; `balanced`: load counts as well."""
        ways = self._ways
        if len(ways) < 2:
            return ways[0]
        first = self._draw(dice() * self._chances[-1])
        if not balanced:
            # The others in turn, from a place that changes as well.
            if len(self._heads) == self._count:
                return self._heads[first:] + self._heads[:first]
            return [candidate for way in (*ways[first:], *ways[:first]) for candidate in way]
        other = self._another(first, dice)
        if self._worse(world, first, other):
            first, other = other, first
        rest = [n for n in (*range(other, len(ways)), *range(other)) if n not in {first, other}]
        return [candidate for n in (first, other, *rest) for candidate in ways[n]]

    def _draw(self, point: float) -> int:
        return min(bisect(self._chances, point), len(self._chances) - 1)

    def _another(self, first: int, dice: Dice) -> int:
        """One that is not the first, by its chance."""
        chances = self._chances
        before = chances[first - 1] if first else 0.0
        own = chances[first] - before
        point = dice() * (chances[-1] - own)
        other = self._draw(point + own if point >= before else point)
        return other if other != first else (first + 1) % len(chances)

    def _worse(self, world: World, first: int, other: int) -> bool:
        full, takes = self._joining(world, first)
        other_full, other_takes = self._joining(world, other)
        return full > other_full or (full == other_full and takes > other_takes * _MUCH)

    def _joining(self, world: World, number: int) -> tuple[bool, float]:
        """Whether no slot is free there, and how long a call would take that joins the others."""
        target = self._heads[number].target
        live = world.state(target.provider, target.model)
        takes = self._paces[number] * (1 + live.busy / self._few[number])
        return 0 < live.slots <= live.busy, takes
