"""One place of a worker's gate: its share, what is under way, who waits and what was seen.

Times are seconds of one monotonic clock, and come in as arguments.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Mapping

from broker import subjects
from broker.capacity import LONGEST_REST_S, Seen, Share
from workers.quotas import Quotas

# Who comes first.
ORDER = (subjects.INTERACTIVE, subjects.BACKGROUND, subjects.BATCH)
NO_LIMIT = Share()
# What this worker has guessed holds until the leader knows better, or for so long.
_GUESS_S = 5.0
# What nobody used is saved up for so long; and where calls wait for it and this process was late.
_SAVED_S, _LATE_S = 0.03, 0.1
# A job that goes back comes again after so long at least, and at most: those that do come one by
# one, as fast as calls begin here, no further apart than this, and not at once with others'.
_AGAIN_S, _LATEST_S, _APART_S, _SPREAD_S = 0.05, 1.0, 0.1, 0.1
# Part of the newest call in what calls use on average, in tokens.
_NEWEST = 0.2


class Place:
    """One key and model: its share, what is under way and what was seen since the last report.

    While anything limits it, it is one of `limited`.
    """

    def __init__(
        self,
        key: str,
        model: str,
        share: Share,
        *,
        reserve: float,
        now: float,
        limited: set[Place],
    ) -> None:
        self.key = key
        self.model = model
        self.share = share
        self.quotas = Quotas()
        self.running = self.durable = 0
        self.rest_until = 0.0
        self.queues: dict[str, deque[asyncio.Future[None]]] = {lane: deque() for lane in ORDER}
        # Lines that wait outside, by model.
        self.outside: Mapping[str, int] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.used_at, self.read_at = now, 0.0
        # By lane: what is kept for lanes that come before it.
        self._reserve = reserve
        self._guess, self._guess_until = math.inf, 0.0
        self._level = 1.0
        self._tokens = 0.0
        self._refilled = 0.0
        self.mean_tokens = 0.0
        # Calls that began in the last second or so, and when the last job comes that went back.
        self._pace = self._again_at = 0.0
        self._limited = limited
        self.bound()
        self.clear(now)

    def clear(self, now: float) -> None:
        """Begin the next report."""
        self.peak = self.started = self.answered = self.limited = self.spent = 0
        self.answered_s = self.used_tokens = self.rest_news = self.back_s = 0.0
        self._cleared_at = now

    def bound(self) -> None:
        """Note whether anything limits this place."""
        self.free_of_limits = (
            self.share == NO_LIMIT and not self.rest_until and self._guess == math.inf
        )
        (self._limited.discard if self.free_of_limits else self._limited.add)(self)

    @property
    def lines(self) -> int:
        """Lines of this model that wait outside, for whatever reason."""
        return self.outside.get(self.model, 0)

    @property
    def waiting(self) -> int:
        """Who waits for this place."""
        return sum(map(len, self.queues.values())) + (0 if self.free_of_limits else self.lines)

    def before(self, lane: str) -> int:
        """How many wait here who go before a job of this lane that comes now."""
        return sum(len(self.queues[one]) for one in ORDER[: ORDER.index(lane) + 1])

    def room(self, lane: str, now: float) -> float:
        """How many calls of a lane may begin now."""
        self._refill(now)
        share, room = self.share, self.slots - self.running
        if lane != subjects.INTERACTIVE and share.durable is not None:
            room = min(room, share.durable - self.durable)
        if share.rate is not None:
            room = min(room, self._level)
        return max(0.0, room)

    def pace(self, now: float) -> float:
        """How many calls began in the last second or so, while anything limited them."""
        return self._pace * math.exp(self.used_at - now)

    @property
    def slots(self) -> float:
        """Calls at a time; infinite = no limit."""
        return min(math.inf if self.share.slots is None else self.share.slots, self._guess)

    def wait_s(self, lane: str, now: float) -> float:
        """Seconds until a call may begin: 0 = now, infinite = when another one ends."""
        if self.free_of_limits:
            return 0.0
        self._refill(now)
        if self.rest_until > now:
            return self.rest_until - now
        share, kept = self.share, 0.0
        if self.running >= self.slots:
            return math.inf
        if lane != subjects.INTERACTIVE:
            if share.durable is not None and self.durable >= share.durable:
                return math.inf
            kept = self._reserve
        wait = 0.0
        if share.rate is not None and (lacking := 1 + kept - self._level) > 0:
            wait = lacking / max(share.rate, 1e-6)
        if share.tokens is not None and (owed := kept * share.tokens * _SAVED_S - self._tokens) > 0:
            wait = max(wait, owed / max(share.tokens, 1e-6))
        return wait

    def begin(self, lane: str, now: float) -> None:
        before, self.used_at = self.used_at, now
        self.running += 1
        self.started += 1
        self.durable += lane != subjects.INTERACTIVE
        if not self.free_of_limits:
            self._pace = self._pace * math.exp(before - now) + 1
            self._level -= 1
            self._tokens -= self.mean_tokens

    def end(self, lane: str) -> None:
        self.running -= 1
        self.durable -= lane != subjects.INTERACTIVE

    def give_back(self) -> None:
        """A call that began was never made."""
        self.started -= 1
        self._level += 1
        self._tokens += self.mean_tokens

    def send_back(self, now: float, rest_s: float = 0.0) -> float:
        """Seconds until a job may come again that has no room here, after a rest if there is one.

        The more there are the later: a long queue would else go round and round.
        """
        pace = self.pace(now)
        soonest = now + rest_s + _AGAIN_S
        again_at = max(self._again_at, soonest) + min(1 / max(pace, 1e-9), _APART_S)
        self._again_at = min(again_at, soonest + _LATEST_S)
        delay_s = self._again_at - now + random.uniform(0, _SPREAD_S)
        self.back_s += delay_s
        return delay_s

    def settle(self, tokens: float) -> None:
        """A call used so many tokens."""
        self.used_tokens += tokens
        self._tokens -= tokens - self.mean_tokens
        self.mean_tokens += (tokens - self.mean_tokens) * _NEWEST

    def guess(self, now: float) -> None:
        """A call was refused, and nobody has said yet how many are not."""
        if self.share.slots is None:
            self._guess = max(1, self.running - 1)
            self._guess_until = now + _GUESS_S

    def rest(self, seconds: float, now: float) -> None:
        self.rest_until = max(self.rest_until, now + min(seconds, LONGEST_REST_S))
        self._level = min(self._level, 1.0)
        self.bound()

    def told(self, share: Share) -> None:
        self.share = share
        self._guess = math.inf
        if share.tokens is None:
            self._tokens = 0.0
        self.bound()

    def _refill(self, now: float) -> None:
        passed, self._refilled = now - self._refilled, now
        if self.rest_until > now:
            return  # nothing is saved up meanwhile
        saved_s = _LATE_S if self.waiting else _SAVED_S
        if self.share.rate is not None:
            most = 1.0 + self._reserve + self.share.rate * saved_s
            self._level = min(most, self._level + passed * self.share.rate)
        if self.share.tokens is not None:
            most = max(self.share.tokens * saved_s, self.mean_tokens)
            self._tokens = min(most, self._tokens + passed * self.share.tokens)
        if self._guess_until and now > self._guess_until:
            self._guess, self._guess_until = math.inf, 0.0
            self.bound()
        if self.rest_until and now >= self.rest_until:
            self.rest_until = 0.0
            self.bound()

    @property
    def eventful(self) -> bool:
        """Whether there is anything to report."""
        return bool(
            self.started
            or self.running
            or self.waiting
            or self.back_s
            or self.limited
            or self.rest_news
        )

    def seen(self, now: float) -> Seen:
        """What to report."""
        back = math.ceil(self.back_s / max(now - self._cleared_at, 0.1))
        durable = sum(len(self.queues[lane]) for lane in ORDER[1:])
        return Seen(
            self.key,
            self.model,
            running=self.running,
            peak=max(self.peak, self.running if not self.limited else 0),
            waiting=self.waiting + back,
            durable=self.durable + durable + (0 if self.free_of_limits else self.lines),
            started=self.started,
            answered=self.answered,
            answered_s=round(self.answered_s, 4),
            limited=self.limited,
            spent=self.spent,
            tokens=self.used_tokens,
            rest_s=round(self.rest_news, 3),
            quotas=self.quotas.news(),
        )
