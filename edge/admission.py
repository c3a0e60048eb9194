"""Which requests an edge accepts, and when each is published: bounds, turns and places by pool.

What is refused is refused at once and told when to come back. What was accepted stays accepted:
attempts that follow pass no admission (R13).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Protocol

from broker.bus.layout import MAX_QUEUED_PER_SUBJECT
from broker.config import Limits
from broker.errors import InferenceError, refused
from broker.keys import KeyRecord
from broker.routing import Target
from broker.routing.world import Live
from broker.telemetry import Metrics
from edge import turns
from edge.turns import PoolQueue, Waiting

# Of an estimated wait, the part that is believed: rates change, and nobody shall be refused who
# would have been answered.
BELIEVED = 0.7
# Answers among which the fastest of a model is looked for, and models of which it is known.
_ANSWERS = 32
_MODELS = 1000
_LONGEST_RETRY_S = 60.0


class Entrant(Waiting, Protocol):
    """A request that wants to be accepted."""

    @property
    def key(self) -> KeyRecord: ...

    @property
    def raw(self) -> bytes:
        """What it asks, encoded."""

    @property
    def output_tokens(self) -> int:
        """The most it asks for; 0 = it does not say."""

    @property
    def deadline(self) -> float:
        """When it has to be finished, by the loop's clock."""


class HedgeBudget:
    """Hedges that an edge may still make: one for ten accepted requests, ten at most.

    So hedging never adds more than a tenth to the load.
    """

    _PER_REQUEST = 0.1
    _MOST = 10.0

    def __init__(self) -> None:
        self._left = self._MOST

    def earn(self) -> None:
        """A request was accepted."""
        self._left = min(self._left + self._PER_REQUEST, self._MOST)

    def spend(self) -> bool:
        """Whether there is enough for a hedge, which is then spent."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Admission:
    """See the module. Keeps a queue for each (provider, pool); `now` is the loop's time."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._queues: dict[tuple[str, str], PoolQueue] = {}
        self._pools: dict[str, list[PoolQueue]] = {}  # the same, by provider
        # Seconds from being published to the end, of the last answers of a model.
        self._took: dict[tuple[str, str], deque[float]] = {}
        self._hedges = HedgeBudget()
        counter = metrics.counter(
            "refused", "Requests refused at admission, by what there was too much of.", "why"
        )
        self.refused = counter.add
        self._waited = metrics.histogram(
            "queue_wait_seconds", "How long requests waited in this edge that had to.", "provider"
        )
        self._hedged = metrics.counter(
            "hedges", "Second attempts beside slow ones, by how they went.", "outcome"
        )
        metrics.gauge(
            "queue_waiting",
            "Requests waiting in this edge: of the key with the most of them, and of the others.",
            lambda: dict(self._readings()),
            *("provider", "pool", "keys"),
        )

    def of(self, target: Target) -> PoolQueue:
        """The queue of a target's pool."""
        return self._queues.get((target.provider, target.pool)) or self._queue(
            target.provider, target.pool
        )

    def enter(self, item: Entrant, target: Target, *, now: float, accepted: bool) -> None:
        """Launch or queue. Raises queue_full, but not for a part of what was `accepted`."""
        queue = self.of(target)
        free = queue.free(item.key_id)
        if not (free or accepted):
            self._check(item, target, queue, now)
        self._hedges.earn()
        self._queue_up(item, queue, now, free=free)

    def move(self, item: Entrant, old: Target, new: Target, *, now: float, launched: bool) -> None:
        """An accepted request goes on elsewhere, in its key's turn; its old place is free.

        Not `launched` it still waited for its turn there.
        """
        if launched:
            self.of(old).vacate(now)
        else:
            self.of(old).forget(item)
        queue = self.of(new)
        self._queue_up(item, queue, now, free=queue.free(item.key_id))

    @staticmethod
    def _queue_up(item: Entrant, queue: PoolQueue, now: float, *, free: bool) -> None:
        if free:
            queue.launch(item)
            return
        price = turns.cost(len(item.raw), item.output_tokens)
        queue.wait(item, now, weight=item.key.weight, cost=price)

    def hedge(self, target: Target, live: Live) -> bool:
        """Whether a second attempt may run at `target` now: it then has a place there.

        Only where it fits beside all that runs and waits, so that it takes nobody's turn.
        """
        queue = self.of(target)
        if queue.waiting or live.resting or live.busy >= live.slots or not self._hedges.spend():
            return False
        queue.launched += 1
        return True

    def hedged(self, free: Target, outcome: str, now: float) -> None:
        """How a second attempt went; the place of one of the two is free."""
        self._hedged.add(outcome)
        self.of(free).vacate(now)

    def resize(self, slots: Mapping[tuple[str, str], int], edges: int, *, now: float) -> None:
        """The slots of every pool, which so many edges share."""
        for place, count in slots.items():
            queue = self._queues.get(place) or self._queue(*place)
            queue.resize(count, edges, capacity=MAX_QUEUED_PER_SUBJECT, now=now)

    def answered(self, target: Target, took: float) -> None:
        """A model gave a whole answer `took` seconds after it was asked."""
        model = target.provider, target.model
        seen = self._took.get(model)
        if seen is None:
            if len(self._took) >= _MODELS:
                self._took.clear()  # names are the callers': else they would fill the memory
            seen = self._took[model] = deque(maxlen=_ANSWERS)
        seen.append(took)

    def waiting(self) -> int:
        """Requests waiting in this edge."""
        return sum(queue.waiting for queue in self._queues.values())

    def published(self) -> int:
        """Attempts that were published and not taken yet."""
        return sum(queue.published for queue in self._queues.values())

    def work(self, provider: str) -> int:
        """Requests of this edge that wait for a provider or run there."""
        return sum(queue.launched + queue.waiting for queue in self._pools.get(provider, ()))

    def _check(self, item: Entrant, target: Target, queue: PoolQueue, now: float) -> None:
        most = self._limits.queue_size
        of_key = math.ceil(most * self._limits.share_per_key)
        wait = queue.whole_wait()
        if self.waiting() >= most:
            message = f"{most} requests wait here already, the most that may"
            raise self._refusal("queue", message, wait)
        if sum(queue.waiting_of(item.key_id) for queue in self._queues.values()) >= of_key:
            message = f"{of_key} requests of this API key wait here already, the most that may"
            raise self._refusal("key", message, wait)
        left = item.deadline - now
        if not wait or wait + self._fastest(target) <= left:
            return  # even behind all of them: what follows looks at every key that waits
        wait = queue.expected_wait(item.key_id)
        least = queue.least_wait(item.key_id) * BELIEVED
        if least and least + self._fastest(target) > left:
            message = (
                f"a request would wait about {wait:.0f} s for its turn now, more than this one's "
                f"deadline allows, which is in {left:.0f} s"
            )
            raise self._refusal("deadline", message, wait - left)

    def _refusal(self, why: str, message: str, wait: float) -> InferenceError:
        self.refused(why)
        message = f"{message}; retry later or lower the request rate"
        return refused(why, message, max(1.0, min(wait, _LONGEST_RETRY_S)))

    def _fastest(self, target: Target) -> float:
        """Seconds that the fastest of a model's last answers took; 0 while too few came."""
        seen = self._took.get((target.provider, target.model), ())
        return min(seen) if len(seen) == _ANSWERS else 0.0

    def _queue(self, provider: str, pool: str) -> PoolQueue:
        queue = PoolQueue(partial(self._has_waited, provider))
        self._queues[provider, pool] = queue
        self._pools.setdefault(provider, []).append(queue)
        return queue

    def _has_waited(self, provider: str, seconds: float) -> None:
        self._waited.observe(seconds, provider)

    def _readings(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for place, queue in self._queues.items():
            longest = queue.longest()
            yield (*place, "longest"), longest
            yield (*place, "others"), queue.waiting - longest
