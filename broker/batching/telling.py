"""Tells webhooks of batches that are over: at least once, whoever leads and however often it dies.

Who was told is in the batch's record, and a batch stays active until everybody was, or has not
answered for a day.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.batch import webhooks
from broker.batching.run import Run
from broker.bus.ending import end
from broker.settings import Webhook
from broker.v1 import batch_pb2

if TYPE_CHECKING:
    import httpx

_log = logging.getLogger(__name__)

_TIMEOUT_S = 15.0
# Posts under way at a time.
_AT_ONCE = 16


class Telling:
    """See the module."""

    def __init__(self, hooks: Sequence[Webhook], waits_s: Sequence[float]) -> None:
        self._hooks = hooks
        self._waits_s = waits_s
        self._client: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def tell(self, run: Run) -> None:
        """Return when nobody has to be told any more. Raises `BusError`, `FencedError`."""
        event = webhooks.event_of(run.record)
        wanted = [
            hook
            for hook in self._hooks
            if event in hook.events and webhooks.mark(hook.url) not in run.record.told
        ]
        tasks = [asyncio.create_task(self._insist(run, hook), name="webhook") for hook in wanted]
        try:
            await asyncio.gather(*tasks)
        finally:
            # Whoever begins anew tells the others, too.
            for task in tasks:
                await end(task)

    async def close(self) -> None:
        """Leave the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _insist(self, run: Run, hook: Webhook) -> None:
        event, place = webhooks.event_id(run.record), webhooks.place(hook.url)
        for wait_s in (*self._waits_s, None):
            why = await self._post(run, hook)
            if not why:
                break
            if wait_s is None:
                _log.error("webhook %s does not take %s (%s): given up", place, event, why)
                break
            _log.warning("webhook %s did not take %s: %s; again in %g s", place, event, why, wait_s)
            await asyncio.sleep(wait_s)

        def told(kept: batch_pb2.StoredBatch) -> bool:
            kept.told.append(webhooks.mark(hook.url))
            return True

        await run.edit(told)

    async def _post(self, run: Run, hook: Webhook) -> str:
        """Try once; why it was not taken, or nothing."""
        import httpx  # noqa: PLC0415  # it costs 10 MB, and few have webhooks

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False)
        body = webhooks.payload(run.record)
        event = webhooks.event_id(run.record)
        headers = webhooks.headers(hook.secret, event, run.services.now(), body)
        try:
            async with self._slots:
                answer = await self._client.post(hook.url, content=body, headers=headers)
        except httpx.HTTPError as exc:
            return str(exc) or type(exc).__name__
        return "" if answer.is_success else f"status {answer.status_code}"
