"""What stands behind a real server in these tests: an engine that does what a test scripts."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import orjson
import uvicorn

from broker import keys, telemetry
from broker.bus import BusError
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.routing import Decision, Target
from broker.routing.candidates import Candidate
from broker.routing.names import Wish
from broker.routing.world import Live
from broker.v1 import control_service_pb2, event_pb2, generation_pb2

SECRET = "mr-test-secret"
AUTHORIZED = {"authorization": f"Bearer {SECRET}"}


def started(**more: object) -> event_pb2.Event:
    return event_pb2.Event(
        started=event_pb2.Started(provider="sim", model="sim-1", upstream_id="up-1", **more)  # type: ignore[arg-type]
    )


def text(piece: str) -> event_pb2.Event:
    return event_pb2.Event(text=event_pb2.TextDelta(text=piece))


FINISHED = event_pb2.Event(
    choice_finished=event_pb2.ChoiceFinished(reason=event_pb2.FINISH_REASON_STOP)
)
COMPLETED = event_pb2.Event(
    completed=event_pb2.Completed(usage=event_pb2.Usage(input_tokens=3, output_tokens=2))
)
HELLO: Sequence[object] = ([started(), text("Hel"), text("lo")], [FINISHED, COMPLETED])


class Exchange:
    """Plays its script: a list is a batch, an event is waited for, an exception is raised."""

    def __init__(self, script: Sequence[object], request_id: str) -> None:
        self.request_id = request_id
        self.answer_id = "chatcmpl-0123"
        self.created = 1_700_000_000
        self.route = ""
        self.closed = asyncio.Event()
        self.asked = 0
        self._script = list(script)

    async def next(self) -> Sequence[event_pb2.Event]:
        self.asked += 1
        while self._script:
            step = self._script.pop(0)
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, BaseException):
                raise step
            else:
                assert isinstance(step, list)
                return step
        return ()

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        """Scripts are played to `next` alone."""

    def close(self) -> None:
        self.closed.set()


@dataclass(frozen=True)
class Model:
    id: str
    provider: str
    operations: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.id.removeprefix(f"{self.provider}/")


@dataclass
class Engine:
    script: Sequence[object] = HELLO
    refusal: Exception | None = None
    is_ready: bool = True
    known: list[Model] = field(
        default_factory=lambda: [
            Model("sim/sim-1", "sim"),
            Model("openai/gpt-4o", "openai", ("generate",)),
        ]
    )
    workers: int = 1
    exchanges: list[Exchange] = field(default_factory=list)
    requests: list[tuple[generation_pb2.Request, KeyRecord, str, float]] = field(
        default_factory=list
    )

    provider_keys: list[str | None] = field(default_factory=list)
    attachments: list[Sequence[bytes | memoryview]] = field(default_factory=list)
    name: str = "edge-test"
    # How often it was asked how it is doing.
    looks: int = 0

    async def submit(
        self,
        request: generation_pb2.Request,
        key: KeyRecord,
        *,
        request_id: str,
        timeout_s: float,
        alias: str = "",
        provider_key: str | None = None,
        attachments: Sequence[bytes | memoryview] = (),
        accepted: bool = False,
    ) -> Exchange:
        self.requests.append((request, key, request_id, timeout_s))
        self.provider_keys.append(provider_key)
        self.attachments.append(attachments)
        if self.refusal is not None:
            raise self.refusal
        exchange = Exchange(self.script, request_id)
        self.exchanges.append(exchange)
        return exchange

    async def decide(self, request: generation_pb2.Request) -> Decision:
        found = [model for model in self.known if model.id == request.generate.model]
        if not found:
            raise InferenceError("model_not_found", "no such model", param="model")
        target = Target(found[0].provider, "main", found[0].name, listed=True)
        return Decision(
            found[0].id, "price", (Candidate(target, Wish(target.model), None, Live()),)
        )

    def models(self) -> Sequence[Model]:
        return self.known

    def near(self, model: str) -> list[str]:
        return [m.id for m in self.known if model[:8] in m.id]

    def ready(self) -> bool:
        return self.is_ready

    def load(self) -> control_service_pb2.GetLoadResponse:
        self.looks += 1
        live = [e for e in self.exchanges if not e.closed.is_set()]
        return control_service_pb2.GetLoadResponse(
            edge="edge-test",
            in_flight=len(live),
            queued=7,
            workers=[
                control_service_pb2.WorkerLoad(worker=f"w{n}", provider="sim", slots=64, sessions=1)
                for n in range(self.workers)
            ],
        )


class KeyTable:
    """Records in memory, with what a test needs to see and to break."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.reads: list[str] = []
        self.down = False
        self.gate: asyncio.Event | None = None
        self.callback: Callable[[str, KeyRecord | None], None] | None = None

    def put(self, secret: str, **fields: object) -> KeyRecord:
        digest = keys.digest(secret)
        record = KeyRecord(id=keys.identifier(digest), name="test", created_at=0.0, **fields)  # type: ignore[arg-type]
        self.records[digest] = record
        if self.callback is not None:
            self.callback(digest, record)
        return record

    async def get(self, digest: str) -> KeyRecord | None:
        self.reads.append(digest)
        record = self.records.get(digest)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise BusError("cannot read an API key")
        return record

    async def watch(self, callback: Callable[[str, KeyRecord | None], None]) -> None:
        self.callback = callback
        await asyncio.Event().wait()


@dataclass
class Edge:
    """A running edge and the ways to look at it."""

    port: int
    engine: Engine
    table: KeyTable
    server: uvicorn.Server
    log: io.BytesIO
    observed: telemetry.Telemetry

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, object]]:
        assert self.observed.sink is not None
        self.observed.sink.flush()
        return [orjson.loads(line) for line in self.log.getvalue().splitlines()]

    def metric(self, start: str) -> float:
        """The sum of the samples whose line starts so."""
        text = self.observed.metrics.render()[0].decode()
        return sum(float(t.split()[-1]) for t in text.splitlines() if t.startswith(start))


Start = Callable[..., Awaitable[Edge]]


def body(**fields: object) -> dict[str, object]:
    return {"model": "sim/sim-1", "messages": [{"role": "user", "content": "Hi"}], **fields}


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def error(reason: str, message: str = "no", **fields: object) -> InferenceError:
    return InferenceError(reason, message, **fields)  # type: ignore[arg-type]
