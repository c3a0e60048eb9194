"""Has the results of all batches counted, each once and from where its checkpoint ends (R17).

One follower serves all of them. A batch whose checkpoint lies further back than the follower has it
begin again there; the others pass over what they have counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from broker import subjects
from broker.batching.run import Run
from broker.batching.services import Services
from broker.bus.ending import end
from broker.bus.results import Seen

_log = logging.getLogger(__name__)

# Records of charges that may wait for the stream before counting does.
_MOST_PENDING = 5_000
_AGAIN_S = 1.0


class Counting:
    """See the module."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._runs: dict[str, Run] = {}
        # The next result that the follower sees; 0 = nobody has asked for any.
        self._next = 0
        # Goes up whenever the follower has to begin anew.
        self._turn = 0
        self._wanted = asyncio.Event()

    def join(self, run: Run) -> None:
        """Count the results of a batch, from its checkpoint on."""
        self._runs[subjects.token(run.id)] = run
        first = run.record.progress.counted_to + 1
        if not 0 < self._next <= first:
            # What is on its way to the follower is not counted: it lies behind what this batch has
            # not seen, which would be passed over for good.
            self._next = first
            self._turn += 1
            self._wanted.set()

    def leave(self, run: Run) -> None:
        """It is not run here any more."""
        if self._runs.get(token := subjects.token(run.id)) is run:
            del self._runs[token]

    async def count(self) -> None:
        """Count for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            following = asyncio.create_task(self._follow(self._turn), name="follow results")
            rewound = asyncio.create_task(self._wanted.wait(), name="results from earlier on")
            try:
                await asyncio.wait((following, rewound), return_when=asyncio.FIRST_COMPLETED)
                if following.done() and not following.cancelled() and following.exception():
                    _log.error("counting results; trying again", exc_info=following.exception())
                    await asyncio.sleep(_AGAIN_S)
                    self._wanted.set()
            finally:
                await end(rewound)
                await end(following)

    async def _follow(self, turn: int) -> None:
        results = self._services.results.follow(self._next)
        async with contextlib.aclosing(results) as groups:
            async for group in groups:
                if turn != self._turn:
                    return
                self._take(group)
                if self._services.recorder.pending > _MOST_PENDING:
                    await self._services.recorder.drain()

    def _take(self, group: list[Seen]) -> None:
        counted = set()
        for seen in group:
            run = self._runs.get(seen.batch_token)
            if run is not None:
                _count(run, seen)
                counted.add(run)
        self._next = group[-1].sequence + 1
        for run in counted:
            if run.needs_a_look:
                run.news.set()


def _count(run: Run, seen: Seen) -> None:
    try:
        run.count(seen)
    except Exception:  # noqa: BLE001 - one result must not stop the counting of all others
        _log.exception("a result of %s cannot be counted", run.id)
