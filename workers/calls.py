"""Makes the several calls of one attempt: some at a time, and some again where its plan says so.

A provider that wants a call to wait is not asked by the others meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.emulation import AnyPlan

# Of one attempt.
CALLS_AT_ONCE = 8

Send = Callable[[list[event_pb2.Event]], bool]
# Makes one call for a request, and sends its events on.
Call = Callable[[generation_pb2.Request, Send], Awaitable[None]]


class Calls:
    """The calls of a plan, whose answers become one; `ends` is the deadline, in monotonic time."""

    def __init__(self, plan: AnyPlan, call: Call, send: Send, ends: float) -> None:
        self._plan = plan
        self._joint = plan.joint()
        self._call = call
        self._send = send
        self._ends = ends
        # The provider is left alone until then.
        self._rests_until = 0.0

    async def make(self) -> None:
        """Make them all; when one fails for good, so do all. Raises `InferenceError`."""
        numbers = iter(range(self._plan.calls))
        count = min(CALLS_AT_ONCE, self._plan.calls)
        tasks = [asyncio.create_task(self._some(numbers)) for _ in range(count)]
        try:
            # No group of tasks: what ends the attempt is raised in its calls, too, and a group lets
            # that go before the cancellation.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _some(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._one(number)

    async def _one(self, number: int) -> None:
        request = self._plan.request_of(number)

        def send(events: list[event_pb2.Event]) -> bool:
            if merged := self._joint.add(number, events):
                self._send(merged)
            return events[-1].HasField("completed")

        tries = 1
        while True:
            if (rest := self._rests_until - time.monotonic()) > 0:
                await asyncio.sleep(rest)
            try:
                await self._call(request, send)
            except InferenceError as exc:
                wait = self._plan.again_after(tries, exc, random.random())
                if wait is None or time.monotonic() + wait >= self._ends:
                    exc.exhausted = tries > 1
                    raise
                self._rests_until = max(self._rests_until, time.monotonic() + wait)
                tries += 1
            else:
                return
