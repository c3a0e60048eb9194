"""A fleet and a provider that exist on paper alone: time goes in steps, and nothing else happens."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from dataclasses import dataclass, field

from msgspec.structs import replace

from broker.allocator import Allocator
from broker.capacity import Member, Report, Seen, Share
from broker.limits import Configured, Quota

_STEP_S = 0.005
_REFUSED_S = 0.01
# Between an urgent report and what comes of it.
_SOON_S = 0.1
KEY, MODEL = "k", "m"


@dataclass
class Provider:
    """Allows so many calls at a time, and so many in any second."""

    open: int
    rate: int
    answer_s: float
    advertises: bool = False
    retry_after_s: float = 0.0
    now_open: int = 0
    begun: deque[float] = field(default_factory=deque)

    def takes(self, now: float) -> bool:
        while self.begun and self.begun[0] <= now - 1:
            self.begun.popleft()
        if self.now_open >= self.open or len(self.begun) >= self.rate:
            return False
        self.now_open += 1
        self.begun.append(now)
        return True

    def quotas(self) -> tuple[Quota, ...]:
        if not self.advertises:
            return ()
        left = max(0, self.rate - len(self.begun))
        return Quota("requests", self.rate, left, 1.0), Quota("concurrent", self.open, 0, 0.0)


@dataclass
class Worker:
    name: str
    slots: int = 64
    share: Share = field(default_factory=Share)
    running: int = 0
    peak: int = 0
    held: bool = False
    guess: int | None = None
    level: float = 0.0
    rests_until: float = 0.0
    told_at: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    answered_s: float = 0.0
    quotas: tuple[Quota, ...] = ()

    def may(self, now: float) -> bool:
        share, most = self.share, self.slots
        if share.slots is not None:
            most = min(most, share.slots)
        elif self.guess is not None:
            most = min(most, self.guess)
        enough = share.rate is None or self.level >= 1
        self.held = self.running >= most or now < self.rests_until or not enough
        return not self.held

    def passes(self) -> None:
        if (rate := self.share.rate) is not None:
            most = max(1.0, rate * (0.1 if self.held else 0.02))
            self.level = min(most, self.level + rate * _STEP_S)

    def report(self, now: float) -> Report:
        seen = Seen(
            KEY,
            MODEL,
            running=self.running,
            peak=self.peak,
            waiting=2 if self.held else 0,
            started=self.counts["started"],
            answered=self.counts["answered"],
            answered_s=self.answered_s,
            limited=self.counts["limited"],
            spent=self.counts["spent"],
            rest_s=max(0.0, self.rests_until - now) if self.counts["rests"] else 0.0,
            quotas=self.quotas,
        )
        report = Report(self.name, "p", now - self.told_at, (seen,))
        self.counts.clear()
        self.answered_s, self.peak, self.quotas, self.told_at = 0.0, 0, (), now
        return report


@dataclass
class Fleet:
    provider: Provider
    workers: int = 10
    limits: Configured | None = None
    total: int = 10_000
    # By second: calls and refusals.
    calls: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    now: float = 0.0
    answered: int = 0

    def run(self, longest_s: float = 90.0) -> None:
        dice = random.Random(1)
        allocator = Allocator(1)
        fleet = [Worker(str(number)) for number in range(self.workers)]
        if self.limits is not None:  # known before anybody begins
            first = Member("", "p", 64, (KEY,), self.limits)
            mates = [replace(first, worker=worker.name) for worker in fleet]
            (told,) = Allocator(1).tick(mates, 0.0)
            for worker in fleet:
                worker.share = told.shares[worker.name]
        members = [Member(w.name, "p", w.slots, (KEY,), self.limits) for w in fleet]
        ends: list[tuple[float, int, bool, float]] = []
        again: list[float] = []
        left, ticks, soon, news = self.total, 1.0, 0.0, False
        due = {worker.name: dice.random() for worker in fleet}
        while self.now < longest_s and self.answered < self.total:
            self.now = now = self.now + _STEP_S
            while again and again[0] <= now:
                heapq.heappop(again)
                left += 1
            while ends and ends[0][0] <= now:
                _, number, taken, took = heapq.heappop(ends)
                news |= not self._ended(fleet[number], taken, took)
                if not taken:
                    heapq.heappush(again, now + (self.provider.retry_after_s or 0.5))
            for worker in fleet:
                worker.passes()
            going = True
            while going and left:
                going = False
                for number in dice.sample(range(self.workers), self.workers):
                    if left and fleet[number].may(now):
                        going, left = True, left - 1
                        heapq.heappush(ends, self._begun(fleet[number], number, dice))
            for worker in fleet:
                urgent = worker.counts["limited"] and now - worker.told_at > _SOON_S
                if now >= due[worker.name] or urgent:
                    due[worker.name] += now >= due[worker.name]
                    allocator.take(worker.report(now), now)
            if now >= ticks or (news and now >= soon):
                whole = now >= ticks
                ticks += whole
                soon, news = now + _SOON_S, False
                self._tell(allocator, members, fleet, adapt=whole)

    def _begun(
        self, worker: Worker, number: int, dice: random.Random
    ) -> tuple[float, int, bool, float]:
        self.calls[int(self.now)] += 1
        worker.running += 1
        worker.level -= worker.share.rate is not None
        worker.counts["started"] += 1
        taken = self.provider.takes(self.now)
        worker.quotas = self.provider.quotas()
        took = self.provider.answer_s * dice.uniform(0.8, 1.2) if taken else _REFUSED_S
        return self.now + took, number, taken, took

    def _ended(self, worker: Worker, taken: bool, took: float) -> bool:
        if taken:
            worker.peak = max(worker.peak, worker.running)
            worker.counts["answered"] += 1
            worker.answered_s += took
            self.provider.now_open -= 1
            self.answered += 1
        else:
            self.refused[int(self.now)] += 1
            worker.counts["limited"] += 1
            worker.guess = max(1, worker.running - 1)
            spent = self.provider.advertises and len(self.provider.begun) >= self.provider.rate
            worker.counts["spent"] += spent
            rest = self.provider.retry_after_s or (0.05 if spent else 0.2)
            worker.rests_until = max(worker.rests_until, self.now + rest)
            worker.level = min(worker.level, 1.0)
            worker.counts["rests"] += bool(self.provider.retry_after_s)
        worker.running -= 1
        return taken

    def _tell(
        self, allocator: Allocator, members: list[Member], fleet: list[Worker], *, adapt: bool
    ) -> None:
        for told in allocator.tick(members, self.now, adapt=adapt):
            for worker in fleet:
                worker.share = told.shares.get(worker.name, Share())
                if told.rest_s:
                    worker.rests_until = max(worker.rests_until, self.now + told.rest_s)

    def refused_after(self, second: int) -> float:
        """The part of the calls that was refused from then on."""
        calls = sum(count for at, count in self.calls.items() if at >= second)
        refused = sum(count for at, count in self.refused.items() if at >= second)
        return refused / max(1, calls)

    def used(self) -> float:
        """What was answered, as a part of what the provider allowed in that time."""
        provider = self.provider
        most = min(provider.rate, provider.open / provider.answer_s)
        return self.answered / self.now / most
