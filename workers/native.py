"""Hands groups of lines over to their provider's batch API, a step at a time.

A step makes the provider's batch, looks how far it is, or takes what came of it. Between steps the
job waits in the queue with what is known, and holds no slot. Before a batch is made it is looked
for: a worker may have been lost behind its call. Results are written once (R17), so that any step
may be done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from functools import partial

from broker import durable, subjects
from broker.batch.states import STOPPED
from broker.bus.background import publish
from broker.bus.outcome import Outcomes
from broker.called import called
from broker.dispatch import Again
from broker.errors import InferenceError, Retry
from broker.v1 import batch_pb2, job_pb2
from workers import handover
from workers.batchcalls import BatchCalls
from workers.batches import Row, There
from workers.handover import Handed, HandedAttempt
from workers.keys import Key
from workers.lineattempt import LineAttempt, ReadRange
from workers.tools import Tools

_log = logging.getLogger(__name__)

# Pages of the list of batches that are searched for ours.
_MOST_PAGES = 10
# Looks at a batch that was cancelled, before what it has not answered goes on without it.
_PATIENCE = {True: 16, False: 8}
# Calls that failed are made again after this long, growing up to so often the time between looks.
_MOST_SLOWER = 10
# The status that says there is no such batch.
_GONE = 404
# Statuses that say that nothing was done.
_REFUSALS = range(400, 500)
# Providers limit how much of ours they have at a time.
_FULL = "upstream_quota"
# Somebody else's groups are in memory: it is tried again after this long.
_ROOM_S = 5.0
# Lines that are written or queued at a time.
_AT_ONCE = 100
# A worker has the lines of so many groups in memory at a time; others come again.
_GROUPS_AT_ONCE = 1


class _Later(Exception):  # noqa: N818  # no error
    """The step cannot be done before `pause_s` is over."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.pause_s = pause_s


class Native:
    """The groups of one worker."""

    def __init__(self, tools: Tools, outcomes: Outcomes, read_range: ReadRange) -> None:
        self.tools = tools
        self.outcomes = outcomes
        self.read_range = read_range
        self.room = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def step(self, job: job_pb2.Job, *, again: bool, stop: str, live: bool) -> Again | None:
        """Do what is next; when the job is due again, with what it says then. None: it is over.

        `again`: the step may have been begun before. `stop` is the error that the batch's lines end
        with, `live` says that its provider is not waited for any longer. Raises `BusError`, and
        `InferenceError` when the input is gone.
        """
        return await _Step(self, job, stop=stop, live=live).do(again=again)

    async def without(self, job: job_pb2.Job, *, stop: str) -> None:
        """End a group without what its provider may have of it."""
        await _Step(self, job, stop=stop, live=True).end()


class _Step:
    """One step of one group."""

    def __init__(self, native: Native, job: job_pb2.Job, *, stop: str, live: bool) -> None:
        self._native = native
        self._tools = native.tools
        self._job = job
        self._group = job.native
        self._stop = stop
        self._live = live
        self._pause_s = native.tools.limits.batch_poll_s

    async def do(self, *, again: bool) -> Again | None:
        api, group = self._tools.provider.batches, self._group
        try:
            if api is None:
                await self.end()
                return None
            calls = BatchCalls(api, self._tools)
            step = await (self._look(calls) if group.provider_batch else self._make(calls, again))
        except _Later as later:
            return Again(later.pause_s)
        except (InferenceError, ValueError) as exc:
            ours = isinstance(exc, InferenceError) and not exc.upstream_status
            if ours and isinstance(exc, InferenceError) and exc.reason == "not_found":
                raise  # it is the input that is gone
            return await self._failed(exc)
        return step

    async def _failed(self, exc: InferenceError | ValueError) -> Again | None:
        """A call to the batch API failed: it is made again, as long as there is time."""
        group = self._group
        why = self._tools.keys.hidden(str(exc))
        _log.warning("%s: the provider's batch API: %s", self._job.request_id, why)
        refused = over = False
        if isinstance(exc, InferenceError):
            # Of what got no such answer nobody knows whether it was done.
            refused = exc.upstream_status in _REFUSALS
            passes = exc.row.retry is Retry.SAME or exc.reason == _FULL
            over = refused and not (passes or group.provider_batch)
            over = over or exc.upstream_status == _GONE
        group.asked = group.asked and not refused
        if over or ((self._stop or self._live) and self._waited_enough()):
            await self.end()
            return None
        group.failures += 1
        asked = exc.retry_after if isinstance(exc, InferenceError) else None
        pause_s = self._pause_s * min(group.failures, _MOST_SLOWER)
        return Again(max(pause_s, min(asked or 0.0, self._pause_s * _MOST_SLOWER)))

    # Making it.

    async def _make(self, calls: BatchCalls, again: bool) -> Again | None:
        if self._native.room.locked():
            raise _Later(min(_ROOM_S, self._pause_s))
        async with self._native.room:
            there = await self._find(calls, again=again or self._group.asked)
            if there is None:
                if self._stop or self._live:
                    await self.end()
                    return None
                there = await self._create(calls)
            if there is None:
                return None
        self._group.provider_batch = there.id
        return Again(self._pause_s)

    async def _create(self, calls: BatchCalls) -> There | None:
        """The batch; None where no line can be handed over."""
        handed = await handover.read(self._group, self._native.read_range)
        model, provider = self._job.route.model, self._tools.provider
        name, path = self._job.request_id, ""
        taken: list[int] = []
        lines: list[bytes] = []
        for number, line in list(handed.items()):
            call = handover.call_of(line, self._group.endpoint, model, provider)
            # A batch has calls of one kind.
            if call is not None and call.path == (path or call.path):
                path = call.path
                taken.append(number)
                lines.append(calls.api.line(f"{name}-{number}", call))
                del handed[number]
            await asyncio.sleep(0)
        if len(taken) < calls.api.least:
            await self.end()
            return None
        await self.end(handed.values())
        self._group.numbers[:] = taken
        key = self._tools.keys.choose(name, model, (), asyncio.get_running_loop().time())
        self._group.key = key.fingerprint if key is not None else ""
        file, upload = "", calls.api.upload(name, lines)
        if upload is not None:
            file = calls.api.uploaded(name, await calls.ask(upload, key))
        self._group.asked = True
        try:
            made = await calls.ask(calls.api.create(name, path, model, file, lines), key)
        except InferenceError as exc:
            if file and exc.upstream_status in _REFUSALS:
                await self._discard(calls, (file,), key)
            raise
        return calls.api.there(made)

    async def _find(self, calls: BatchCalls, *, again: bool) -> There | None:
        """The batch that was made for this group before; None where there is none."""
        for key in self._tools.keys.all or (None,):
            self._group.key = key.fingerprint if key is not None else ""
            if calls.api.named:
                found = await self._named(calls, key, _MOST_PAGES if again else 1)
            else:
                found = await self._recognized(calls, key) if again else None
            if found is not None:
                return found
        return None

    async def _named(self, calls: BatchCalls, key: Key | None, pages: int) -> There | None:
        for there in await calls.listed(self._job.request_id, key, pages):
            if there.name == self._job.request_id and not there.refused:
                return there
        return None

    async def _recognized(self, calls: BatchCalls, key: Key | None) -> There | None:
        """Ours, by its first result: what has no name is told by its lines."""
        unsure = False
        for there in await calls.listed("", key, 1):
            if there.lines > len(self._group.numbers):
                continue
            if not there.over:
                unsure = True
            elif await self._begins_with_ours(calls, there, key):
                return there
        if unsure and not (self._stop or self._live):
            raise _Later(self._pause_s)
        return None

    async def _begins_with_ours(self, calls: BatchCalls, there: There, key: Key | None) -> bool:
        async with contextlib.aclosing(calls.rows(there, key)) as rows:
            async for row in rows:
                return row.custom_id.rpartition("-")[0] == self._job.request_id
        return False

    # Looking after it.

    async def _look(self, calls: BatchCalls) -> Again | None:
        group, key = self._group, self._key()
        there = calls.api.there(await calls.ask(calls.api.get(group.provider_batch), key))
        if there.refused:
            _log.warning(
                "%s: the provider refused the batch: %s", self._job.request_id, there.refused
            )
            if there.later and not (self._stop or self._live):
                group.provider_batch = ""
                group.failures += 1
                again = Again(self._pause_s * min(group.failures, _MOST_SLOWER))
            else:
                await self.end()
                again = None
            await self._discard(calls, there.files, key)
            return again
        group.failures = 0
        if there.over:
            await self._settle(calls, there, key)
            return None
        if not (self._stop or self._live):
            return Again(self._pause_s)
        if not group.cancelled:
            await calls.ask(calls.api.cancel(there.id), key)
            group.cancelled = True
        elif self._waited_enough():
            await self.end()
            return None
        return Again(self._pause_s)

    def _waited_enough(self) -> bool:
        self._group.waited += 1
        return self._group.waited > _PATIENCE[bool(self._stop)]

    def _key(self) -> Key | None:
        """The key that the batch was made with: no other one may see it."""
        name = self._group.key
        found = next((key for key in self._tools.keys.all if key.fingerprint == name), None)
        if found is None and name:
            raise ValueError(f"the key {name} that the batch was made with is not here any more")
        return found

    # What came of it.

    async def _settle(self, calls: BatchCalls, there: There, key: Key | None) -> None:
        """Write the results; what has none goes on without the provider's batch."""
        if self._native.room.locked():
            raise _Later(min(_ROOM_S, self._pause_s))
        async with self._native.room:
            there = await calls.filled(there, key)
            left = await handover.read(self._group, self._native.read_range)
            some: list[tuple[Handed, Row]] = []
            async with contextlib.aclosing(calls.rows(there, key)) as rows:
                async for row in rows:
                    name, _, number = row.custom_id.rpartition("-")
                    if not row.status or name != self._job.request_id or not number.isdigit():
                        continue
                    line = left.pop(int(number), None)
                    if line is None:
                        continue
                    some.append((line, row))
                    if len(some) == _AT_ONCE:
                        await asyncio.gather(*(self._take(*pair) for pair in some))
                        some.clear()
            await asyncio.gather(*(self._take(*pair) for pair in some))
            await self.end(left.values())
        await self._discard(calls, there.files, key)

    async def _discard(self, calls: BatchCalls, files: Collection[str], key: Key | None) -> None:
        """Delete what is not needed there any more, as well as that goes."""
        for file in files:
            with contextlib.suppress(InferenceError):
                await calls.ask(calls.api.discard(file), key)

    async def _take(self, line: Handed, row: Row) -> None:
        job = handover.line_job(self._job, line)
        attempt = HandedAttempt(job, self._tools, self._native.read_range, row)
        outcome = await attempt.run()
        await called(attempt.record)
        if isinstance(outcome, batch_pb2.LineResult):
            await self._write(outcome)
        elif self._stop:
            await self._write(attempt.stopped(self._stop, STOPPED.get(self._stop, "")))
        else:
            await self._queue(job, outcome.delay_s)

    # Without it.

    async def end(self, lines: Collection[Handed] | None = None) -> None:
        """What has no answer of the provider's batch runs live, or ends with its batch."""
        if lines is None:
            lines = (await handover.read(self._group, self._native.read_range)).values()
        end = self._ended if self._stop else self._run_live
        left = list(lines)
        for start in range(0, len(left), _AT_ONCE):
            await asyncio.gather(*map(end, left[start : start + _AT_ONCE]))

    async def _ended(self, line: Handed) -> None:
        job = handover.line_job(self._job, line)
        attempt = LineAttempt(job, self._tools, self._native.read_range)
        await self._write(attempt.stopped(self._stop, STOPPED.get(self._stop, "")))

    async def _run_live(self, line: Handed) -> None:
        await self._queue(handover.line_job(self._job, line))

    async def _queue(self, job: job_pb2.Job, delay_s: float = 0.0) -> None:
        job.attempt += 1
        target = durable.plan_of(job).target
        await publish(self._tools.publisher, job, target, lane=subjects.BATCH, delay_s=delay_s)

    async def _write(self, result: batch_pb2.LineResult) -> None:
        await called(partial(self._native.outcomes.write, self._group.batch_id, result))
