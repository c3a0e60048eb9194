"""Lets a worker's calls through as the fleet's allowances have it, before they reach the provider.

A call has a place: (key, model). Where nothing is known of a place everything passes at once. Else
a job holds a slot and uses up a part of the rate before it is claimed, or waits here for that: a
few jobs of each place, for a moment, interactive ones first; the others go back to the queue. What
a provider says or refuses counts here at once, and reaches the others by the reports.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Self

from broker import subjects
from broker.capacity import ANY, LONGEST_REST_S, RESERVE, Allowance, Seen, Share
from broker.dispatch import PATIENCE_S
from broker.errors import InferenceError
from broker.limits import Configured
from broker.v1 import job_pb2
from workers.keys import Key, Keys
from workers.quotas import Quotas

# Jobs wait here for so long; then somebody else may have room for them.
HOLD_S = 1.0
# Of each place, so many wait at least.
_HELD = 2
# A job that goes back comes again after so long, at least and at most.
_AGAIN_S = (0.05, 0.25)
# No more jobs are asked for so long after one went back.
_SATED_S = 0.05
# Without a word from the provider a place is left alone for so long after a refusal.
_PAUSE_S = 0.2
# What this worker has guessed holds until the leader knows better, or for so long.
_GUESS_S = 5.0
# What nobody used is saved up for so long; and where calls wait for it and this process was late.
_SAVED_S, _LATE_S = 0.02, 0.1
# A rest that is shorter is over before others hear of it.
_NEWS_S = 0.2
# Headers are read this often at most: they hardly change.
_READ_S = 0.01
# Part of the newest call in what calls use on average, in tokens.
_NEWEST = 0.2
# Places that nobody uses are forgotten when there are so many; a report tells of some.
_MOST_PLACES, _MOST_SEEN = 1000, 200
_ORDER = (subjects.INTERACTIVE, subjects.BACKGROUND, subjects.BATCH)
_NO_LIMIT = Share()


class HandOn(Exception):  # noqa: N818
    """There is no room for a job here: it goes back to the queue, for `delay_s`."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s


class _Place:
    """One key and model: its share, what is under way and what was seen since the last report."""

    def __init__(self, key: str, model: str, share: Share, reserve: float) -> None:
        self.key = key
        self.model = model
        self.epoch = 0
        self.share = share
        self.quotas = Quotas()
        self.running = self.durable = 0
        self.rest_until = 0.0
        self.queues: dict[str, deque[asyncio.Future[None]]] = {lane: deque() for lane in _ORDER}
        self.timer: asyncio.TimerHandle | None = None
        self.used_at = self.read_at = 0.0
        # By lane: what is kept for lanes that come before it.
        self._reserve = reserve
        self._guess, self._guess_until = math.inf, 0.0
        self._level = 1.0
        self._tokens = 0.0
        self._refilled = 0.0
        self.mean_tokens = 0.0
        self.free_of_limits = True
        self.bound()
        self.clear()

    def clear(self) -> None:
        """Begin the next report."""
        self.peak = self.started = self.answered = self.limited = self.spent = self.back = 0
        self.answered_s = self.used_tokens = self.rest_news = 0.0

    def bound(self) -> None:
        """Note whether anything limits this place."""
        self.free_of_limits = (
            self.share == _NO_LIMIT and not self.rest_until and self._guess == math.inf
        )

    @property
    def waiting(self) -> int:
        return sum(map(len, self.queues.values()))

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
        self.used_at = now
        self.running += 1
        self.started += 1
        self.durable += lane != subjects.INTERACTIVE
        if not self.free_of_limits:
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
        self.free_of_limits = False

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
            most = max(1.0 + self._reserve, self.share.rate * saved_s)
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

    def seen(self) -> Seen:
        """What to report."""
        return Seen(
            self.key,
            self.model,
            running=self.running,
            peak=max(self.peak, self.running if not self.limited else 0),
            waiting=self.waiting + self.back,
            durable=self.durable
            + len(self.queues[subjects.BACKGROUND])
            + len(self.queues[subjects.BATCH]),
            started=self.started,
            answered=self.answered,
            answered_s=round(self.answered_s, 4),
            limited=self.limited,
            spent=self.spent,
            tokens=self.used_tokens,
            rest_s=round(self.rest_news, 3),
            quotas=self.quotas.news(),
        )


class Seat:
    """The right to make one call, which is made inside of it; `close` it otherwise."""

    __slots__ = ("_began", "_gate", "_lane", "_open", "_place", "_spent", "key")

    def __init__(self, gate: Gate, place: _Place, key: Key | None, lane: str) -> None:
        self.key = key
        self._gate = gate
        self._place = place
        self._lane = lane
        self._began = 0.0
        self._open = True
        self._spent = False

    def __enter__(self) -> Self:
        self._began = self._gate.now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        place = self._place
        if exc is None:
            place.peak = max(place.peak, place.running)
            place.answered += 1
            place.answered_s += self._gate.now() - self._began
        elif isinstance(exc, InferenceError) and exc.reason == "upstream_rate_limit":
            self._gate.limited(place, exc.retry_after, spent=self._spent)
        self.close()

    def heard(self, headers: Mapping[str, str], *, refused: bool = False) -> None:
        """An answer's headers came."""
        now = self._gate.now()
        if not refused and now - self._place.read_at < _READ_S:
            return
        self._place.read_at = now
        rest = self._place.quotas.read(headers)
        if rest:
            self._spent = True
            self._gate.rest(self._place, rest)

    def settle(self, tokens: float) -> None:
        """The call used so many tokens."""
        self._place.settle(tokens)

    def close(self) -> None:
        """The call is over, or will not be made. Idempotent."""
        if not self._open:
            return
        self._open = False
        if not self._began:
            self._place.give_back()
        self._place.end(self._lane)
        self._gate.serve(self._place)


class _Uncounted:
    """A call with a caller's own key, which is nobody else's concern."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def heard(self, headers: Mapping[str, str], *, refused: bool = False) -> None:
        """Not of ours."""


_UNCOUNTED = _Uncounted()


class Seats:
    """The calls of one attempt: the first has a seat already, each other one waits for its own."""

    def __init__(self, gate: Gate | None = None, model: str = "", lane: str = "") -> None:
        self._gate = gate
        self._model = model
        self._lane = lane
        self._first: Seat | None = None
        self._settling: Seat | None = None
        # Why no call may be made at all.
        self.refusal: InferenceError | None = None

    def reserve(self, seat: Seat) -> None:
        """The seat of the first call."""
        self._first = self._settling = seat

    @property
    def key(self) -> Key | None:
        """The key of the first call."""
        return self._first.key if self._first is not None else None

    @property
    def chosen(self) -> bool:
        """Whether there is a seat, and with it a key."""
        return self._first is not None

    def check(self) -> None:
        """Raise why no call may be made, if there is a reason."""
        if self.refusal is not None:
            raise self.refusal

    def release(self) -> None:
        """No call is made with the first seat any more: none, or one with a caller's own key."""
        if self._first is not None:
            self._first.close()
            self._first = None

    async def next(self, key: Key | None, *, own: bool) -> Seat | _Uncounted:
        """The seat of the next call, with this key or one of the caller's own."""
        first, self._first = self._first, None
        if first is not None:
            if not own and first.key is key:
                return first
            first.close()
        if self._gate is None or own:
            return _UNCOUNTED
        seat = await self._gate.another(key, self._model, self._lane)
        self._settling = self._settling or seat
        return seat

    def settle(self, tokens: float) -> None:
        """All calls together used so many tokens."""
        if self._settling is not None and tokens:
            self._settling.settle(tokens)


class Gate:
    """See the module. `on_room` is called when more jobs may be asked for than before."""

    def __init__(
        self,
        keys: Keys,
        slots: int,
        *,
        limits: Configured | None = None,
        reserve: float = RESERVE,
        on_room: Callable[[], None] = lambda: None,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self._keys = keys
        self._slots = slots
        self._reserve = reserve
        self._on_room = on_room
        # Something happened that others should hear of at once.
        self.on_news = on_news
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._places: dict[tuple[str, str], _Place] = {}
        # The shares of places that nobody used yet, by key.
        limited = limits if limits is not None and limits != Configured() else None
        self._defaults: dict[str, Share] = (
            {one.fingerprint: _whole(limited) for one in keys.all} or {"": _whole(limited)}
            if limited is not None
            else {}
        )
        self._told: dict[tuple[str, str], tuple[int, Share]] = {}
        self._open_at = -math.inf
        self._sated_until = -math.inf
        self._key_news: dict[str, float] = {}
        keys.on_rest = self._key_rests

    # Jobs.

    def room(self, free: int) -> int:
        """Of `free` jobs that this worker could hold, how many are worth asking for."""
        now = self.now()
        if now - self._open_at < HOLD_S or not any(
            not place.free_of_limits for place in self._places.values()
        ):
            return free
        if now < self._sated_until:
            return 0
        room = 0.0
        for place in self._places.values():
            if place.rest_until <= now and (place.running or now - place.used_at < HOLD_S * 5):
                room += max(0.0, place.slots - place.running) + self._held(place) - place.waiting
        # Some are asked for in any case: they may be for another model.
        return int(min(free, max(room, self._slots // 16, 1)))

    def may_hold(self, lane: str, model: str = ANY) -> int:
        """How many more jobs of a lane may be taken now, of one model or of any.

        It is what background and batch work asks: 0 while anything that comes first waits.
        """
        before = _ORDER[: _ORDER.index(lane)]
        places = [p for p in self._places.values() if model in (ANY, p.model)]
        if any(p.queues[earlier] for p in places for earlier in before):
            return 0
        if not places or any(p.free_of_limits for p in places):
            return self._slots
        now, room = self.now(), 0.0
        for place in places:
            if place.rest_until > now:
                continue
            mine = place.slots if place.share.durable is None else place.share.durable
            room += max(0.0, min(place.slots - place.running, mine - place.durable)) + 1
        return int(min(self._slots, room))

    def seats(self, lane: str, job: job_pb2.Job) -> Seats | None:
        """The seats of a job whose first call may be made now; None if it has to wait."""
        if job.own_key:
            return Seats()
        now, model = self.now(), job.route.model
        seats = Seats(self, model, lane)
        for key in self._keys.turn(job.request_id, model, job.avoid_keys, now):
            place = self._place(key, model)
            if place.free_of_limits or not (place.waiting or place.wait_s(lane, now)):
                if place.free_of_limits:
                    self._open_at = now
                place.begin(lane, now)
                seats.reserve(Seat(self, place, key, lane))
                return seats
        return None

    async def admit(self, lane: str, job: job_pb2.Job, *, patient: bool = False) -> Seats:
        """The seats of a job, after a wait if need be.

        Raises `HandOn` when it should not wait here, unless it is `patient`. Where its keys are all
        left alone for longer than anybody waits, the seats say so.
        """
        seats = self.seats(lane, job)
        if seats is not None:
            return seats
        now, model = self.now(), job.route.model
        turn = self._keys.turn(job.request_id, model, job.avoid_keys, now)
        key = min(turn, key=lambda one: self._place(one, model).rest_until)
        place = self._place(key, model)
        seats = Seats(self, model, lane)
        rest = place.rest_until - now
        if rest > PATIENCE_S:
            seats.refusal = _resting(key, rest)
        elif patient:
            seats.reserve(await self._seat(place, key, lane))
        elif rest > HOLD_S or place.waiting >= self._held(place):
            place.back += 1
            self._sate(now)
            raise HandOn(max(rest, 0.0) + random.uniform(*_AGAIN_S))
        else:
            try:
                async with asyncio.timeout(HOLD_S):
                    seats.reserve(await self._seat(place, key, lane))
            except TimeoutError:
                place.back += 1
                raise HandOn(random.uniform(*_AGAIN_S)) from None
        return seats

    async def another(self, key: Key | None, model: str, lane: str) -> Seat:
        """The seat of a further call, for as long as it takes."""
        place = self._place(key, model)
        if place.free_of_limits:
            place.begin(lane, self.now())
            return Seat(self, place, key, lane)
        return await self._seat(place, key, lane)

    async def _seat(self, place: _Place, key: Key | None, lane: str) -> Seat:
        turn: asyncio.Future[None] = self._loop.create_future()
        queue = place.queues[lane]
        queue.append(turn)
        if place.slots < 1 or place.waiting == 1:
            self.on_news()
        self.serve(place)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                Seat(self, place, key, lane).close()
            else:
                queue.remove(turn)
            raise
        return Seat(self, place, key, lane)

    def serve(self, place: _Place) -> None:
        """Let in who may go now, and come back when the next one may."""
        now = self.now()
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        for lane in _ORDER:
            queue = place.queues[lane]
            while queue:
                wait = place.wait_s(lane, now)
                if wait:
                    if wait < math.inf:
                        later = max(wait, 0.001)
                        place.timer = self._loop.call_later(later, self.serve, place)
                    break
                turn = queue.popleft()
                if not turn.done():
                    place.begin(lane, now)
                    turn.set_result(None)
            if queue:
                break  # who comes later in the order waits for them

    # What the provider says.

    def rest(self, place: _Place, seconds: float) -> None:
        """Leave a place alone."""
        place.rest(seconds, self.now())
        if seconds >= _NEWS_S:
            place.rest_news = max(place.rest_news, min(seconds, LONGEST_REST_S))
            self.on_news()

    def limited(self, place: _Place, retry_after: float | None, *, spent: bool) -> None:
        """The provider refused a call as too many."""
        now = self.now()
        place.limited += 1
        place.spent += spent
        if not spent:
            place.guess(now)
        if retry_after is None and not spent:
            place.rest(_PAUSE_S, now)
        elif retry_after:
            self.rest(place, retry_after)
        place.bound()
        self.on_news()

    def _key_rests(self, fingerprint: str, seconds: float) -> None:
        """A key is of no use for any model."""
        self._key_news[fingerprint] = seconds
        self.on_news()

    # What the leader says.

    def told(self, allowance: Allowance, worker: str) -> None:
        """Take what the leader allows."""
        known = self._told.get((allowance.key, allowance.model))
        if known is not None and allowance.epoch < known[0]:
            return  # from one that was replaced
        share = allowance.shares.get(worker)
        if share is None:
            share = _stranger(allowance)
        self._told[allowance.key, allowance.model] = allowance.epoch, share
        if allowance.model == ANY:
            self._defaults[allowance.key] = share
            if allowance.rest_s:
                self._keys.rest(allowance.key, ANY, allowance.rest_s, self.now())
            return
        place = self._places.get((allowance.key, allowance.model))
        if place is None:
            place = self._place_of(allowance.key, allowance.model)
        place.told(share)
        if allowance.rest_s:
            place.rest(allowance.rest_s, self.now())
            self._keys.rest(allowance.key, allowance.model, allowance.rest_s, self.now())
        self.serve(place)
        self._on_room()

    def forgotten(self, key: str, model: str) -> None:
        """The leader allows everything again."""
        self._told.pop((key, model), None)
        if model == ANY:
            self._defaults.pop(key, None)
        elif (place := self._places.get((key, model))) is not None:
            place.told(self._defaults.get(key, _NO_LIMIT))
            self.serve(place)

    # Reports.

    def report(self) -> list[Seen]:
        """What happened since the last report, at the places where anything did."""
        seen = []
        for place in list(self._places.values()):
            if place.started or place.running or place.waiting or place.back or place.limited:
                seen.append(place.seen())
                place.clear()
        if len(self._places) > _MOST_PLACES:
            self._forget()
        told = [Seen(key, ANY, rest_s=seconds) for key, seconds in self._key_news.items()]
        self._key_news.clear()
        seen.sort(key=lambda one: -one.started)
        return told + seen[:_MOST_SEEN]

    def shares(self) -> dict[tuple[str, str], Share]:
        """The shares in force, by key and model."""
        return {at: p.share for at, p in self._places.items() if p.share != _NO_LIMIT}

    def waiting(self) -> int:
        """Jobs that wait for an allowance."""
        return sum(place.waiting for place in self._places.values())

    # Inside.

    def _place(self, key: Key | None, model: str) -> _Place:
        name = key.fingerprint if key is not None else ""
        place = self._places.get((name, model))
        return self._place_of(name, model) if place is None else place

    def _place_of(self, key: str, model: str) -> _Place:
        _, share = self._told.get((key, model), (0, self._defaults.get(key, _NO_LIMIT)))
        place = self._places[key, model] = _Place(key, model, share, self._reserve)
        place.used_at = self.now()
        return place

    def _held(self, place: _Place) -> int:
        """How many jobs may wait at a place."""
        slots = min(place.slots, self._slots)
        return max(_HELD, min(int(slots) // 4, self._slots // 4))

    def _sate(self, now: float) -> None:
        if now >= self._sated_until:
            self._loop.call_later(_SATED_S + 0.001, self._on_room)
        self._sated_until = now + _SATED_S

    def _forget(self) -> None:
        idle = self.now() - 60
        for at, place in list(self._places.items()):
            if not (place.running or place.waiting) and place.used_at < idle:
                del self._places[at]


def _whole(limits: Configured) -> Share:
    """All that the settings allow: until the leader has divided it."""
    tokens = limits.tokens_per_minute
    return Share(
        limits.concurrent,
        limits.concurrent,
        limits.requests_per_second,
        tokens / 60 if tokens is not None else None,
    )


def _stranger(allowance: Allowance) -> Share:
    """For a worker that the leader has not met yet: little, where there is a limit."""
    workers = len(allowance.shares) + 1
    return Share(
        1 if allowance.slots is not None else None,
        0 if allowance.slots is not None else None,
        allowance.rate / workers if allowance.rate is not None else None,
        allowance.tokens / workers if allowance.tokens is not None else None,
    )


def _resting(key: Key | None, seconds: float) -> InferenceError:
    error = InferenceError(
        "upstream_rate_limit",
        f"the provider asked to be left alone; retry in {seconds:.0f} s",
        retry_after=math.ceil(seconds),
        phase="connect",
    )
    error.key = key.fingerprint if key is not None else ""
    return error
