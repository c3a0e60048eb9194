"""Lines of batches as tests publish and read them: nobody runs the batch."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from broker import dispatch, durable, subjects
from broker.routing import Target
from broker.v1 import batch_pb2, job_pb2
from tests.system.stack import Stack, until

CHAT = "/v1/chat/completions"
BATCH = "batch_" + "0" * 31 + "1"


# Of lines that nobody works on, in seconds: the product's own minute is long for a test.
LEASE_S = 8.0


async def shorten_leases(stack: Stack, seconds: float = LEASE_S) -> None:
    """Have lines of lost workers come back soon."""
    name = subjects.consumer(subjects.BATCH, "sim", "main")
    info = await stack.bus.js.consumer_info("BAT", name)
    config: ConsumerConfig = info.config
    if config.ack_wait != seconds:
        config.ack_wait = seconds
        await stack.bus.js.add_consumer("BAT", config)


def chat(model: str = "sim", prompt: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}


@dataclass
class Lines:
    """The lines of one batch on a stack."""

    stack: Stack
    batch: str = BATCH
    provider: str = "sim"
    published: int = 0
    jobs: list[job_pb2.Job] = field(default_factory=list)

    def job(
        self, body: dict[str, Any] | bytes, endpoint: str = CHAT, model: str = "", **fields: Any
    ) -> job_pb2.Job:
        self.published += 1
        number = self.published
        name = model or (body["model"] if isinstance(body, dict) else "sim")
        line = job_pb2.BatchLine(
            batch_id=self.batch,
            number=number,
            custom_id=f"line-{number}",
            endpoint=endpoint,
            json=body if isinstance(body, bytes) else json.dumps(body).encode(),
        )
        job = job_pb2.Job(
            request_id=subjects.line_id(self.batch, number),
            attempt=1,
            tenant="t",
            owner="t",
            line=line,
        )
        target = Target(self.provider, "main", name.removeprefix(f"{self.provider}/"), listed=False)
        durable.put_plan(job, dispatch.Plan([target]))
        job.MergeFrom(job_pb2.Job(**fields))
        return job

    async def publish(self, *jobs: job_pb2.Job) -> None:
        subject = subjects.job(subjects.BATCH, self.provider, "main", subjects.UNLISTED)
        gate = asyncio.Semaphore(100)

        async def one(job: job_pb2.Job) -> None:
            async with gate:
                name = subjects.message_id(job.request_id, job.attempt)
                headers = {"Nats-Msg-Id": name}
                await self.stack.bus.js.publish(subject, job.SerializeToString(), headers=headers)

        await asyncio.gather(*map(one, jobs))

    async def send(self, *bodies: dict[str, Any] | bytes, endpoint: str = CHAT) -> None:
        await self.publish(*(self.job(body, endpoint) for body in bodies))

    async def queued(self) -> int:
        """Lines in the queue or with workers."""
        return int((await self.stack.bus.js.stream_info("BAT")).state.messages)

    async def results(self) -> int:
        info = await self.stack.bus.js.stream_info(
            "RES", subjects_filter=subjects.results(self.batch)
        )
        return len(info.state.subjects or {})

    async def result(self, number: int) -> batch_pb2.LineResult | None:
        try:
            found = await self.stack.bus.js.get_last_msg("RES", subjects.result(self.batch, number))
        except NotFoundError:
            return None
        return batch_pb2.LineResult.FromString(found.data or b"")

    async def all(self, timeout_s: float = 40.0) -> list[batch_pb2.LineResult]:
        """The results of all lines that were published, once all have one and all is settled."""

        async def over() -> bool:
            try:
                return await self.results() == self.published and not await self.queued()
            except (NatsError, JetStreamError):  # while it is restarted
                return False

        await until(over, "every line has its result", timeout_s)
        found = await asyncio.gather(
            *(self.result(number) for number in range(1, self.published + 1))
        )
        return [result for result in found if result is not None]

    async def one(self, body: dict[str, Any] | bytes, endpoint: str = CHAT) -> Any:
        """(status, body) of a line."""
        await self.send(body, endpoint=endpoint)
        number = self.published
        result = await until(lambda: self.result(number), f"line {number} has its result")
        return result.status, json.loads(result.json) if result.json else None
