"""Queues lines of all batches: a window ahead of the workers, owners in turn, deadlines first.

What is ahead is read from the queue itself, so that whoever takes over knows as much.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable

from broker.batch import native, states
from broker.batch.chunks import LINES, SMALL, Cursor
from broker.batch.window import SMALLEST, Rates, Turns, window
from broker.batching.copies import write_all
from broker.batching.prepare import Prepared, hands_over, prepare
from broker.batching.reading import InputGoneError, next_chunk
from broker.batching.run import FencedError, Run
from broker.batching.services import Services
from broker.bus import backlog
from broker.bus.atomic import MAX_GROUP, Message, publish_all
from broker.bus.connection import BusError
from broker.v1 import batch_pb2

_log = logging.getLogger(__name__)

# Chunks that are published at once: together they are one round trip.
_GROUP = 8
_GROUP_BYTES = 4 << 20
# Chunks that are ready and do not fit yet, and inputs that are read ahead; others have to be read
# again.
_HELD = 32
# How long a batch waits that cannot go on for reasons of its own.
_REST_S = 1.0


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
        # Delayed lines, which providers' limits made wait, by batch.
        self._delayed: Counter[str] = Counter()
        self._delays_at = 0.0
        self._ready: dict[str, Prepared] = {}
        # Where a batch's lines go, as far as that is one place.
        self._hints: dict[str, str] = {}
        self._resting: dict[str, float] = {}
        # Those whose input was read ahead, the one before last first.
        self._read_ahead: dict[str, Run] = {}

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
        self._ready.pop(run.id, None)
        self._hints.pop(run.id, None)
        self._resting.pop(run.id, None)
        self._read_ahead.pop(run.id, None)

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
        if now - self._delays_at >= _REST_S:
            self._delayed, self._delays_at = await backlog.scheduled(self._services.bus), now
        self._looked_at, self._ahead = now, lane.ahead
        self._sent.clear()
        self._room.clear()

    async def _round(self, open_runs: Iterable[Run]) -> None:
        """Publish as long as something fits."""
        left = {run.id: run for run in open_runs if self._may(run)}
        self._turns.keep({run.record.owner for run in open_runs})
        deadline = asyncio.get_running_loop().time() + 5 * self._services.pace.look_s
        while left and asyncio.get_running_loop().time() < deadline:
            ready: dict[str, list[tuple[float, str]]] = defaultdict(list)
            for run in left.values():
                ready[run.record.owner].append((run.record.expires_at, run.id))
            chosen = self._turns.next(ready)
            if chosen is None:
                return
            run = left[chosen]
            run.publishing = True
            try:
                published = await self._advance(run)
            except BusError as exc:
                if not self._services.bus.connected:
                    raise
                _log.info("publishing lines of %s: %s; trying again", run.id, exc)
                self._resting[run.id] = asyncio.get_running_loop().time() + _REST_S
                published = 0
            except Exception:  # noqa: BLE001 - one batch must not stop the others
                _log.exception("publishing lines of %s; trying again", run.id)
                self._resting[run.id] = asyncio.get_running_loop().time() + _REST_S
                published = 0
            finally:
                run.publishing = False
            if published:
                self._turns.served(run.record.owner, published)
            if not published or not run.publishes or not self._may(run):
                left.pop(chosen, None)

    def _may(self, run: Run) -> bool:
        """Whether it is worth a try."""
        if self._resting.get(run.id, 0.0) > asyncio.get_running_loop().time():
            return False
        hint = self._hints.get(run.id)
        # What was delayed is ahead, too: limits would drain a whole batch into the schedules.
        wide = self._window(hint) if hint else SMALLEST
        if self._delayed[run.line_prefix] >= wide:
            return False
        return not hint or self._room_of(hint) >= LINES

    def _room_of(self, subject: str) -> int:
        if subject not in self._room:
            wide = self._window(subject)
            self._room[subject] = wide - self._ahead.get(subject, 0) - self._sent[subject]
        return self._room[subject]

    def _window(self, subject: str) -> int:
        return window(self._services.slots(subject), self._rates.of(subject))

    async def _advance(self, run: Run) -> int:
        """Publish the next chunks of a batch, as many as fit; returns how many lines they had."""
        group: list[Prepared] = []
        try:
            group = await self._take(run)
            for done in group:
                await write_all(run, done.refused)
            await self._queue(run, group)
        except InputGoneError:
            await self._give_up(run)
            return 0
        except BaseException:
            # It may have been stored all the same; it is done again from where all is known to be.
            run.doubt()
            progress = run.record.progress
            self._go_back(run, progress.next_offset, max(1, progress.next_line))
            raise
        return sum(max(1, done.asked) for done in group)

    async def _take(self, run: Run) -> list[Prepared]:
        """Chunks that may be published now; their room is taken."""
        group: list[Prepared] = []
        size = 0
        while len(group) < _GROUP and run.publishes:
            made = self._ready.pop(run.id, None) or await self._next(run)
            if made is None:
                if not group:
                    self._end(run)
                break
            weight = sum(len(message.data) for message in made.messages)
            if made.waiting and not made.messages and not made.refused:
                self._resting[run.id] = asyncio.get_running_loop().time() + _REST_S
                self._go_back(run, made.chunk.begin, made.chunk.number)
                break
            if not self._fits(made) or (group and size + weight > _GROUP_BYTES):
                self._hold(run, made)
                break
            self._hints[run.id] = next(iter(made.demand)) if len(made.demand) == 1 else ""
            for subject, lines in made.demand.items():
                self._room[subject] = self._room_of(subject) - lines
                self._sent[subject] += lines
            group.append(made)
            size += weight
            if made.large:
                break
        return group

    async def _next(self, run: Run) -> Prepared | None:
        self._read_ahead.pop(run.id, None)
        self._read_ahead[run.id] = run
        if len(self._read_ahead) > _HELD:
            last = self._read_ahead.pop(next(iter(self._read_ahead)))
            if last.cursor is not None:
                last.cursor.trim()
        if run.cursor is None:
            return None
        size = native.SIZE if await hands_over(run) else SMALL
        chunk = await next_chunk(run, run.cursor, size)
        return await prepare(run, chunk) if chunk is not None else None

    def _fits(self, made: Prepared) -> bool:
        return all(
            # What is wider than the window has it to itself.
            self._room_of(subject) >= min(n, self._window(subject))
            for subject, n in made.demand.items()
        )

    def _hold(self, run: Run, made: Prepared) -> None:
        """Keep a chunk for later, or make it anew then."""
        if len(self._ready) < _HELD and not made.large:
            self._ready[run.id] = made
        else:
            self._go_back(run, made.chunk.begin, made.chunk.number)

    def _go_back(self, run: Run, offset: int, number: int) -> None:
        self._ready.pop(run.id, None)
        run.cursor = Cursor(offset, number)

    def _end(self, run: Run) -> None:
        run.record.progress.published = True
        run.moved()
        run.news.set()
        self.forget(run)

    async def _queue(self, run: Run, group: list[Prepared]) -> None:
        """Store the jobs, each once."""
        fresh = await self._publish([message for made in group for message in made.messages])
        for made in group:
            # Some of the group were committed before: by chunks, each was whole or not at all.
            if not fresh:
                await self._publish(made.messages)
            progress = run.record.progress
            progress.next_offset, progress.next_line = made.chunk.end, made.chunk.next_number
            if not progress.epoch:
                progress.sent += made.asked
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
        why = batch_pb2.BatchError(
            code="file_not_found",
            message="Stopped: the input file does not exist any more.",
            param="input_file_id",
        )
        try:
            await run.edit(lambda record: states.cancel(record, self._services.now(), why))
        except FencedError:
            _log.info("%s is run by somebody else", run.id)
        run.news.set()
