"""The life of one batch in this process, from validation until its files are there."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from broker.batch import native, states
from broker.batching import copies, finish, lost, retry
from broker.batching.counting import Counting
from broker.batching.reading import InputGoneError
from broker.batching.run import Run
from broker.batching.telling import Telling
from broker.batching.validate import StoppedError, validate
from broker.v1 import batch_pb2

_log = logging.getLogger(__name__)

_UNKNOWN = batch_pb2.BatchError(
    code="internal_error", message="Stopped: which lines repeat earlier ones is not known any more."
)


class Life:
    """See the module."""

    def __init__(self, run: Run, counting: Counting, telling: Telling) -> None:
        self._run = run
        self._telling = telling
        self._counting = counting
        self._services = run.services
        self._copies: copies.Copies | None = None
        # Copies that have results: known once they were given them.
        self._copied: int | None = None
        self._lookout = lost.Lookout(run)
        # Workers know that what is at providers is to run live.
        self._live = False
        self._sealed = False
        # Lines that have their results though they are delayed: it is stopped.
        self._ended: set[int] = set()

    async def live(self) -> None:
        """Until the batch is over. Raises `BusError`, `FencedError`: begin anew then."""
        run = self._run
        while run.record.status not in states.FINAL:
            if run.record.status == states.FINALIZING:
                await self._finish()
            elif run.record.status == states.VALIDATING and not await self._stop():
                async with await self._turn():
                    await run.refresh()
                    await self._validate()
            else:
                await self._run_lines()
        await finish.clean(run)

    async def tell(self) -> None:
        """The batch is over: tell who wants to know, then forget it."""
        await self._telling.tell(self._run)
        await self._services.batches.let_go(self._run.id)

    async def _validate(self) -> None:
        run = self._run
        with contextlib.suppress(StoppedError):
            if run.record.retry_of:
                await retry.make_input(run)
            if run.record.status == states.VALIDATING:
                await validate(run)

    async def _turn(self) -> asyncio.Semaphore:
        run = self._run
        if run.input is None:
            record = run.record
            run.input = await self._services.files.get(record.owner, record.input_file_id)
        return self._services.turn(run.input.bytes if run.input is not None else 0)

    async def _finish(self) -> None:
        async with await self._turn():
            await finish.write(self._run)

    async def _run_lines(self) -> None:
        """Until all lines that were begun have their results, and the next state is stored."""
        run = self._run
        await self._begin()
        while not await self._over():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._services.pace.checkpoint_s):
                    await run.news.wait()
            if run.news.is_set():
                run.news.clear()
                await run.refresh()
                self._services.wanted.set()
            await self._stop()
            await self._go_live()
            run.forget_delays()
            if run.dirty:
                await run.checkpoint()
                self._services.wanted.set()
            if not run.record.stop_code:
                await self._stop_overdrawn()
        if run.record.progress.delays or run.dirty:
            run.record.progress.ClearField("delays")
            await run.checkpoint()
        if run.record.status == states.CANCELLING:
            await self._finish()
        else:
            await run.edit(lambda kept: states.finalize(kept, self._services.now()))

    async def _go_live(self) -> None:
        """Have what is at providers run live, when the window is soon over."""
        record = self._run.record
        late = self._services.now() >= native.live_at(record)
        if native.possible(record) and late and not self._live:
            await self._services.batches.go_live(record.id)
            self._live = True

    async def _stop_overdrawn(self) -> None:
        why = states.overdrawn(self._run.record)
        if why is not None:
            await self._run.edit(lambda kept: states.cancel(kept, self._services.now(), why))

    async def _begin(self) -> None:
        """Find out where it goes on."""
        run = self._run
        if run.record.in_progress_at:  # else it never had lines
            self._counting.join(run)
        if run.record.stop_code:
            await self._services.batches.stop(run.id, run.record.stop_code)
        if run.record.progress.copies:
            try:
                self._copies = await copies.load(run)
            except copies.CopiesGoneError:
                await run.edit(lambda kept: states.cancel(kept, self._services.now(), _UNKNOWN))
                await self._stop()
        await self._set_out()

    async def _set_out(self) -> None:
        """Have what is left of this pass published."""
        run, known = self._run, self._copies
        progress = run.record.progress
        bits = bytearray()
        if progress.epoch:
            bits = await self._services.results.present(run.id)

        def skips(number: int) -> bool:
            return (known is not None and number in known) or lost.has(bits, number)

        if known is not None or progress.epoch:
            run.skips = skips
        run.set_out = True
        self._services.wanted.set()

    async def _stop(self) -> bool:
        """Have workers end its lines, when it is time; whether it is stopped."""
        run = self._run
        code = states.due_stop(run.record, self._services.now())
        if code:

            def put(kept: batch_pb2.StoredBatch) -> bool:
                kept.stop_code = kept.stop_code or code
                return True

            await run.edit(put)
            await self._services.batches.stop(run.id, run.record.stop_code)
        return bool(run.record.stop_code)

    async def _over(self) -> bool:
        """Whether every line that was begun has its result; finds those that strand."""
        run = self._run
        record = run.record
        progress, stopped = record.progress, bool(record.stop_code)
        if run.publishing or not (progress.published or stopped):
            return False
        # Lines that a pass left out, for whatever reason, are looked for like lost ones.
        begun = progress.sent if stopped else progress.total - progress.copies
        if states.done(record) < begun + (self._copied or 0):
            if stopped:
                await lost.end_delayed(run, self._ended)
            await self._look_for_lost()
            return False
        doubtful = stopped and run.doubtful and not progress.published
        if doubtful and not await self._lookout.nothing_left():
            return False
        if self._copies is not None and self._copied is None:
            try:
                async with await self._turn():
                    self._copied = await copies.write(run, self._copies)
            except InputGoneError:
                # Nothing says whose the other copies are: they stay without results.
                self._copied, now = 0, self._services.now()
                await run.edit(lambda kept: states.cancel(kept, now, states.INPUT_GONE))
                return False
            return states.done(run.record) >= begun + self._copied
        return True

    async def _look_for_lost(self) -> None:
        run = self._run
        loop = asyncio.get_running_loop()
        stopped = bool(run.record.stop_code)
        late = self._services.now() > _stopped_at(run.record) + self._services.pace.grace_s
        if stopped and late and not self._sealed:
            await self._seal()
            return
        if loop.time() - run.moved_at < self._services.pace.quiet_s:
            return
        if not await self._lookout.nothing_left():
            return
        if stopped:
            await self._seal()
            return
        if run.left_out:
            _log.info("%d lines of %s had no worker: it is looked again", run.left_out, run.id)
            run.left_out = 0
        else:
            _log.warning("lines of %s were lost: they are queued again", run.id)
        # Nothing is published until it is known what is left.
        run.set_out = False
        progress = run.record.progress
        progress.epoch += 1
        progress.next_offset, progress.next_line, progress.next_part = 0, 1, 0
        progress.ClearField("lanes")
        progress.published = False
        await run.checkpoint()
        run.moved()
        await self._set_out()

    async def _seal(self) -> None:
        run = self._run
        try:
            await lost.seal(run, self._copies)
        except InputGoneError:
            # Nothing says whose those lines are; their results cannot be missed.
            run.record.progress.sent = states.done(run.record)

        self._sealed = True
        # What was given up may be queued still: its stop key has to outlive it.
        run.record.progress.epoch += 1
        await run.checkpoint()


def _stopped_at(record: batch_pb2.StoredBatch) -> int:
    return record.cancelling_at or record.expires_at
