"""Queues lines of all batches: a window ahead of the workers, owners in turn, deadlines first.

What is ahead is read from the queue itself, so that whoever takes over knows as much.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from broker.batch import states
from broker.batch.chunks import LINES
from broker.batch.window import Rates, Turns, window
from broker.batching.copies import write_all
from broker.batching.lanes import MOST, Lane, Lanes
from broker.batching.prepare import Prepared, hands_over, prepare
from broker.batching.reading import InputGoneError, Reader
from broker.batching.run import FencedError, Run
from broker.batching.services import Services
from broker.bus import backlog
from broker.bus.atomic import MAX_GROUP, Message, publish_all
from broker.bus.connection import BusError
from broker.subjects import place

_log = logging.getLogger(__name__)

# Chunks that are published at once: together they are one round trip.
_GROUP = 8
_GROUP_BYTES = 4 << 20
# Of inputs that are read ahead; others have to be read again.
_HELD_BYTES = 24 << 20
# How long a batch waits that cannot go on for reasons of its own.
_REST_S = 1.0
# How often it is looked how many lines are delayed.
_DELAYS_S = 0.3
# So long after lines of a batch were delayed nothing is made of how fast others go.
_LIMITED_S = 30.0
# For so long the models of a batch wait for one another.
_TOGETHER_S = 0.5


class Publishing:
    """See the module. `runs` are the batches that run now."""

    def __init__(self, services: Services, runs: dict[str, Run]) -> None:
        self._services = services
        self._runs = runs
        self._rates = Rates()
        self._turns = Turns()
        self._room: dict[str, int] = {}
        self._ahead: dict[str, int] = {}
        self._sent: Counter[str] = Counter()
        self._looked_at = 0.0
        # Delayed lines, which providers made wait, by batch and where they go.
        self._delayed: Counter[tuple[str, str]] = Counter()
        self._delays_at = 0.0
        # When there were some last.
        self._limited_at: dict[tuple[str, str], float] = {}
        self._lanes: dict[str, Lanes] = {}
        # Those that have something in memory, the one that is at work last.
        self._read_ahead: dict[str, Lane] = {}

    async def publish(self) -> None:
        """Publish for ever."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            open_runs = [run for run in self._runs.values() if run.publishes]
            if not open_runs:
                self._services.wanted.clear()
                await self._services.wanted.wait()
                continue
            try:
                await self._look()
                await self._round(open_runs)
            except BusError as exc:
                _log.info("publishing lines: %s; trying again", exc)
                await asyncio.sleep(_REST_S)
            await asyncio.sleep(max(0.0, began + self._services.pace.look_s - loop.time()))

    def forget(self, run: Run) -> None:
        """It has nothing to publish any more."""
        if (known := self._lanes.pop(run.id, None)) is not None:
            for lane in known.all:
                self._read_ahead.pop(lane.key, None)

    async def _look(self) -> None:
        """See how much is ahead of the workers, and how fast they take it."""
        lane = await backlog.lane(self._services.bus)
        now = asyncio.get_running_loop().time()
        elapsed = now - self._looked_at
        for subject in {*self._sent, *self._ahead}:
            before = self._ahead.get(subject, 0) + self._sent[subject]
            taken = before - lane.ahead.get(subject, 0)
            if self._looked_at and elapsed > 0 and before:
                self._rates.seen(subject, max(0, taken), elapsed)
        if now - self._delays_at >= _DELAYS_S:
            self._delayed, self._delays_at = await backlog.delayed(self._services.bus), now
            known = {at: when for at, when in self._limited_at.items() if now - when < _LIMITED_S}
            self._limited_at = known | dict.fromkeys(self._delayed, now)
        self._looked_at, self._ahead = now, lane.ahead
        self._sent.clear()
        self._room.clear()

    async def _round(self, open_runs: list[Run]) -> None:
        """Publish as long as something fits."""
        every = {lane.key: lane for run in open_runs for lane in self._lanes_of(run).all}
        left = {key: lane for key, lane in every.items() if self._may(lane)}
        self._turns.keep({run.record.owner for run in open_runs}, every)
        deadline = self._now() + 5 * self._services.pace.look_s
        while left and self._now() < deadline:
            ready: dict[str, list[tuple[float, str]]] = defaultdict(list)
            for key, lane in left.items():
                record = lane.run.record
                ready[record.owner].append((record.expires_at, key))
            chosen = self._turns.next(ready, self._services.now())
            if chosen is None:
                return
            lane = left[chosen]
            published = await self._try(lane)
            if published:
                self._turns.served(lane.run.record.owner, chosen, published)
            if not published or not lane.run.publishes or lane.ended or not self._may(lane):
                left.pop(chosen, None)

    async def _try(self, lane: Lane) -> int:
        """Publish the next chunks of a lane, if that is possible; returns how many lines."""
        run = lane.run
        run.publishing = True
        try:
            return await self._advance(lane)
        except BusError as exc:
            if not self._services.bus.connected:
                raise
            _log.info("publishing lines of %s: %s; trying again", run.id, exc)
        except FencedError:
            _log.info("%s is run by somebody else", run.id)
        except Exception:  # noqa: BLE001 - one batch must not stop the others
            _log.exception("publishing lines of %s; trying again", run.id)
        finally:
            run.publishing = False
        lane.rests_until = self._now() + _REST_S
        return 0

    def _lanes_of(self, run: Run) -> Lanes:
        known = self._lanes.get(run.id)
        if known is None or known.run is not run or known.epoch != run.record.progress.epoch:
            self.forget(run)
            known = self._lanes[run.id] = Lanes(run)
        return known

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _may(self, lane: Lane) -> bool:
        """Whether it is worth a try."""
        if lane.ended or lane.rests_until > self._now():
            return False
        wants = lane.wants or (Counter({lane.hint: LINES}) if lane.hint else Counter())
        if self._fits(lane.run, wants):
            return True
        # Another model may go on without the one that is in its way.
        waited = lane.ready is None or self._now() - lane.full_since >= _TOGETHER_S
        return self._splits(lane) and waited

    def _splits(self, lane: Lane) -> bool:
        """Whether models may be left to lanes of their own."""
        mixed = lane.run.record.options.mixed_models and not lane.model
        return mixed and len(lane.among.all) < MOST

    def _room_of(self, subject: str) -> int:
        if subject not in self._room:
            wide = self._window(subject)
            self._room[subject] = wide - self._ahead.get(subject, 0) - self._sent[subject]
        return self._room[subject]

    def _window(self, subject: str) -> int:
        return window(self._services.slots(subject), self._rates.of(subject))

    async def _advance(self, lane: Lane) -> int:
        """Publish the next chunks of a lane, as many as fit; returns how many lines they had."""
        run = lane.run
        group: list[Prepared] = []
        try:
            await self._take(lane, group)
            for done in group:
                await write_all(run, done.refused)
            await self._queue(lane, group)
        except InputGoneError:
            await self._give_up(run)
            return 0
        except BaseException:
            if group:
                # It may have been stored all the same; it is done again from where all is known to
                # be. What only could not be read is read on from where it broke off.
                run.doubt()
                lane.go_back()
            for made in group:
                self._sent.subtract(made.demand)
            raise
        return sum(max(1, done.asked) for done in group)

    async def _take(self, lane: Lane, group: list[Prepared]) -> None:
        """Add chunks to a group that may be published now; their room is taken."""
        run, size = lane.run, 0
        while len(group) < _GROUP and run.publishes:
            try:
                made, lane.ready = lane.ready or await self._next(lane), None
            except BusError:
                if group:
                    break
                raise
            if made is None:
                if not group:
                    self._end(lane)
                break
            weight = sum(len(message.data) for message in made.messages)
            if group and size + weight > _GROUP_BYTES:
                lane.ready = made
                break
            if not self._goes(lane, made):
                lane.ready, lane.wants = made, made.demand
                if not group:
                    self._wait(lane, made)
                break
            lane.wants, lane.full_since = Counter(), 0.0
            mixed = run.record.options.mixed_models
            lane.hint = next(iter(made.demand)) if len(made.demand) == 1 and not mixed else ""
            for subject, lines in made.demand.items():
                self._room[subject] = self._room_of(subject) - lines
                self._sent[subject] += lines
            group.append(made)
            size += weight
            if made.large:
                break

    def _goes(self, lane: Lane, made: Prepared) -> bool:
        """Whether a chunk can be published now."""
        if made.waiting and (self._splits(lane) or not (made.messages or made.refused)):
            return False
        return self._fits(lane.run, made.demand)

    def _wait(self, lane: Lane, made: Prepared) -> None:
        """Nothing of a lane can be published now: leave what is in the way to lanes of its own."""
        now = self._now()
        lane.full_since = lane.full_since or now
        if self._splits(lane) and now - lane.full_since >= _TOGETHER_S:
            blocked = {
                model
                for model, subjects in made.models.items()
                if not all(self._has_room(lane.run, name, made.demand[name]) for name in subjects)
            }
            # It goes on when its life has written that down; others do meanwhile.
            lane.among.split(lane, blocked, made.chunk.place)
            lane.run.news.set()
        elif made.waiting:
            # It is looked again where its lines can go.
            lane.rests_until = now + (_REST_S if not self._splits(lane) else _TOGETHER_S)
            if lane.reader is not None:
                lane.reader.put_back(made.chunk)
            lane.ready, lane.wants = None, Counter()

    async def _next(self, lane: Lane) -> Prepared | None:
        self._read_ahead.pop(lane.key, None)
        self._read_ahead[lane.key] = lane
        self._trim()
        if lane.reader is None:
            lane.reader = Reader(lane.run, lane.place)
        chunk = await lane.reader.next(handed_over=await hands_over(lane.run))
        if chunk is None:
            return None
        try:
            await asyncio.sleep(0)
            return await prepare(lane.run, chunk, lane.takes)
        except BaseException:
            lane.reader.put_back(chunk)
            raise

    def _trim(self) -> None:
        """Forget what was read ahead longest ago, where it is too much: it is read again then."""
        sizes = {key: lane.reader.size for key, lane in self._read_ahead.items() if lane.reader}
        held = sum(sizes.values())
        for key in list(self._read_ahead)[:-1]:
            if held <= _HELD_BYTES:
                return
            held -= sizes.get(key, 0)
            self._read_ahead.pop(key).go_back()

    def _fits(self, run: Run, demand: Mapping[str, int]) -> bool:
        return all(self._has_room(run, subject, lines) for subject, lines in demand.items())

    def _has_room(self, run: Run, subject: str, lines: int) -> bool:
        if not subject:  # nobody is there
            return False
        where = run.line_prefix, place(subject)
        room, wide = self._room_of(subject), self._window(subject)
        if self._now() - self._limited_at.get(where, -math.inf) < _LIMITED_S:
            # What was delayed is ahead, too: limits would drain a whole batch into the schedules,
            # and that lines leave the queue so fast says nothing then.
            narrow = window(self._services.slots(subject), 0)
            room, wide = room - (wide - narrow) - self._delayed[where], narrow
        # What is wider than the window has it to itself.
        return room >= min(lines, wide)

    def _end(self, lane: Lane) -> None:
        run = lane.run
        lane.ended = True
        self._read_ahead.pop(lane.key, None)
        lane.go_back()
        if all(one.ended for one in lane.among.all):
            run.record.progress.published = True
            self.forget(run)
        run.moved()
        run.news.set()

    async def _queue(self, lane: Lane, group: list[Prepared]) -> None:
        """Store the jobs, each once."""
        run = lane.run
        fresh = await self._publish([message for made in group for message in made.messages])
        for made in group:
            # Some of the group were committed before: by chunks, each was whole or not at all.
            if not fresh:
                await self._publish(made.messages)
            lane.published(made.chunk.after)
            if not run.record.progress.epoch:
                run.record.progress.sent += made.asked
            run.left_out += made.waiting
            run.went_to(made.places)
            run.moved()

    async def _publish(self, messages: list[Message]) -> bool:
        new = True
        for start in range(0, len(messages), MAX_GROUP):
            part = messages[start : start + MAX_GROUP]
            new = await publish_all(self._services.bus, part) and new
        return new

    async def _give_up(self, run: Run) -> None:
        now = self._services.now()
        try:
            await run.edit(lambda record: states.cancel(record, now, states.INPUT_GONE))
        except FencedError:
            _log.info("%s is run by somebody else", run.id)
        run.news.set()
