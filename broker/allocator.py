"""Divides what a provider allows among the workers of a fleet: reports in, allowances out; pure.

The leader finds out how much each place allows (`broker.limits`) and divides it among the workers
by what they want. A place of which no limit is known has no allowance, and costs nobody anything.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from broker.capacity import (
    ANY,
    FORGET_S,
    LONGEST_REST_S,
    RESERVE,
    Allowance,
    Member,
    Place,
    Report,
    Seen,
    Share,
)
from broker.limits import Configured, Limit, Tick
from broker.standing import LATELY_S, Standing

# What a worker wanted counts for so much of it a second later, if it wants less then.
_FADING = 0.7
# A rate is divided in parts of this fineness, a second.
_FINE = 1000
_PRESSED = 0.3
# Refusals are counted together over so many seconds.
_FINE_S = 1.0
# Reports older than this say nothing of what a worker wants now.
_STALE_S = 3.0
# A share that would change by less than this part stays as it is.
_ALIKE = 0.15


@dataclass(slots=True)
class Want:
    """What one worker wants at one place, by its last reports."""

    slots: float = 0.0
    durable: float = 0.0
    rate: float = 0.0
    tokens: float = 0.0
    # Whether jobs waited lately.
    pressed: float = 0.0
    at: float = -math.inf
    # By the last report alone.
    running: int = 0
    waiting: int = 0

    def take(self, seen: Seen, span_s: float, now: float) -> None:
        faded = _FADING if now - self.at < _STALE_S else 0.0
        self.slots = max(seen.running + seen.waiting, faded * self.slots)
        self.durable = max(seen.durable, faded * self.durable)
        self.rate = max(seen.started / max(span_s, 0.1), faded * self.rate)
        self.tokens = max(seen.tokens / max(span_s, 0.1), faded * self.tokens)
        self.pressed = 1.0 if seen.waiting else faded * self.pressed
        self.running, self.waiting = seen.running, seen.waiting
        self.at = now


@dataclass(slots=True)
class _State:
    place: Place
    limit: Limit = field(default_factory=Limit)
    wants: dict[str, Want] = field(default_factory=lambda: defaultdict(Want))
    tick: Tick = field(default_factory=Tick)
    used_at: float = 0.0
    rest_until: float = 0.0
    # When the rest ends that workers know of.
    rest_told: float = 0.0
    told: Allowance | None = None
    # Refusals, in all and by when they were reported.
    limited: int = 0
    lately: deque[tuple[float, int]] = field(default_factory=deque)

    def refused(self, limited: int, now: float) -> None:
        """So many calls more were."""
        self.limited += limited
        if self.lately and now < self.lately[-1][0] + _FINE_S:
            now, before = self.lately.pop()
            limited += before
        self.lately.append((now, limited))
        while self.lately[0][0] <= now - LATELY_S:
            self.lately.popleft()

    def standing(self, now: float) -> Standing:
        """How the place stands."""
        told = self.told or Allowance(*self.place)
        live = [want for want in self.wants.values() if now - want.at < _STALE_S]
        return Standing(
            *self.place,
            told.slots,
            told.rate,
            told.tokens,
            told.why,
            round(max(0.0, self.rest_until - now), 1),
            sum(want.running for want in live),
            sum(want.waiting for want in live),
            sum(limited for at, limited in self.lately if at > now - LATELY_S),
            self.limited,
            told.shares,
        )


class Allocator:
    """The leader's state. Times are seconds of one monotonic clock."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self._states: dict[Place, _State] = {}
        self._now = 0.0

    def recall(self, allowances: Iterable[Allowance], now: float) -> None:
        """Go on from what an earlier leader said; its epoch has to be lower."""
        for allowance in allowances:
            state = self._state(allowance.place, now)
            state.limit.recall(allowance.found, allowance.quotas, now)
            state.told = allowance

    def take(self, report: Report, now: float) -> None:
        """Take a worker's report into account, at the next tick."""
        for seen in report.seen:
            state = self._state((report.provider, seen.key, seen.model), now)
            state.wants[report.worker].take(seen, report.span_s, now)
            state.tick.add(report.worker, seen, report.span_s)
            if seen.limited:
                state.refused(seen.limited, now)
            if seen.rest_s > 0:
                rest = min(seen.rest_s, LONGEST_REST_S)
                state.rest_until = max(state.rest_until, now + rest)

    def tick(
        self, members: Iterable[Member], now: float, *, reserve: float = RESERVE, adapt: bool = True
    ) -> list[Allowance]:
        """The allowances that changed; forget places that nobody uses.

        Without `adapt` what was reported is only divided anew: a tick between two seconds.
        """
        self._now = now
        by_provider: dict[str, list[Member]] = defaultdict(list)
        for member in sorted(members, key=lambda member: member.worker):
            by_provider[member.provider].append(member)
        for provider, live in by_provider.items():
            for key in {key for member in live if member.limits for key in member.keys}:
                self._state((provider, key, ANY), now)
        changed = []
        for place, state in list(self._states.items()):
            live = [m for m in by_provider[place[0]] if place[1] in m.keys]
            limits = next((m.limits for m in live if m.limits is not None), None)
            if now - state.used_at > FORGET_S and not (limits and live):
                del self._states[place]
                continue
            if adapt:
                state.limit.adapt(state.tick, now)
                state.tick = Tick()
            told = self._allowance(state, live, limits, reserve)
            if state.told is None and not (told.why or told.rest_s):
                continue  # nobody needs to know that nothing is known
            if told != state.told:
                state.told = told
                changed.append(told)
        return changed

    def allowances(self) -> list[Allowance]:
        """What was told last, of each place."""
        return [state.told for state in self._states.values() if state.told is not None]

    def standings(self, now: float) -> list[Standing]:
        """How each place stands, those first where most is under way."""
        found = [state.standing(now) for state in self._states.values()]
        return sorted(found, key=lambda one: (-(one.running or 0), one.place))

    def _state(self, place: Place, now: float) -> _State:
        state = self._states.get(place)
        if state is None:
            state = self._states[place] = _State(place)
        state.used_at = now
        return state

    def _allowance(
        self, state: _State, live: list[Member], configured: Configured | None, reserve: float
    ) -> Allowance:
        """What a place allows now, and to whom."""
        now, old = self._now, state.told
        slots, rate, tokens, why = state.limit.of(configured, now)
        wants = {}
        for member in live:
            want = state.wants[member.worker]
            wants[member.worker] = want if now - want.at < _STALE_S else Want()
        for gone in state.wants.keys() - wants.keys():
            del state.wants[gone]
        shares: Mapping[str, Share] = {}
        if why:
            whole = Whole(slots, rate, tokens)
            shares = divide(whole, {m.worker: m.slots for m in live}, wants, reserve)
            if old is not None:
                shares = settled(shares, old.shares, wants, slots)
        rest = max(0.0, state.rest_until - now)
        known, state.rest_told = state.rest_told, state.rest_until
        if old is not None and rest and known == state.rest_until and old.shares == shares:
            rest = old.rest_s  # they count it down themselves
        return Allowance(
            *state.place,
            epoch=self.epoch,
            slots=_rounded(slots),
            rate=_rounded(rate),
            tokens=_rounded(tokens),
            why=why,
            rest_s=round(rest, 3),
            shares=shares,
            found=state.limit.found(),
            quotas=state.limit.quotas(),
        )


class Whole(NamedTuple):
    """What there is, infinite = no limit: calls at a time, calls and tokens per second."""

    slots: float
    rate: float
    tokens: float


def divide(
    whole: Whole, workers: Mapping[str, int], wants: Mapping[str, Want], reserve: float
) -> dict[str, Share]:
    """What each of `workers`, who make so many calls at a time, may use."""
    if not workers:
        return {}
    parts: dict[str, int | None] = dict.fromkeys(workers)
    durable: dict[str, int | None] = dict(parts)
    if whole.slots < math.inf:
        slots = max(1, int(whole.slots))
        parts.update(_poured(slots, {name: (wants[name].slots, workers[name]) for name in parts}))
        asked = sum(want.slots - want.durable for want in wants.values())
        left = max(0, min(slots - kept(slots, reserve), int(slots - asked)))
        own = {name: (wants[name].durable, part or 0) for name, part in parts.items()}
        durable.update(_poured(left, own))
    rates = _flowing(whole.rate, wants, {name: want.rate for name, want in wants.items()})
    tokens = _flowing(whole.tokens, wants, {name: want.tokens for name, want in wants.items()})
    return {
        name: Share(part, durable[name], rates.get(name), tokens.get(name))
        for name, part in parts.items()
    }


def kept(slots: int, reserve: float) -> int:
    """Of these, how many background and batch work leave to interactive work: one, if it can be."""
    return max(1, int(slots * reserve + 0.5)) if reserve and slots > 1 else 0


def _flowing(
    whole: float, wants: Mapping[str, Want], used: Mapping[str, float]
) -> dict[str, float]:
    """So much a second in parts, by what was `used`; whoever waits wants all it can get."""
    if whole == math.inf:
        return {}
    fine = max(len(wants), int(whole * _FINE))
    total = sum(used.values()) or 1.0
    levels = {
        name: fine if want.pressed > _PRESSED else int(fine * min(1.0, used[name] / total))
        for name, want in wants.items()
    }
    parts = _poured(fine, {name: (level, fine) for name, level in levels.items()})
    return {name: float(f"{part / _FINE:.3g}") for name, part in parts.items()}


def settled(
    new: Mapping[str, Share], old: Mapping[str, Share], wants: Mapping[str, Want], slots: float
) -> Mapping[str, Share]:
    """`new` without changes that are none, and without slots that somebody else may still use.

    What one worker has to give back the others get with the next tick.
    """
    if new.keys() == old.keys() and all(_alike(new[name], old[name]) for name in new):
        return old
    if slots == math.inf:
        return new
    using = {
        name: old[name].slots or 0 for name in old.keys() & new.keys() if wants[name].at > -math.inf
    }
    spare = max(1, int(slots)) - sum(max(s.slots or 0, using.get(n, 0)) for n, s in new.items())
    shares = dict(new)
    for name in sorted(new, key=lambda n: using.get(n, 0) - (new[n].slots or 0)):
        more = (new[name].slots or 0) - using.get(name, 0)
        if spare >= 0 or more <= 0:
            break
        less = min(more, -spare)
        shares[name] = msgspec.structs.replace(new[name], slots=(new[name].slots or 0) - less)
        spare += less
    return shares


def _alike(new: Share, old: Share) -> bool:
    return all(
        was == now or (was is not None and now is not None and abs(now - was) <= was * _ALIKE)
        for was, now in zip(msgspec.structs.astuple(old), msgspec.structs.astuple(new), strict=True)
    )


def _poured(whole: int, wants: Mapping[str, tuple[float, int]]) -> dict[str, int]:
    """`whole` in parts, by (what is wanted, what there is room for).

    Nobody gets more than it wants while another gets less than that; what is left goes round
    evenly, where there is room.
    """
    parts = dict.fromkeys(wants, 0)
    least = 1 if whole >= 2 * len(wants) else 0
    wanted = {name: min(room, max(least, math.ceil(w))) for name, (w, room) in wants.items()}
    for levels in (wanted, {name: room for name, (_, room) in wants.items()}):
        # Who lacks least comes first, so that what it leaves is there for the others.
        order = sorted(levels, key=lambda name: levels[name] - parts[name])
        for place, name in enumerate(order):
            part = min(levels[name] - parts[name], -(-whole // (len(order) - place)))
            parts[name] += part
            whole -= part
    return parts


def _rounded(value: float) -> float | None:
    """With three digits, so that a change that is none is not told."""
    if value == math.inf:
        return None
    return float(f"{value:.3g}") if value < 1000 else float(round(value))
