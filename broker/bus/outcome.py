"""What became of the lines of batches, written once: the stream refuses a second result (R17).

The stream says the same of a line that has its result and of a stream that is full: which of the
two it is, its subject tells. Bodies too large for a message are objects in `blobs`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from broker import subjects
from broker.batch.lines import MAX_CUSTOM_ID
from broker.bus.connection import Bus, BusError
from broker.bus.layout import MAX_INLINE_BODY
from broker.bus.queue import STREAM_FULL, TOO_LARGE, PubAck, Publisher
from broker.bus.responses import RESULT_OF, Blobs
from broker.tasks import Tasks
from broker.v1 import batch_pb2

_log = logging.getLogger(__name__)

_STREAM = "RES"
# While a result cannot be written it is tried again after this long.
_PAUSE_S = 0.5


class Outcomes:
    """Writes results, and says which lines have one."""

    def __init__(self, bus: Bus, publisher: Publisher, blobs: Blobs) -> None:
        self._bus = bus
        self._publisher = publisher
        self._blobs = blobs
        self._insisting = Tasks()
        self._closed = False
        # Why the last result could not be written: all of them tell the same.
        self._trouble = ""

    async def write(
        self, batch_id: str, result: batch_pb2.LineResult, on_stored: Callable[[], None]
    ) -> None:
        """Write a line's result; `on_stored` is called once the line has one, this or another.

        While the stream is full or away it is tried again, until `close`.
        """
        if len(result.json) > MAX_INLINE_BODY:
            self._insist(batch_id, result, on_stored)
            return
        await self._publisher.send(
            subjects.result(batch_id, result.number),
            result.SerializeToString(),
            partial(self._answered, batch_id, result, on_stored),
        )

    async def exists(self, batch_id: str, number: int) -> bool:
        """Whether a line has its result. Raises `BusError`."""
        # The leader is asked: a replica may not know the newest yet.
        return await self._read(batch_id, number) is not None

    async def close(self) -> None:
        """Try no longer, nor anew when the publisher says that it is closed."""
        self._closed = True
        await self._insisting.close()

    def _answered(
        self,
        batch_id: str,
        result: batch_pb2.LineResult,
        on_stored: Callable[[], None],
        ack: PubAck,
    ) -> None:
        if ack.error is None and not ack.unavailable:
            on_stored()
        else:
            self._insist(batch_id, result, on_stored)

    def _insist(
        self, batch_id: str, result: batch_pb2.LineResult, on_stored: Callable[[], None]
    ) -> None:
        if self._closed:
            return
        self._insisting.spawn(self._until_stored(batch_id, result, on_stored), "result")

    async def _until_stored(
        self, batch_id: str, result: batch_pb2.LineResult, on_stored: Callable[[], None]
    ) -> None:
        subject = subjects.result(batch_id, result.number)
        while True:
            try:
                if len(result.json) > MAX_INLINE_BODY:
                    await self._put_apart(batch_id, result)
                ack = await self._publisher.request(subject, result.SerializeToString())
                if await self._stored(batch_id, result, ack):
                    self._trouble = ""
                    on_stored()
                    return
                why = ack.error.description if ack.error is not None else "no stream answers"
            except BusError as exc:
                why = str(exc)
            if why != self._trouble:
                self._trouble = why
                _log.warning("%s and other results cannot be written: %s", subject, why)
            await asyncio.sleep(_PAUSE_S)

    async def _put_apart(self, batch_id: str, result: batch_pb2.LineResult) -> None:
        """Store the body as an object. Raises `BusError`."""
        name = f"{RESULT_OF}{subjects.token(batch_id)}"
        result.object.CopyFrom(await self._blobs.put(name, result.json))

    async def _stored(self, batch_id: str, result: batch_pb2.LineResult, ack: PubAck) -> bool:
        """Whether the line has its result by now. Raises `BusError`."""
        if ack.error is None:
            return not ack.unavailable
        if ack.error.err_code == TOO_LARGE:
            if result.HasField("json"):
                await self._put_apart(batch_id, result)
            else:
                _give_up(result)
            return False
        if ack.error.err_code != STREAM_FULL:
            return False
        there = await self._read(batch_id, result.number)
        if there is None:
            return False
        mine = result.object.name
        if mine and there.object.name != mine:
            await self._blobs.discard(mine)
        return True

    async def _read(self, batch_id: str, number: int) -> batch_pb2.LineResult | None:
        try:
            found = await self._bus.js.get_last_msg(_STREAM, subjects.result(batch_id, number))
        except NotFoundError:
            return None
        except (NatsError, TimeoutError) as exc:
            raise BusError(f"results cannot be read: {exc}") from exc
        return batch_pb2.LineResult.FromString(found.data or b"")


def _give_up(result: batch_pb2.LineResult) -> None:
    """Leave an error of what is too large although its body is elsewhere; what it cost stays."""
    kept = batch_pb2.LineResult(
        number=result.number,
        custom_id=result.custom_id[:MAX_CUSTOM_ID],
        error=batch_pb2.BatchError(
            code="result_too_large", message="The result of this line is too large to be stored."
        ),
    )
    if result.HasField("usage"):
        kept.usage.CopyFrom(result.usage)
        kept.usage.ClearField("tool_calls")
    if result.HasField("cost"):
        kept.cost.nano_usd = result.cost.nano_usd
    result.CopyFrom(kept)
