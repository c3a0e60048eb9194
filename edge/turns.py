"""The requests of one pool in an edge: whose turn it is, and how many may lie published.

JetStream is first come, first served, so fairness lives here. What workers have not taken yet is
kept short, and the rest waits in the edge and goes by deficit round robin between API keys. A key
that comes new into the round has its first turn at once, as flows of FQ-CoDel (RFC 8290) have.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

# A pool's slots times this may be launched, requests included that wait between two attempts.
LAUNCHED = 2
# The part of the stream that new requests may fill.
ADMITTED = 0.9
# When the slots are taken as much lies published as workers take in this time, and at least this
# part of what runs: a place that becomes free is filled from there while the edge publishes more.
REFILL_S = 0.05
LEAST_AHEAD = 1 / 8
# While slots are free it is what they take in this time: they may have slots that they cannot use,
# because a provider allows less.
BACKLOG_S = 0.5
# Cost that a key of weight 1 may launch in its turn. A request costs one, and one more for each so
# many tokens that it has and may get, up to a few.
QUANTUM = 1
MAX_COST = 8
COST_TOKENS = 8192
_TOKEN_BYTES = 4
# Requests by which a rate is known, those it takes to speak of one, and to refuse somebody for it.
_SEEN = 64
_FEW, _ENOUGH = 4, 16
# How far from what is expected a number of answers in a time is taken to be possible.
_SIGMAS = 2


def _nobody(_seconds: float) -> None:
    """Nobody wants to know."""


def cost(size: int, output_tokens: int) -> int:
    """The cost of a request of `size` bytes that asks for at most so many tokens; 0 = not said."""
    tokens = size // _TOKEN_BYTES + output_tokens
    return min(MAX_COST, 1 + max(0, tokens) // COST_TOKENS)


class Waiting(Protocol):
    """A request that may have to wait for its turn."""

    @property
    def key_id(self) -> str:
        """Whose turn it uses."""

    def launch(self) -> None:
        """Its turn has come: publish it."""


class _Line:
    """What one key has waiting: requests with their cost and the time they came."""

    __slots__ = ("cost", "deficit", "items", "weight")

    def __init__(self) -> None:
        # In order, and left from anywhere at no cost.
        self.items: OrderedDict[Waiting, tuple[int, float]] = OrderedDict()
        self.weight = 1
        self.deficit = 0
        self.cost = 0

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self.items)

    def within(self, turns: float) -> int:
        """How many are launched in so many turns."""
        if not self.items:
            return 0
        return min(self.count, int(turns * self.weight * self.count / self.cost))


class Rate:
    """How often something happens, by the last times that it did; rather too much."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def clear(self) -> None:
        """What was learnt holds no more."""
        self._times.clear()

    def note(self, now: float, most: int) -> None:
        """It happened now; the last `most` times are remembered."""
        self._times.append(now)
        while len(self._times) > most:
            self._times.popleft()

    def per_s(self, enough: int) -> float:
        """Times a second; 0 while it happened less than `enough` times, or all at once."""
        if len(self._times) < enough:
            return 0.0
        span = self._times[-1] - self._times[0]
        return len(self._times) / span if span > 0 else 0.0


class PoolQueue:
    """Requests of one pool: some launched, the rest waiting per key. Times are the loop's."""

    def __init__(self, waited: Callable[[float], None] = _nobody) -> None:
        """`waited` is told how long each request stood in line."""
        self._waited = waited
        self.slots = 0
        # Launched and not ended; and attempts of these that are published and not taken yet.
        self.launched = 0
        self.published = 0
        self.waiting = 0
        self._share = 1
        # In the order of turns.
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        # Attempts that workers took since some lie published all the time.
        self._taken = Rate()

    def resize(self, slots: int, edges: int, *, capacity: int, now: float) -> None:
        """The pool has `slots` in all, shared by `edges`; without any, one request is published.

        `capacity` is what the stream holds: admission leaves a tenth of it to what is published
        again (R13).
        """
        if slots != self.slots:
            self._taken.clear()
        self.slots = slots
        self._share = max(1, -(-min(slots, int(ADMITTED * capacity)) // edges))
        self._release(now)

    def free(self, key_id: str) -> bool:
        """Whether a request of this key that comes now is launched at once."""
        if not self.waiting:
            return self._may_launch()
        return key_id not in self._lines and self._has_place()

    def _has_place(self) -> bool:
        return self.published < self._share and self.launched < LAUNCHED * max(1, self.slots)

    def _may_launch(self) -> bool:
        if not self._has_place():
            return False
        rate = self._taken.per_s(_FEW)
        free = self.launched < self._share
        if free and not rate:
            return True
        least = math.ceil((self.launched - self.published) * LEAST_AHEAD)
        return self.published < max(1, least, int(rate * (BACKLOG_S if free else REFILL_S)))

    def launch(self, item: Waiting) -> None:
        """Launch a request past the line; for its key that is the turn of this round."""
        if self.waiting:
            self._lines[item.key_id] = _Line()
        self.launched += 1
        item.launch()

    def wait(self, item: Waiting, now: float, *, weight: int = 1, cost: int = 1) -> None:
        """Queue a request behind those of its key, which has `weight` among keys."""
        line = self._lines.get(item.key_id)
        if line is None:
            # First in the round, since it is new in it.
            line = self._lines[item.key_id] = _Line()
            self._lines.move_to_end(item.key_id, last=False)
        line.weight = weight
        line.items[item] = cost, now
        line.cost += cost
        self.waiting += 1

    def whole_wait(self) -> float:
        """Seconds until all that waits now is launched; 0 = nobody knows."""
        return self._seconds(self.waiting)

    def expected_wait(self, key_id: str) -> float:
        """Seconds until the turn of a request that this key adds now.

        0 while there is no line, or no rate that one could count on.
        """
        return self._seconds(self._before(key_id, 1)) if self.waiting else 0.0

    def least_wait(self, key_id: str) -> float:
        """Seconds that it has to wait at least, as good as certain.

        All slots may become free at once and now, its key may be the next one in the round, and of
        what is before it more than usual may be short.
        """
        before = self._before(key_id, 0)
        return self._seconds(max(0.0, before - self.slots - _SIGMAS * math.sqrt(before)))

    def _seconds(self, count: float) -> float:
        """How long workers need to take so many; 0 = nobody knows.

        A rate counts when all slots were free twice: those that were taken together become free
        together.
        """
        rate = self._taken.per_s(max(_ENOUGH, 2 * self.slots))
        return count / rate if rate else 0.0

    def _before(self, key_id: str, turns: float) -> int:
        """How many go before a request that this key adds now.

        Others have `turns` more turns than the key needs for what it has waiting.
        """
        line = self._lines.get(key_id)
        if line is not None:
            turns += line.cost / line.weight
        return sum(
            other.count if other is line else other.within(turns) for other in self._lines.values()
        )

    def waiting_of(self, key_id: str) -> int:
        """Requests of a key that wait here."""
        line = self._lines.get(key_id)
        return 0 if line is None else line.count

    def longest(self) -> int:
        """Requests of the key that has the most of them waiting here."""
        return max((line.count for line in self._lines.values()), default=0)

    def taken(self, now: float) -> None:
        """A worker took a published attempt, or it was withdrawn."""
        self.published -= 1
        self._taken.note(now, max(_SEEN, 3 * self.slots))
        self._release(now)
        if not self.published:
            # Workers wait for requests: how often one comes is not how fast they are.
            self._taken.clear()

    def vacate(self, now: float) -> None:
        """A launched request ended."""
        self.launched -= 1
        self._release(now)

    def forget(self, item: Waiting) -> None:
        """A request gave up before its turn."""
        line = self._lines.get(item.key_id)
        if line is not None and item in line.items:
            cost, _ = line.items.pop(item)
            line.cost -= cost
            self._one_less()

    def _one_less(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._lines.clear()

    def _release(self, now: float) -> None:
        while self.waiting and self._may_launch():
            item, since = self._next()
            self._one_less()
            self.launched += 1
            self._waited(now - since)
            item.launch()

    def _next(self) -> tuple[Waiting, float]:
        """Take the request whose turn it is out of its line; with the time that it came.

        A line stays when it is empty, until its next turn would come: else a key would be new again
        and again.
        """
        while True:
            key_id, line = next(iter(self._lines.items()))
            if not line.items:
                del self._lines[key_id]
                continue
            item, (cost, since) = next(iter(line.items.items()))
            if line.deficit < cost:
                line.deficit += QUANTUM * line.weight
            if line.deficit >= cost:
                break
            self._lines.move_to_end(key_id)
        del line.items[item]
        line.cost -= cost
        line.deficit = line.deficit - cost if line.items else 0
        if line.deficit < (next(iter(line.items.values()))[0] if line.items else 1):
            self._lines.move_to_end(key_id)
        return item, since
