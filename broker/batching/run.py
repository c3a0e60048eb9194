"""One batch that this process runs: its record, what was counted of it, and their checkpoints.

What is counted and published is remembered here and written down once a second. Whoever takes over
does again what came after: charges and chunks have ids, so that twice is once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable

from broker import subjects
from broker.batch import failures, native, projection, states
from broker.batch.chunks import STRETCH
from broker.batching.services import Services
from broker.bus.batches import KeptBatch
from broker.bus.responses import ConflictError
from broker.bus.results import Seen
from broker.keys import key_of
from broker.v1 import batch_pb2, event_pb2, file_pb2, record_pb2

_log = logging.getLogger(__name__)

_RETRY_S = 0.02
# Places that are remembered of a batch.
_MOST_PLACES = 100
# Lines that may have been published since the last checkpoint that is stored: many more than are.
BEYOND = 10_000 + STRETCH.lines + native.SIZE.lines
# Reasons for waiting that are told; each until lines came again that had one, or could have.
_MOST_DELAYS = 9
_DELAYED_S = 2 * failures.BACKOFF_CAP_S
Edit = Callable[[batch_pb2.StoredBatch], bool]


class FencedError(Exception):
    """Somebody else runs this batch."""


class _Charges:
    """Charges that are not stored yet."""

    __slots__ = ("open", "settled")

    def __init__(self) -> None:
        self.open = 0
        self.settled = asyncio.Event()

    def begun(self) -> None:
        """One more is on its way."""
        self.open += 1
        self.settled.clear()

    def stored(self) -> None:
        """One of them is."""
        self.open -= 1
        if not self.open:
            self.settled.set()


class Run:
    """See the module. `record.progress` is what is known here, ahead of what is stored."""

    def __init__(self, services: Services, kept: KeptBatch) -> None:
        self.services = services
        self.record = kept.record
        self.key = subjects.batch_key(kept.record.owner, kept.record.id)
        # What the request ids of its lines begin with.
        self.line_prefix = subjects.line_id(kept.record.id, 0).rpartition("_")[0]
        self._revision = kept.revision
        # What the stored progress was when this process wrote or read it last.
        self._stored = batch_pb2.BatchProgress()
        self._stored.CopyFrom(kept.record.progress)
        self._usage: Counter[str] = Counter()
        self._tools: Counter[str] = Counter()
        self._places = {(place.provider, place.model) for place in kept.record.progress.places}
        self._charges = _Charges()
        self._changing = asyncio.Lock()
        self._writing = asyncio.Lock()
        self.news = asyncio.Event()
        self.dirty = False
        # When something was counted or published last, by the loop's clock.
        self.moved_at = asyncio.get_running_loop().time()
        # A chunk of it is being published.
        self.publishing = False
        # Lines that are not known to be begun may be: those of another process, behind its last
        # checkpoint, or of a publish that was not answered.
        self.doubtful = kept.record.status != states.VALIDATING
        # Up to this line: the queue forgets after minutes what it has had.
        self.maybe_done_to = 0
        if self.doubtful:
            self.doubt()
        # Lines that this pass left out: nobody was there to take them.
        self.left_out = 0
        self.input: file_pb2.StoredFile | None = None
        # Whether it is known what is left of this pass.
        self.set_out = False
        # Lines that are not published in this pass: they have a result, or get another one's.
        self.skips: Callable[[int], bool] = _none

    @property
    def id(self) -> str:
        """The batch's id."""
        return self.record.id

    def doubt(self) -> None:
        """Lines behind what is known to be published may be published, too."""
        self.doubtful = True
        self.maybe_done_to = self.furthest + BEYOND

    @property
    def furthest(self) -> int:
        """The line up to which lines are published, in this pass."""
        progress = self.record.progress
        return max(progress.next_line, *(lane.next_line for lane in progress.lanes), 0)

    @property
    def publishes(self) -> bool:
        """Whether more of its lines are to be queued."""
        record = self.record
        return (
            record.status == states.IN_PROGRESS
            and not record.paused
            and not record.stop_code
            and not record.progress.published
            and self.set_out
            # Lanes skip one another's lines: whoever takes over has to know of all of them.
            and len(record.progress.lanes) == len(self._stored.lanes)
        )

    @property
    def needs_a_look(self) -> bool:
        """Whether what was counted may be a reason to stop, or the end."""
        record = self.record
        if states.overdrawn(record) is not None:
            return not record.stop_code
        return record.progress.published and states.done(record) >= record.progress.sent

    # The record.

    async def edit(self, edit: Edit) -> bool:
        """Change the stored record; False when `edit` did not. Raises `FencedError`.

        The progress is for `checkpoint` to change, once lines run.
        """
        async with self._changing:
            while True:
                changed = batch_pb2.StoredBatch()
                changed.CopyFrom(self.record)
                changed.progress.CopyFrom(self._stored)
                if not edit(changed):
                    return False
                kept = KeptBatch(changed, self._revision)
                try:
                    await self.services.batches.update(kept)
                except ConflictError:
                    # A replica may not know the newest yet.
                    await asyncio.sleep(_RETRY_S)
                    await self._reread()
                    continue
                before, self._stored = self._stored, batch_pb2.BatchProgress()
                self._stored.CopyFrom(changed.progress)
                if self.record.progress == before:  # nothing was counted since
                    self.record.progress.CopyFrom(self._stored)
                self._adopt(kept)
                return True

    async def refresh(self) -> None:
        """Read what others asked for. Raises `FencedError`."""
        async with self._changing:
            await self._reread()

    async def checkpoint(self) -> None:
        """Write down how far it came, once the charges of it are stored.

        One after the other: a later one must not pass over charges that an earlier one waits for.
        """
        async with self._writing:
            charges, self._charges = self._charges, _Charges()
            self._add_up()
            progress = batch_pb2.BatchProgress()
            progress.CopyFrom(self.record.progress)
            self.dirty = False
            if charges.open:
                await charges.settled.wait()

            def put(record: batch_pb2.StoredBatch) -> bool:
                record.progress.CopyFrom(progress)
                return True

            await self.edit(put)

    async def _reread(self) -> None:
        kept = await self.services.batches.read(self.key)
        if kept is None or kept.record.progress != self._stored:
            raise FencedError(self.id)
        self._adopt(kept)

    def _adopt(self, kept: KeptBatch) -> None:
        """The record as it is stored, with the progress as it is known here."""
        mine = batch_pb2.BatchProgress()
        mine.CopyFrom(self.record.progress)
        self.record = kept.record
        self.record.progress.CopyFrom(mine)
        self._revision = kept.revision

    # Results.

    def count(self, seen: Seen) -> None:
        """Add a result up, once, and charge what was answered."""
        progress = self.record.progress
        if seen.sequence <= progress.counted_to:
            return
        progress.counted_to = seen.sequence
        result = batch_pb2.LineResult.FromString(seen.data)
        if projection.stopped(result):
            progress.stopped += 1
        elif projection.answered(result):
            progress.completed += 1
            progress.native += result.native
            # Copies and errors of the broker's own have no attempt.
            if result.attempt:
                self._charge(result, seen.stored_ms)
        else:
            progress.failed += 1
        if result.HasField("usage"):
            for field, value in result.usage.ListFields():
                if field.name == "tool_calls":
                    self._tools.update(value)
                elif field.name != "estimated":
                    self._usage[field.name] += value
        if result.HasField("cost"):
            progress.cost.nano_usd += result.cost.nano_usd
            if not progress.cost.source:
                progress.cost.source, progress.cost.date = result.cost.source, result.cost.date
        self.moved()

    def went_to(self, places: Iterable[tuple[str, str]]) -> None:
        """Lines were queued for these (provider, model)."""
        if new := [place for place in places if place not in self._places]:
            known = self.record.progress.places
            for provider, model in sorted(new)[: _MOST_PLACES - len(known)]:
                known.add(provider=provider, model=model)
            self._places.update(new)

    def moved(self) -> None:
        """Something happened that is to be written down."""
        self.dirty = True
        self.moved_at = asyncio.get_running_loop().time()

    # Delays.

    def delayed(self, delay: batch_pb2.BatchDelay) -> None:
        """Lines of it have to wait, and this is why."""
        now, known = self.services.now(), self.record.progress.delays
        delay.since = delay.at = now
        for index, other in enumerate(known):
            if (other.provider, other.model, other.code) == (
                delay.provider,
                delay.model,
                delay.code,
            ):
                delay.since = other.since
                del known[index]
                break
        del known[:-_MOST_DELAYS]
        known.append(delay)
        self.dirty = True

    def forget_delays(self) -> None:
        """Say no more why lines waited that wait no longer."""
        known = self.record.progress.delays
        fresh = [delay for delay in known if delay.at > self.services.now() - _DELAYED_S]
        if len(fresh) < len(known):
            del known[:]
            known.extend(fresh)
            self.dirty = True

    def _charge(self, result: batch_pb2.LineResult, at_ms: int) -> None:
        charge = record_pb2.Charge(
            request_id=subjects.line_id(self.id, result.number),
            attempt=result.attempt,
            tenant=self.record.tenant,
            route=result.route,
            answered_model=result.answered_model,
            usage=result.usage,
            charged_at_ms=at_ms,
            tags=result.tags,
            signature=result.signature,
            cost=result.cost if result.HasField("cost") else None,
            key=key_of(self.record.owner, self.record.tenant),
        )
        self._charges.begun()
        self.services.recorder.charge(charge, self._charges.stored)

    def _add_up(self) -> None:
        """Put what was used into the progress."""
        usage: event_pb2.Usage = self.record.progress.usage
        for name, value in self._usage.items():
            setattr(usage, name, getattr(usage, name) + value)
        for name, calls in self._tools.items():
            usage.tool_calls[name] += calls
        self._usage.clear()
        self._tools.clear()


def _none(_number: int) -> bool:
    return False
