"""Lets a worker's calls through as the fleet's allowances have it, before they reach the provider.

A call has a place: (key, model). Where nothing is known of a place everything passes at once. Else
a job has a seat, and uses up a part of the rate, before it is claimed. Without one a few jobs wait
here for a moment, in slots of the worker, and never so many that other models lack them; the others
go back to the queue. Lines of batches wait outside, without a slot (`workers/waiting.py`). Who
comes first among lanes goes first. What a provider says or refuses counts here at once, and reaches
the others by the reports.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

from broker import subjects
from broker.capacity import LONGEST_REST_S, RESERVE, Allowance, Seen
from broker.dispatch import PATIENCE_S
from broker.errors import InferenceError
from broker.limits import Configured
from broker.v1 import job_pb2
from workers.keys import Key, Keys
from workers.place import ORDER, Place
from workers.places import Places
from workers.seats import Seat, Seats

# Jobs wait here for so long; then somebody else may have room for them.
HOLD_S = 1.0
# Of each place, so many wait at least, and as many as begin there in so long.
_HELD, _HELD_S = 2, 0.1
# Of the slots, so many may wait in all: interactive and background work.
_WAIT = {subjects.INTERACTIVE: 4, subjects.BACKGROUND: 8}
# No more jobs are asked for so long after one went back; and none beyond what has room for longer
# and longer, while it is the same place that they go back from.
_SATED_S, _DIG_S = 0.05, 0.4
# Without a word from the provider a place is left alone for so long after a refusal.
_PAUSE_S = 0.2
# A rest that is shorter is over before others hear of it.
_NEWS_S = 0.2


class HandOn(Exception):  # noqa: N818
    """There is no room for a job here: it goes back to the queue, for `delay_s`."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s


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
        self._on_room = on_room
        # Something happened that others should hear of at once.
        self.on_news = on_news
        self._loop = asyncio.get_running_loop()
        self._places = Places(keys, limits, reserve, self.now)
        self._open_at = -math.inf
        self._sated_until = self._dig_at = -math.inf
        self._dig_s = _SATED_S
        # Where the last job went back from.
        self._sated_by: Place | None = None
        self._hungry: asyncio.TimerHandle | None = None
        # Jobs that wait in slots.
        self._inside = 0
        # Called when lines that wait outside may begin.
        self._on_seat: Callable[[], None] | None = None
        keys.on_rest = self._key_rests

    def now(self) -> float:
        """Seconds of a monotonic clock."""
        return self._loop.time()

    # Jobs.

    @property
    def open(self) -> bool:
        """Whether something without a limit was used just now."""
        return self.now() - self._open_at < HOLD_S

    def room(self, lane: str, free: int) -> int:
        """Of `free` jobs of a lane that this worker could hold, how many are worth asking for."""
        if self.open:
            return free
        if not self._places.limited:
            return free
        now = self.now()
        if lane == subjects.INTERACTIVE and now < self._sated_until:
            return 0
        room = 0.0
        for place in list(self._places.limited):  # a rest that is over takes one out
            if place.rest_until <= now and (place.running or now - place.used_at < HOLD_S * 5):
                lines = place.lines if lane == subjects.BATCH else 0
                wait = place.before(lane) + lines
                room += max(0.0, place.room(lane, now) + self._held(place, now) - wait)
        # Some are asked for in any case: they may be for another model.
        least = max(self._slots // 16, 1) if now >= self._dig_at else 0
        return int(min(free, max(room, least)))

    def seats(self, lane: str, job: job_pb2.Job) -> Seats | None:
        """The seats of a job whose first call may be made now; None if it has to wait."""
        if job.own_key:
            return Seats()
        now, model = self.now(), job.route.model
        seats = Seats(self, model, lane)
        for key in self._turn(job, now):
            place = self._place(key, model)
            if place.free_of_limits or not (place.before(lane) or place.wait_s(lane, now)):
                if place.free_of_limits:
                    self._open_at = now
                if place is not self._sated_by:
                    self._dig_s = _SATED_S
                place.begin(lane, now)
                seats.reserve(Seat(self, place, key, lane))
                return seats
        return None

    async def admit(self, lane: str, job: job_pb2.Job) -> Seats:
        """The seats of a job, after a wait in its slot if need be.

        Raises `HandOn` when it should not wait here. Where its keys are all left alone for longer
        than anybody waits, the seats say so.
        """
        seats = self.seats(lane, job)
        if seats is not None:
            return seats
        now, model = self.now(), job.route.model
        key, place = self._soonest(job, now)
        rest = place.rest_until - now
        if rest > PATIENCE_S:
            return self._refused(lane, model, key, rest)
        crowded = self._inside >= max(_HELD, self._slots // _WAIT[lane])
        if rest > HOLD_S or crowded or place.before(lane) >= self._held(place, now):
            self._sate(place, now)
            raise HandOn(place.send_back(now, max(rest, 0.0)))
        seats = Seats(self, model, lane)
        self._inside += 1
        try:
            async with asyncio.timeout(HOLD_S):
                seats.reserve(await self._seat(place, key, lane))
        except TimeoutError:
            raise HandOn(place.send_back(self.now())) from None
        finally:
            self._inside -= 1
        return seats

    # Lines of batches.

    def line_up(self, waiting: Mapping[str, int], on_seat: Callable[[], None]) -> None:
        """Have lines wait outside, so many of each model; `on_seat` is called when some may go."""
        self._on_seat = on_seat
        self._places.line_up(waiting)

    def line_seats(self, job: job_pb2.Job) -> Seats | None:
        """The seats of a line, or of one that must not call at all; None: it waits outside."""
        seats = self.seats(subjects.BATCH, job)
        if seats is not None:
            return seats
        now, model = self.now(), job.route.model
        key, place = self._soonest(job, now)
        if (rest := place.rest_until - now) > PATIENCE_S:
            return self._refused(subjects.BATCH, model, key, rest)
        self._come_back(place, place.wait_s(subjects.BATCH, now))
        return None

    def _soonest(self, job: job_pb2.Job, now: float) -> tuple[Key | None, Place]:
        """The key that is of use first, and its place."""
        model = job.route.model
        turn = self._turn(job, now)
        key = min(turn, key=lambda one: self._place(one, model).rest_until)
        return key, self._place(key, model)

    def _refused(self, lane: str, model: str, key: Key | None, rest: float) -> Seats:
        seats = Seats(self, model, lane)
        seats.refusal = _resting(key, rest)
        return seats

    async def another(self, key: Key | None, model: str, lane: str, within_s: float) -> Seat:
        """The seat of a further call. Raises `InferenceError` deadline."""
        place = self._place(key, model)
        if place.free_of_limits:
            place.begin(lane, self.now())
            return Seat(self, place, key, lane)
        try:
            async with asyncio.timeout(within_s):
                return await self._seat(place, key, lane)
        except TimeoutError:
            message = "the deadline passed before another call to the provider was allowed"
            raise InferenceError("deadline", message) from None

    async def _seat(self, place: Place, key: Key | None, lane: str) -> Seat:
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
            elif turn in queue:
                queue.remove(turn)
            raise
        return Seat(self, place, key, lane)

    def serve(self, place: Place) -> None:
        """Let in who may go now, and come back when the next one may."""
        now = self.now()
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        for lane in ORDER:
            queue = place.queues[lane]
            while queue:
                wait = place.wait_s(lane, now)
                if wait:
                    self._come_back(place, wait)
                    return  # who comes later in the order waits for them
                turn = queue.popleft()
                if not turn.done():
                    place.begin(lane, now)
                    turn.set_result(None)
                    self._on_room()
        if place.lines and self._on_seat is not None:
            if wait := place.wait_s(subjects.BATCH, now):
                self._come_back(place, wait)
            else:
                self._on_seat()

    def _come_back(self, place: Place, wait: float) -> None:
        """Serve a place in `wait` seconds; infinite = when something happens there."""
        if place.timer is None and wait < math.inf:
            place.timer = self._loop.call_later(max(wait, 0.001), self.serve, place)

    # What the provider says.

    def rest(self, place: Place, seconds: float) -> None:
        """Leave a place alone."""
        if seconds <= 0:
            return
        place.rest(seconds, self.now())
        if seconds >= _NEWS_S:
            place.rest_news = max(place.rest_news, min(seconds, LONGEST_REST_S))
            self.on_news()

    def limited(self, place: Place, retry_after: float | None, *, spent: bool) -> None:
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
        self._places.key_rests(fingerprint, seconds)
        self.on_news()

    # What the leader says, and hears.

    def told(self, allowance: Allowance, worker: str) -> None:
        """Take what the leader allows."""
        self._serve_changed(self._places.told(allowance, worker))

    def forgotten(self, key: str, model: str) -> None:
        """The leader allows everything again."""
        self._serve_changed(self._places.forgotten(key, model))

    def _serve_changed(self, place: Place | None) -> None:
        if place is not None:
            self.serve(place)
            self._on_room()

    def report(self) -> list[Seen]:
        """What happened since the last report, at the places where anything did."""
        return self._places.report()

    def waiting(self) -> int:
        """Jobs that wait for an allowance."""
        return sum(place.waiting for place in self._places)

    # Inside.

    def _turn(self, job: job_pb2.Job, now: float) -> Sequence[Key | None]:
        """The keys for a job, by their state and by what is in flight with each."""
        model, keys = job.route.model, self._keys.all
        running: dict[str, int] = {}
        if len(keys) > 1:  # of one it says nothing
            running = {one.fingerprint: self._place(one, model).running for one in keys}
        return self._keys.turn(job.request_id, model, job.avoid_keys, now, running)

    def _place(self, key: Key | None, model: str) -> Place:
        return self._places.of(key.fingerprint if key is not None else "", model)

    def _held(self, place: Place, now: float) -> int:
        """How many jobs may wait at a place."""
        return max(_HELD, min(int(place.pace(now) * _HELD_S), self._slots // 4))

    def _sate(self, place: Place, now: float) -> None:
        self._sated_until = now + _SATED_S
        if self._sated_by is place:
            self._dig_s = min(2 * self._dig_s, _DIG_S)
        self._sated_by = place
        self._dig_at = now + self._dig_s
        if self._hungry is None:
            self._hungry = self._loop.call_at(self._sated_until, self._ask_again)

    def _ask_again(self) -> None:
        self._hungry = None
        now = self.now()
        for until in (self._sated_until, self._dig_at):
            if now < until:
                self._hungry = self._loop.call_at(max(until, now + 0.001), self._ask_again)
                break
        if now >= self._sated_until:
            self._on_room()


def _resting(key: Key | None, seconds: float) -> InferenceError:
    error = InferenceError(
        "upstream_rate_limit",
        f"the provider asked to be left alone; retry in {seconds:.0f} s",
        retry_after=math.ceil(seconds),
        phase="connect",
    )
    error.key = key.fingerprint if key is not None else ""
    return error
