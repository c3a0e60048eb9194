"""A leader of batches that can be killed behind any of its writes, and a worker that cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import pytest

from broker import subjects
from broker.batch import names, states
from broker.batch.lines import Head
from broker.batching import publish
from broker.batching.engine import Engine
from broker.batching.services import Pace, Services
from broker.batching.telling import Telling
from broker.bus import Bus
from broker.bus.atomic import publish_all
from broker.bus.batches import Batches
from broker.bus.ending import end
from broker.bus.files import Files
from broker.bus.outcome import Outcomes
from broker.bus.queue import Publisher
from broker.bus.recorder import Recorder
from broker.bus.responses import Blobs
from broker.bus.results import Results
from broker.errors import InferenceError
from broker.routing import Target
from broker.settings import Webhook
from broker.v1 import batch_pb2, event_pb2, file_pb2, job_pb2

CHAT = "/v1/chat/completions"
OWNER = "acme"
PACE = Pace(checkpoint_s=0.05, look_s=0.02, reread_s=0.5, quiet_s=0.3, orphan_s=0.5, grace_s=3600)
TARGET = Target("sim", "main", "m", listed=True)
OTHER = Target("sim", "other", "other", listed=True)
# What a leader writes, as (part of the services, method).
WRITES = (
    ("batches", "update"),
    ("batches", "stop"),
    ("batches", "unstop"),
    ("batches", "let_go"),
    ("files", "put"),
    ("results", "purge"),
    ("outcomes", "write"),
    ("blobs", "put_as"),
)


class Routes:
    """Everything goes to one place; models that begin with `no` are unknown.

    Those that are `other` go to a pool of their own, those that are `absent` have no worker.
    """

    async def decide(
        self, _endpoint: str, head: Head, _body: bytes
    ) -> tuple[Target, ...] | InferenceError:
        if head.model.startswith("no"):
            return InferenceError("model_not_found", f"no model {head.model}")
        if head.model == "absent":
            return InferenceError("no_worker", "there is no worker")
        if head.model == "other":
            return (OTHER,)
        return (TARGET,)


class Worker:
    """Answers lines: its own way by their text, and counts how often each was asked."""

    def __init__(self, bus: Bus, pool: str = "main") -> None:
        self._bus = bus
        self._pool = pool
        self.asked: Counter[str] = Counter()
        self.stops: dict[str, str] = {}
        self.loses: Callable[[job_pb2.Job], bool] = lambda _job: False
        self.held = asyncio.Event()
        self.held.set()

    async def work(self) -> None:
        pull = await self._bus.js.pull_subscribe_bind(
            subjects.consumer("bat", "sim", self._pool), "BAT"
        )
        while True:
            await self.held.wait()
            with contextlib.suppress(TimeoutError):
                for message in await pull.fetch(50, timeout=0.5):
                    job = job_pb2.Job.FromString(message.data)
                    if not self.loses(job):
                        await self._answer(job)
                    await message.ack()

    async def _answer(self, job: job_pb2.Job) -> None:
        result = batch_pb2.LineResult(
            number=job.line.number, custom_id=job.line.custom_id, attempt=job.attempt
        )
        code = await self._stop(job.line.batch_id)
        if code:
            result.error.CopyFrom(batch_pb2.BatchError(code=code, message=states.STOPPED[code]))
        else:
            self.asked[job.request_id] += 1
            result.status = 400 if b'"bad"' in job.line.json else 200
            result.json = b'{"said":"%d"}' % job.line.number
            result.usage.CopyFrom(event_pb2.Usage(output_tokens=1))
            result.route.CopyFrom(job.route)
        # The stream refuses a second one.
        with contextlib.suppress(Exception):
            await self._bus.js.publish(
                subjects.result(job.line.batch_id, result.number), result.SerializeToString()
            )

    async def _stop(self, batch_id: str) -> str:
        kv = await self._bus.kv(subjects.BATCHES)
        with contextlib.suppress(Exception):
            return ((await kv.get(subjects.stop_key(batch_id))).value or b"").decode()
        return ""


class Leader:
    """Leads until it is closed, or killed behind its n-th write."""

    def __init__(
        self,
        bus: Bus,
        monkeypatch: pytest.MonkeyPatch,
        dies_behind: int = 0,
        hooks: tuple[Webhook, ...] = (),
    ) -> None:
        self._bus = bus
        self._dies_behind = dies_behind
        self._hooks = hooks
        self._monkeypatch = monkeypatch
        self.slots = 4
        self.writes: list[str] = []
        self.dead = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        bus = self._bus
        self._publisher = Publisher(bus, timeout_s=2.0)
        await self._publisher.start()
        self._recorder = Recorder(self._publisher)
        blobs = Blobs(bus)
        services = Services(
            bus=bus,
            batches=Batches(bus),
            files=Files(bus),
            results=Results(bus),
            outcomes=Outcomes(bus, self._publisher, blobs),
            blobs=blobs,
            recorder=self._recorder,
            routes=Routes(),  # type: ignore[arg-type]
            slots=lambda _subject: self.slots,
            pace=PACE,
        )
        for part, method in WRITES:
            target = getattr(services, part)
            setattr(target, method, self._counted(method, getattr(target, method)))
        self._monkeypatch.setattr(publish, "publish_all", self._counted("publish", publish_all))
        self._telling = Telling(self._hooks, (0.05, 0.05, 0.05))
        self.engine = Engine(services, self._telling)
        self._tasks.append(asyncio.create_task(self.engine.lead()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            await end(task)
        self._recorder._sending.cancel()  # what a killed process had not sent
        await self._telling.close()
        await self._publisher.close()

    def _counted(self, name: str, call: Any) -> Any:
        async def counted(*args: Any, **options: Any) -> Any:
            if self.dead.is_set():
                await asyncio.Event().wait()
            done = await call(*args, **options)
            self.writes.append(name)
            if len(self.writes) == self._dies_behind:
                self.dead.set()
                await asyncio.Event().wait()
            return done

        return counted


class Author:
    """Makes batches and reads what became of them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.batches = Batches(bus)
        self.files = Files(bus)

    async def create(self, data: bytes, **fields: Any) -> str:
        async def pieces() -> AsyncIterator[bytes]:
            yield data

        owner = fields.pop("owner", OWNER)
        asked = file_pb2.StoredFile(
            owner=owner, purpose=file_pb2.FILE_PURPOSE_BATCH, filename="in.jsonl"
        )
        file = await self.files.put(asked, pieces())
        now = time.time_ns() // 1_000_000
        window_s = fields.pop("window_s", 3600)
        record = batch_pb2.StoredBatch(
            id=names.new_id(now, os.urandom(10)),
            owner=owner,
            tenant=fields.pop("tenant", OWNER),
            status=states.VALIDATING,
            endpoint=CHAT,
            input_file_id=file.id,
            created_at=now // 1000,
            expires_at=now // 1000 + window_s,
            **fields,
        )
        await self.batches.create(record)
        return record.id

    async def get(self, batch_id: str) -> batch_pb2.StoredBatch:
        found = await self.batches.get(OWNER, batch_id)
        assert found is not None
        return found

    async def over(self, batch_id: str) -> bool:
        return (await self.get(batch_id)).status in states.FINAL

    async def let_go(self, batch_id: str) -> bool:
        """Whether nothing is kept any more of how it was run."""
        stream = await self._bus.js.stream_info(
            "KV_batches", subjects_filter=f"$KV.batches.{subjects.active_key(batch_id)}"
        )
        left = await self._bus.js.stream_info("RES", subjects_filter=subjects.results(batch_id))
        return not stream.state.subjects and not left.state.subjects

    async def content(self, file_id: str) -> bytes:
        record = await self.files.get(OWNER, file_id) if file_id else None
        return b"".join([p async for p in self.files.read(record)]) if record else b""
