"""Batches from their input to their files, on real workers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from openai import OpenAI

from broker import subjects
from broker.batch import states
from broker.bus import backlog
from broker.bus.leftovers import sweep_results
from broker.v1 import batch_pb2
from tests.system.batches import Runner, chat, line
from tests.system.shared import shared_stack
from tests.system.stack import Stack, until

SECRET = "whsec_bWlsbHJhY2U="
# Lines that only wait have ended by then, and the files are written.
MOST_CANCEL_S = 15.0


class Receiver:
    """A webhook that takes what it is told, as OpenAI's own client reads it."""

    def __init__(self) -> None:
        self._client = OpenAI(api_key="none", webhook_secret=SECRET)
        self.came: list[Any] = []

    async def take(self, request: web.Request) -> web.Response:
        body, headers = await request.text(), dict(request.headers)
        self.came.append(self._client.webhooks.unwrap(body, headers))
        return web.Response(status=204)

    def events(self, batch: str) -> list[str]:
        """What it was told of a batch."""
        return [event.type for event in self.came if event.data.id == batch]


@pytest.fixture(scope="module")
async def receiver(anyio_backend: str) -> AsyncIterator[tuple[Receiver, str]]:
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield receiver, f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    await runner.cleanup()


@pytest.fixture(scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, receiver: tuple[Receiver, str]
) -> AsyncIterator[Stack]:
    sections = {"webhooks": [{"url": receiver[1], "secret": SECRET}]}
    async with shared_stack(tmp_path_factory, sections=sections) as stack:
        yield stack


@pytest.fixture
async def runner(shared: Stack) -> Runner:
    await shared.reset_sim()
    return Runner(shared, f"owner-{time.monotonic_ns()}")


async def charges(runner: Runner) -> int:
    ledger = await runner.stack.ledger()
    return sum(ledger.lines[key].charges for key in ledger.lines if key[0] == runner.owner)


async def test_every_line_is_answered_once_in_the_order_of_the_input(runner: Runner) -> None:
    lines: list[dict[str, Any] | bytes] = [chat(n) if n % 10 else b"  " for n in range(1, 701)]
    record = await runner.over(await runner.create(lines))
    assert record.status == states.COMPLETED
    assert (record.progress.total, record.progress.completed) == (630, 630)
    rows = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(1, 701) if n % 10]
    assert rows[0]["response"]["body"]["choices"]
    assert not record.error_file_id
    assert record.progress.usage.output_tokens > 630
    assert (await runner.stack.sim_stats())["calls"] == 630
    assert await charges(runner) == 630


async def test_lines_that_fail_go_to_the_error_file_and_are_not_charged(runner: Runner) -> None:
    lines = [chat(1), chat(2, "nobody/has-this"), chat(3, "sim/status=400"), chat(4)]
    options = batch_pb2.BatchOptions(mixed_models=True)
    record = await runner.over(await runner.create(lines, options=options))
    assert record.status == states.COMPLETED
    assert (record.progress.completed, record.progress.failed) == (2, 2)
    output, errors = (
        await runner.rows(record.output_file_id),
        await runner.rows(record.error_file_id),
    )
    assert [row["custom_id"] for row in output] == ["line-1", "line-4"]
    assert [(row["response"]["status_code"], row["error"]) for row in errors] == [
        (404, None),
        (400, None),
    ]
    assert set(errors[0]["response"]["body"]["error"]) == {"message", "type", "param", "code"}
    assert await charges(runner) == 2


async def test_a_batch_none_of_whose_lines_is_answered_has_no_output_file(runner: Runner) -> None:
    record = await runner.over(await runner.create([chat(n, "nobody/at-all") for n in range(3)]))
    assert (record.status, record.output_file_id) == (states.COMPLETED, "")
    assert len(await runner.rows(record.error_file_id)) == 3


async def test_an_invalid_input_fails_the_batch_and_names_every_bad_line(runner: Runner) -> None:
    lines: list[dict[str, Any] | bytes] = [
        chat(1),
        b"{nonsense",
        b"",
        line("x", {"model": "sim/echo"}, url="/v1/embeddings"),
        {**chat(2), "custom_id": None},
        chat(1),
        line("get", {"model": "sim/echo"}, method="GET"),
        chat(3, "sim/other"),
        line("no-model", {}),
    ]
    record = await runner.over(await runner.create(lines))
    assert record.status == states.FAILED
    assert [(error.line, error.code) for error in record.errors] == [
        (2, "invalid_json_line"),
        (4, "url_mismatch"),
        (5, "missing_required_parameter"),
        (6, "duplicate_custom_id"),
        (7, "invalid_method"),
        (8, "model_mismatch"),
        (9, "missing_required_parameter"),
    ]
    assert (await runner.stack.sim_stats())["calls"] == 0
    record = await runner.over(await runner.create([b"", b" "]))
    assert [(error.line, error.code) for error in record.errors] == [(0, "empty_file")]


async def test_a_cancelled_batch_keeps_what_was_answered(runner: Runner) -> None:
    batch = await runner.create([chat(n, "sim/ttft_ms=400") for n in range(600)])

    async def begun() -> bool:
        return (await runner.get(batch)).progress.completed > 0

    await until(begun, "some are answered")
    await runner.change(batch, lambda kept: states.cancel(kept, int(time.time())))
    record = await runner.over(batch)
    assert record.status == states.CANCELLED
    output = await runner.rows(record.output_file_id)
    errors = await runner.rows(record.error_file_id)
    assert 0 < len(output) == record.progress.completed < 600
    assert len(output) + len(errors) == 600
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
    assert errors[0]["response"] is None
    assert await charges(runner) == len(output)


@pytest.mark.parametrize("wait", ["advertise", "retry_after=50"])
async def test_lines_that_only_wait_end_soon_after_the_cancel(runner: Runner, wait: str) -> None:
    """Their provider lets 4 calls through at a time: some wait at workers, others for their time.

    Where it says only with a 429 when to come again, they do that much later.
    """
    model = f"sim/{wait[:3]}-cancel,ttft_ms=300,tokens=2,allow_open=4,{wait}"
    batch = await runner.create([chat(n, model) for n in range(600)])

    async def some_are_delayed() -> bool:
        prefix = subjects.line_id(batch, 1).rpartition("_")[0]
        return (await backlog.scheduled(runner.bus))[prefix] > 3

    await until(some_are_delayed, "lines wait", 60)
    cancelled_at = time.monotonic()
    await runner.change(batch, lambda kept: states.cancel(kept, int(time.time())))
    record = await runner.over(batch)
    assert time.monotonic() - cancelled_at < MOST_CANCEL_S
    assert record.status == states.CANCELLED
    assert len(await runner.rows(record.error_file_id)) == 600 - record.progress.completed


async def test_a_webhook_of_the_settings_is_told_how_batches_ended(
    runner: Runner, receiver: tuple[Receiver, str]
) -> None:
    hook, _ = receiver
    cancelled = await runner.create([chat(1)], paused=True)

    async def begun() -> bool:
        return (await runner.get(cancelled)).status == states.IN_PROGRESS

    await until(begun, "it runs")
    await runner.change(cancelled, lambda kept: states.cancel(kept, int(time.time())))
    ended = {
        cancelled: "batch.cancelled",
        await runner.create([chat(1)]): "batch.completed",
        await runner.create([b"nonsense"]): "batch.failed",
        await runner.create([chat(1)], window_s=-1): "batch.expired",
    }
    for batch, event in ended.items():
        await until(lambda batch=batch: hook.events(batch), f"{event} is told", 20)  # type: ignore[misc]
        assert hook.events(batch) == [event]


async def test_a_batch_past_its_window_expires_with_what_was_answered(runner: Runner) -> None:
    batch = await runner.create([chat(n, "sim/ttft_ms=500") for n in range(1500)], window_s=6)
    record = await runner.over(batch)
    assert record.status == states.EXPIRED
    assert record.progress.completed + record.progress.failed < 1500
    errors = await runner.rows(record.error_file_id)
    assert {row["error"]["code"] for row in errors} == {"batch_expired"}
    assert len(errors) == 1500 - record.progress.completed


async def test_what_expired_is_run_again_by_a_batch_of_its_own(runner: Runner) -> None:
    options = batch_pb2.BatchOptions(mixed_models=True)
    lines = [chat(1), chat(2, "sim/status=400"), chat(3), chat(4, "sim/status=400")]
    first = await runner.over(await runner.create(lines, options=options))
    batch = await runner.create([chat(9)], retry_of=first.id, options=options)
    record = await runner.over(batch)
    assert (record.progress.total, record.progress.failed) == (2, 2)
    rows = await runner.rows(record.error_file_id)
    assert [row["custom_id"] for row in rows] == ["line-2", "line-4"]


async def test_a_paused_batch_goes_on_when_it_is_resumed(runner: Runner) -> None:
    batch = await runner.create([chat(n) for n in range(5)], paused=True)

    async def valid() -> bool:
        return (await runner.get(batch)).status == states.IN_PROGRESS

    await until(valid, "it is validated")
    assert (await runner.stack.sim_stats())["calls"] == 0
    await runner.change(batch, states.resume)
    assert (await runner.over(batch)).status == states.COMPLETED


async def test_lines_that_ask_the_same_are_asked_once_on_request(runner: Runner) -> None:
    lines = [{**chat(n % 3), "custom_id": f"c{n}"} for n in range(300)]
    options = batch_pb2.BatchOptions(dedupe=True)
    record = await runner.over(await runner.create(lines, options=options))
    assert (record.status, record.progress.completed) == (states.COMPLETED, 300)
    rows = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"c{n}" for n in range(300)]
    answers = [row["response"]["body"]["choices"] for row in rows]
    assert answers[0] == answers[3] == answers[297]
    assert (await runner.stack.sim_stats())["calls"] == 3
    assert await charges(runner) == 3


async def test_too_many_errors_stop_a_batch(runner: Runner) -> None:
    lines = [chat(n, "sim/status=400") for n in range(6000)]
    options = batch_pb2.BatchOptions(max_error_rate=0.1)
    record = await runner.over(await runner.create(lines, options=options))
    assert record.status == states.CANCELLED
    assert [error.code for error in record.errors] == ["max_error_rate_exceeded"]
    assert record.progress.failed < 3000


async def test_lines_and_results_too_large_for_a_message_go_by_reference(runner: Runner) -> None:
    large = "x" * 1_500_000
    lines = [
        chat(1),
        {**chat(2), "body": {**chat(2)["body"], "metadata_note": large}},
        chat(3, "sim/tokens=300000"),
    ]
    options = batch_pb2.BatchOptions(mixed_models=True)
    record = await runner.over(await runner.create(lines, options=options))
    assert (record.status, record.progress.completed) == (states.COMPLETED, 3)
    rows = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in rows] == ["line-1", "line-2", "line-3"]
    text = rows[2]["response"]["body"]["choices"][0]["message"]["content"]
    assert len(text) > 1 << 20

    async def parts() -> int:
        info = await runner.bus.js.stream_info("OBJ_blobs", subjects_filter="$O.blobs.C.>")
        return len(info.state.subjects or {})

    async def gone() -> bool:
        await sweep_results(runner.bus)  # brokers do it every ten minutes
        return await parts() == 0

    await until(gone, "the parts of results are deleted")
