"""The edge's bounded fair queue: JetStream is first come, first served, so fairness lives here.

An edge publishes at most its share of twice a pool's slots and holds the rest; what it holds it
releases by deficit round robin between API keys.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from broker.errors import InferenceError

# Slots of work that lie published ahead of the workers.
AHEAD = 2
# The part of the queue that new requests may fill.
ADMITTED = 0.9
# Released per turn and key; a request costs one.
QUANTUM = 1
# Weight of the newest observation in the pool's rate of completions.
_SMOOTHING = 0.2


class Waiting(Protocol):
    """A request that may have to wait for its turn."""

    @property
    def key_id(self) -> str:
        """Whose turn it uses."""

    @property
    def deadline(self) -> float:
        """When it has to be finished, by the loop's clock."""

    def launch(self) -> None:
        """Its turn has come: publish it."""


class PoolQueue:
    """Requests of one pool: some launched, the rest waiting per key."""

    def __init__(self) -> None:
        self.window = AHEAD
        self.outstanding = 0
        self.waiting = 0
        # In order both of turns and within a key, and left from anywhere at no cost.
        self._keys: OrderedDict[str, OrderedDict[Waiting, None]] = OrderedDict()
        self._deficit: dict[str, int] = {}
        self._interval = 0.0
        self._last_end = 0.0

    def resize(self, slots: int, edges: int, *, capacity: int) -> None:
        """The pool has `slots` in all, shared by `edges`; 0 slots keeps a little in the queue.

        `capacity` is what the queue holds: admission leaves a tenth of it to re-publishes (R13).
        """
        ahead = min(AHEAD * slots, int(ADMITTED * capacity))
        self.window = max(AHEAD, -(-ahead // edges))
        self._release()

    def enter(self, item: Waiting, *, now: float, room: int) -> None:
        """Launch or queue. Raises queue_full when there is no `room` or no time."""
        if self.outstanding < self.window and not self.waiting:
            self.outstanding += 1
            item.launch()
            return
        expected = self.expected_wait()
        if room <= 0:
            raise InferenceError(
                "queue_full",
                "the queue is full; retry later or lower the request rate",
                retry_after=max(1.0, min(expected, 60.0)),
            )
        if now + expected > item.deadline:
            raise InferenceError(
                "queue_full",
                f"about {expected:.0f} s of work is queued ahead, more than this request's "
                "deadline allows; retry later or allow more time",
                retry_after=max(1.0, min(expected, 60.0)),
            )
        if not self.waiting:
            # What was learnt before the pool had a queue says nothing about it now.
            self._interval = 0.0
            self._last_end = now
        self._keys.setdefault(item.key_id, OrderedDict())[item] = None
        self.waiting += 1

    def expected_wait(self) -> float:
        """Seconds until a request that enters now is launched, by the recent rate."""
        return (self.waiting + 1) * self._interval if self.waiting else 0.0

    def vacate(self, now: float) -> None:
        """A launched request ended: learn the rate, release the next."""
        self.outstanding -= 1
        if self.waiting:
            self._interval += _SMOOTHING * (now - self._last_end - self._interval)
            self._last_end = now
        self._release()

    def forget(self, item: Waiting) -> None:
        """A request gave up before its turn."""
        queue = self._keys.get(item.key_id)
        if queue is not None and item in queue:
            del queue[item]
            self.waiting -= 1
            if not queue:
                self._drop(item.key_id)

    def _release(self) -> None:
        while self.waiting and self.outstanding < self.window:
            key, queue = next(iter(self._keys.items()))
            if self._deficit.get(key, 0) < 1:
                self._deficit[key] = self._deficit.get(key, 0) + QUANTUM
            item, _ = queue.popitem(last=False)
            self._deficit[key] -= 1
            self.waiting -= 1
            self.outstanding += 1
            if not queue:
                self._drop(key)
            elif self._deficit[key] < 1:
                self._keys.move_to_end(key)
            item.launch()

    def _drop(self, key: str) -> None:
        self._keys.pop(key, None)
        self._deficit.pop(key, None)
