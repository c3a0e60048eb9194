"""The queues of durable work: jobs now, jobs later, and news of cancelled ones."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from broker import durable, subjects
from broker.bus.connection import Bus, BusError
from broker.bus.ending import leaving
from broker.bus.queue import Publisher
from broker.routing import Target
from broker.v1 import job_pb2

_log = logging.getLogger(__name__)
_RETRY_S = 0.25


async def publish(
    publisher: Publisher,
    job: job_pb2.Job,
    target: Target,
    *,
    lane: str = subjects.BACKGROUND,
    delay_s: float = 0.0,
    patience_s: float = 5.0,
) -> None:
    """Put a job into its lane, at once or in `delay_s`. Raises `BusError`.

    Sent again until a stream has it, for `patience_s`; its id makes that the same job.
    """
    model = durable.model_token(target)
    headers = {"Nats_Msg_Id": subjects.message_id(job.request_id, job.attempt)}
    subject = subjects.job(lane, target.provider, target.pool, model)
    if delay_s:
        # The server's clock decides: by another one a job is late, or due at once.
        due = dt.datetime.fromtimestamp(await publisher.clock.now() + delay_s, dt.UTC)
        headers["Nats_Schedule"] = f"@at {due.isoformat(timespec='milliseconds')[:-6]}Z"
        headers["Nats_Schedule_Target"] = subjects.due(lane, target.provider, target.pool, model)
        subject = subjects.schedule(lane, job.request_id, subject)
    data = job.SerializeToString()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        ack = await publisher.request(subject, data, **headers)
        if ack.error is None and not ack.unavailable:
            return
        why = ack.error.description if ack.error is not None else "no stream answers"
        if loop.time() > deadline or ack.error is not None:
            raise BusError(f"the queue did not take the job: {why}")
        await asyncio.sleep(_RETRY_S)


async def tell_cancelled(bus: Bus, route: job_pb2.Route, response_id: str) -> None:
    """Have the worker that runs the response stop at once; its log is closed to it anyway."""
    subject = subjects.cancel(route.provider, route.pool)
    try:
        await bus.nc.publish(subject, response_id.encode())
    except NatsError as exc:
        _log.warning("a worker was not told of a cancelled response: %s", exc)


async def hear_cancelled(
    bus: Bus, provider: str, pool: str, stop: Callable[[str], None]
) -> Callable[[], Awaitable[None]]:
    """Call `stop(id)` for responses of this pool that are cancelled. Returns how to end it."""

    async def heard(msg: Msg) -> None:
        stop(msg.data.decode())

    subscription = await bus.nc.subscribe(subjects.cancel(provider, pool), cb=heard)
    return leaving(subscription)
