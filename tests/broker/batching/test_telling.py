"""Webhooks of batches: told again until they take it, by whoever leads then, and once each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from broker.batch import states
from broker.batching.telling import Telling
from broker.bus import Bus, BusError
from broker.bus.ending import end
from broker.settings import Webhook
from broker.v1 import batch_pb2
from tests.broker.batching.leading import Author, Leader, Worker
from tests.broker.bus.server import until

LINE = (
    b'{"custom_id":"c","method":"POST","url":"/v1/chat/completions",'
    b'"body":{"model":"m","messages":[]}}\n'
)


class Receiver:
    """An HTTP server that answers with these statuses in turn, then 204."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.came: list[tuple[str, str]] = []

    async def take(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.came.append((request.headers["webhook-id"], body["type"]))
        assert request.headers["webhook-signature"].startswith("v1,")
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Receiver], Awaitable[str]]]:
    runners: list[web.AppRunner] = []

    async def start(receiver: Receiver) -> str:
        app = web.Application()
        app.router.add_post("/hook", receiver.take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        port = runner.addresses[0][1]
        return f"http://127.0.0.1:{port}/hook"

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_a_webhook_is_told_until_it_takes_it_and_others_are_not_told_again(
    bus: Bus, serve: Callable[[Receiver], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick, other = Receiver(500, 404), Receiver(), Receiver()
    hooks = (
        Webhook(await serve(slow), "s"),
        Webhook(await serve(quick), "s", ("batch.completed",)),
        Webhook(await serve(other), "s", ("batch.failed",)),
    )
    working = asyncio.create_task(Worker(bus).work())
    author = Author(bus)
    async with Leader(bus, monkeypatch, hooks=hooks):
        batch = await author.create(LINE)
        await until(lambda: author.let_go(batch), "it is let go", 20)
        bad = await author.create(b"nonsense")
        await until(lambda: author.let_go(bad), "that one, too", 20)
    await end(working)
    completed = (f"evt_{batch.removeprefix('batch_')}_completed", "batch.completed")
    failed = (f"evt_{bad.removeprefix('batch_')}_failed", "batch.failed")
    assert slow.came == [completed, completed, completed, failed]
    assert quick.came == [completed]
    assert other.came == [failed]


async def test_who_takes_over_tells_those_that_were_not_told(
    bus: Bus,
    serve: Callable[[Receiver], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    down, quick = Receiver(*[503] * 3), Receiver()
    place = await serve(down)
    hooks = (Webhook(f"{place}?token=secret", "s"), Webhook(await serve(quick), "s"))
    author = Author(bus)
    batch = await author.create(b"nonsense")
    async with Leader(bus, monkeypatch, hooks=hooks) as leader:

        async def one_told() -> bool:
            return len((await author.get(batch)).told) == 1

        await until(one_told, "one of them is told", 20)
        # It is over: nothing of it runs any more.
        assert leader.engine.batches() == {}
    async with Leader(bus, monkeypatch, hooks=hooks):
        await until(lambda: author.let_go(batch), "it is let go", 20)
    assert len(quick.came) == 1
    assert not down.statuses
    # Many services know who posts by the path or the query alone.
    assert place.removesuffix("/hook") in caplog.text
    assert "/hook" not in caplog.text
    assert "token" not in caplog.text
    assert len((await author.get(batch)).told) == 2


async def test_what_cannot_be_written_down_leaves_no_webhook_that_is_told_by_two(
    serve: Callable[[Receiver], Awaitable[str]],
) -> None:
    down, quick = Receiver(*[503] * 99), Receiver()
    telling = Telling([Webhook(await serve(down), "s"), Webhook(await serve(quick), "s")], [60.0])

    async def fail(_edit: object) -> None:
        raise BusError("no answer")

    record = batch_pb2.StoredBatch(id="batch_1", status=states.COMPLETED)
    run: Any = SimpleNamespace(record=record, services=SimpleNamespace(now=int), edit=fail)
    with pytest.raises(BusError):
        await telling.tell(run)
    assert quick.came
    assert not [task for task in asyncio.all_tasks() if "_insist" in str(task.get_coro())]
    await telling.close()
