"""A chat server over real HTTP that a test scripts, and one attempt at it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from broker.errors import InferenceError
from broker.settings import FetchSettings
from broker.v1 import delivery_service_pb2, event_pb2, generation_pb2, job_pb2, record_pb2
from tests.workers.parameters.cells import Settings
from workers import registry
from workers.attempt import Attempt
from workers.fetch import Fetcher
from workers.keys import Keys
from workers.upstream import Upstream

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass
class Chat:
    """`answer(body)` gives the pieces of the text, or a web.Response; an int in it is a pause."""

    answer: Callable[[dict[str, Any]], Any]
    finish: str = "stop"
    # Goes on for so many pieces after the scripted ones.
    endless: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    cut_off: int = 0
    open: int = 0
    most_open: int = 0
    url: str = ""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Chat]:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{path:.*}", self._reply)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.bodies.append(body)
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            said = self.answer(body)
            if asyncio.iscoroutine(said):
                said = await said
            if isinstance(said, web.Response):
                return said
            pieces = [said] if isinstance(said, str) else list(said)
            if body.get("stream"):
                return await self._stream(request, pieces)
            return web.json_response(self._whole("".join(pieces)))
        except (asyncio.CancelledError, ConnectionError):
            self.cut_off += 1
            raise
        finally:
            self.open -= 1

    def _whole(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "m"} | {
            "choices": [choice],
            "usage": USAGE,
        }

    async def _stream(self, request: web.Request, pieces: Sequence[str]) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)

        async def send(delta: dict[str, Any], finish: str | None = None, **more: Any) -> None:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            data = json.dumps(chunk | {"choices": choices} | more)
            await reply.write(f"data: {data}\n\n".encode())
            await asyncio.sleep(0)

        for piece in pieces:
            await send({"content": piece})
        while self.endless:
            await send({"content": "more "})
            await asyncio.sleep(0.005)
        await send({}, self.finish, usage=USAGE)
        await reply.write(b"data: [DONE]\n\n")
        return reply


class Events:
    """Stands where the link to an edge is: keeps what an attempt sends."""

    def __init__(self) -> None:
        self.credit = 1 << 20
        self.events: list[event_pb2.Event] = []

    def send(self, events: list[event_pb2.Event], *, last: bool = False) -> None:
        assert not self.ended, "nothing may follow the last event"
        self.events += [event_pb2.Event.FromString(e.SerializeToString()) for e in events]
        assert last == self.ended

    async def wait_credit(self) -> None:
        raise AssertionError("there is plenty")

    @property
    def ended(self) -> bool:
        kinds = [event.WhichOneof("kind") for event in self.events]
        return "completed" in kinds or "failed" in kinds


@dataclass
class Outcome:
    events: list[event_pb2.Event]
    record: record_pb2.AttemptRecord

    @property
    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("kind") for event in self.events]

    def text(self, choice: int = 0) -> str:
        return "".join(
            e.text.text for e in self.events if e.HasField("text") and e.text.choice == choice
        )

    @property
    def finishes(self) -> dict[int, int]:
        return {
            e.choice_finished.choice: e.choice_finished.reason
            for e in self.events
            if e.HasField("choice_finished")
        }

    @property
    def failure(self) -> InferenceError:
        assert self.events[-1].HasField("failed"), self.kinds
        return InferenceError.from_failure(self.events[-1].failed)


async def attempt(
    kind: str,
    url: str,
    request: generation_pb2.Request,
    model: str = "m",
    fetch: FetchSettings = FetchSettings(allow_private=True),  # noqa: B008
) -> Outcome:
    """One attempt at a provider of this kind whose server is at `url`."""
    provider = registry.load(Settings(kind, url))
    upstream = Upstream(provider)
    fetcher = Fetcher(fetch)
    events = Events()
    job = job_pb2.Job(request_id="r", attempt=1)
    job.route.model = model
    grant = delivery_service_pb2.Grant(remaining_ms=20_000)
    one = Attempt(job, events, provider, "w")
    try:
        await one.run(request, grant, upstream, Keys(("k",)), fetcher)
        assert upstream.in_flight == 0
    finally:
        await upstream.close()
        await fetcher.close()
    assert events.ended
    return Outcome(events.events, one.record)


def ask(**fields: Any) -> generation_pb2.Request:
    """A request for a few words."""
    generate = generation_pb2.GenerateRequest(**fields)
    if not generate.messages:
        generate.messages.add(role=3).parts.add().text.text = "Say something."
    return generation_pb2.Request(generate=generate)
