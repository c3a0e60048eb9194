"""The engine beside others and in bad times: lines that strand, tenants, deadlines, lost inputs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest
from nats.errors import Error as NatsError

from broker import subjects
from broker.batch import states
from broker.batching import engine, lost, publish
from broker.batching.run import Run
from broker.bus import Bus, BusError, atomic, backlog
from broker.bus.background import publish as publish_job
from broker.bus.delays import Delays
from broker.bus.ending import end
from broker.bus.files import Files
from broker.bus.queue import Publisher
from broker.bus.responses import Blobs
from broker.bus.results import Results, Seen
from broker.bus.usage import usage_groups
from broker.errors import InferenceError
from broker.ledger import Ledger
from broker.v1 import batch_pb2, job_pb2
from tests.broker.batching.leading import TARGET, Author, Leader, Worker
from tests.broker.bus.server import NatsServer, until


@pytest.fixture
async def bus(bus: Bus) -> Bus:
    # What was on its way to a client when the server died comes back after this long.
    name = subjects.consumer("bat", "sim", "main")
    config = (await bus.js.consumer_info("BAT", name)).config
    await bus.js.add_consumer("BAT", config.evolve(ack_wait=3.0))
    return bus


@pytest.fixture
async def worker(bus: Bus) -> AsyncIterator[Worker]:
    worker = Worker(bus)
    working = asyncio.create_task(worker.work())
    yield worker
    await end(working)


def lines(count: int, text: str = "") -> bytes:
    return b"".join(
        b'{"custom_id":"c%d","method":"POST","url":"/v1/chat/completions",'
        b'"body":{"model":"m","user":"%b","messages":[]}}\n' % (number, text.encode())
        for number in range(1, count + 1)
    )


async def ledger(bus: Bus) -> int:
    found = Ledger()
    async for group in usage_groups(bus):
        found.apply(group)
    return found.total().charges


async def test_r18_lines_that_strand_are_found_and_run_again(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: set[str] = set()

    def loses(job: job_pb2.Job) -> bool:
        first = job.line.number % 7 == 0 and job.request_id not in gone
        gone.add(job.request_id)
        return first

    worker.loses = loses
    author = Author(bus)
    batch = await author.create(lines(200))
    async with Leader(bus, monkeypatch) as leader:
        await until(lambda: leader.engine.lines()["done",] > 100, "some are done", 20)
        assert leader.engine.batches() == {("in_progress",): 1}
        assert leader.engine.lines()["total",] == 200
        await until(lambda: author.over(batch), "it is over", 30)
        await until(lambda: author.let_go(batch), "it is let go", 10)
        await until(lambda: leader.engine.batches() == {}, "it runs no longer", 10)
        record = await author.get(batch)
        assert record.status == states.COMPLETED
        assert (record.progress.completed, record.progress.epoch) == (200, 1)
        assert set(worker.asked.values()) == {1}
        assert await ledger(bus) == 200
        # A copy of such a line may be queued still: it must not run.
        kv = await bus.kv(subjects.BATCHES)
        assert (await kv.get(subjects.stop_key(batch))).value


async def test_a_counter_that_dies_is_begun_anew(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[int] = []
    follow = Results.follow

    async def dies_once(results: Results, start: int) -> AsyncGenerator[list[Seen], None]:
        async for group in follow(results, start):
            if not deaths:
                deaths.append(start)
                raise ValueError("a bug")
            yield group

    monkeypatch.setattr(Results, "follow", dies_once)
    author = Author(bus)
    batch = await author.create(lines(20))
    async with Leader(bus, monkeypatch):
        await until(lambda: author.over(batch), "it is over", 30)
    assert deaths
    assert (await author.get(batch)).progress.completed == 20


async def test_a_stopped_batch_ends_though_some_of_its_lines_are_lost(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.loses = lambda job: job.line.number == 3
    author = Author(bus)
    batch = await author.create(lines(20), window_s=2)
    async with Leader(bus, monkeypatch):
        await until(lambda: author.over(batch), "it is over", 30)
    record = await author.get(batch)
    assert record.status == states.EXPIRED
    assert record.progress.completed == 19
    errors = await author.content(record.error_file_id)
    assert errors.count(b"\n") == 1
    assert b'"custom_id":"c3"' in errors
    assert b'"batch_expired"' in errors


async def test_delayed_lines_of_a_stopped_batch_are_ended_once_though_it_is_looked_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, worker = Author(bus), Worker(bus)
    publisher = Publisher(bus, timeout_s=2.0)
    await publisher.start()
    # It ends nowhere, so that the others are looked for as long as it is waited for.
    worker.loses = lambda job: job.line.number == 100

    async def answer(job: job_pb2.Job) -> None:
        job.attempt += 1
        await publish_job(publisher, job, TARGET, lane="bat", delay_s=60.0)

    monkeypatch.setattr(worker, "_answer", answer)
    looks: list[int] = []
    end_delayed = lost.end_delayed

    async def looked(run: Run, ended: set[int]) -> None:
        await end_delayed(run, ended)
        looks.append(len(ended))

    monkeypatch.setattr(lost, "end_delayed", looked)
    batch = await author.create(lines(100))
    prefix = subjects.line_id(batch, 1).rpartition("_")[0]
    async with Leader(bus, monkeypatch) as leader:
        working = asyncio.create_task(worker.work())

        async def delayed() -> bool:
            return (await backlog.scheduled(bus))[prefix] == 99

        await until(delayed, "they are delayed", 20)
        now = int(time.time())
        await author.batches.change("acme", batch, lambda kept: states.cancel(kept, now))
        await until(lambda: looks[-3:] == [99] * 3, "they are ended", 20)
        assert leader.writes.count("write") == 99
        assert (await author.get(batch)).status == states.CANCELLING
        await end(working)
    await publisher.close()


async def test_a_batch_is_cancelled_though_nobody_is_there_to_take_its_lines(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    batch = await author.create(lines(10))
    async with Leader(bus, monkeypatch) as leader:
        leader.slots = 0

        async def queued() -> bool:
            return (await bus.js.stream_info("BAT")).state.messages == 10

        await until(queued, "its lines are queued")
        now = int(time.time())
        await author.batches.change("acme", batch, lambda kept: states.cancel(kept, now))
        await until(lambda: author.over(batch), "it is over", 20)
        await until(lambda: author.let_go(batch), "it is let go", 20)
        record = await author.get(batch)
        assert record.status == states.CANCELLED
        assert (await author.content(record.error_file_id)).count(b"\n") == 10
        # Whoever takes them one day must not run them.
        kv = await bus.kv(subjects.BATCHES)
        assert (await kv.get(subjects.stop_key(batch))).value == b"batch_cancelled"


async def test_two_leaders_at_once_do_no_harm(
    bus: Bus, nats: NatsServer, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await nats.bus("other")
    author = Author(bus)
    async with Leader(bus, monkeypatch), Leader(other, monkeypatch):
        batches = [await author.create(lines(500)) for _ in range(3)]
        for batch in batches:
            await until(partial(author.over, batch), "it is over", 40)
    for batch in batches:
        record = await author.get(batch)
        assert (record.status, record.progress.completed) == (states.COMPLETED, 500)
        assert record.progress.usage.output_tokens == 500
        assert (await author.content(record.output_file_id)).count(b"\n") == 500
    assert set(worker.asked.values()) == {1}
    assert await ledger(bus) == 1500
    await other.close()


async def test_the_server_may_be_killed_in_the_middle(
    bus: Bus, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(bus)
    author = Author(bus)
    batch = await author.create(lines(1500))

    async def some() -> bool:
        return 0 < (await author.get(batch)).progress.completed < 1500

    async def work() -> None:
        while True:
            try:
                await worker.work()
            except (NatsError, BusError):
                await asyncio.sleep(0.1)

    working = asyncio.create_task(work())
    async with Leader(bus, monkeypatch):
        await until(some, "some are answered", 20)
        nats.kill()
        await nats.start()
        await until(lambda: bus.connected, "it is connected again")
        await until(lambda: author.over(batch), "it is over", 60)
    await end(working)
    record = await author.get(batch)
    assert (record.status, record.progress.completed) == (states.COMPLETED, 1500)
    assert (await author.content(record.output_file_id)).count(b"\n") == 1500
    assert await ledger(bus) == 1500


async def test_lines_are_never_further_ahead_than_the_window_and_owners_take_turns(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    # Keys without a tenant have files and batches of their own.
    late = await author.create(lines(2000), owner="big", tenant="default", window_s=9000)
    soon = await author.create(lines(2000), owner="big", tenant="default", window_s=600)
    small = await author.create(lines(2000), owner="small", tenant="default", window_s=9000)
    monkeypatch.setattr(publish, "window", lambda _slots, _rate: 384)
    worker = Worker(bus)

    async def ahead() -> int:
        return (await bus.js.stream_info("BAT")).state.messages

    async with Leader(bus, monkeypatch):
        await until(ahead, "lines are queued")

        async def full() -> bool:
            return await ahead() == 384

        await until(full, "the window is full")
        working = asyncio.create_task(worker.work())
        most = 0
        while len(worker.asked) < 1000:
            most = max(most, await ahead())
            await asyncio.sleep(0.01)
        await end(working)
    assert most <= 384
    shares = Counter(name.rsplit("_", 1)[0].removeprefix("batch_req_") for name in worker.asked)
    by_batch = {batch: shares[batch.removeprefix("batch_")] for batch in (late, soon, small)}
    assert by_batch[late] <= 384, by_batch
    assert abs(by_batch[soon] + by_batch[late] - by_batch[small]) <= 2 * 384, by_batch


async def test_a_small_batch_does_not_wait_for_all_of_a_large_one_of_its_owner(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, worker = Author(bus), Worker(bus)
    monkeypatch.setattr(publish, "window", lambda _slots, _rate: 128)
    large = await author.create(lines(3000))
    async with Leader(bus, monkeypatch) as leader:
        await until(lambda: leader.engine.lines()["published",] == 128, "the window is full", 20)
        small = await author.create(lines(100), window_s=3700)
        working = asyncio.create_task(worker.work())
        await until(lambda: author.over(small), "the small one is over", 30)
        assert (await author.get(large)).progress.completed < 3000
        await end(working)


async def test_reads_and_publishes_that_fail_for_a_while_leave_no_line_out(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    # More than one piece of the file, so that a group of chunks is read in several steps.
    batch = await author.create(lines(3000, "x" * 500))
    tries = Counter[str]()
    read, publish_all = Files.read, atomic.publish_all

    def failing_read(*args: Any) -> Any:
        tries["read"] += 1
        if tries["read"] % 3 == 0:
            raise BusError("cannot read")
        return read(*args)

    async def failing_publish(*args: Any) -> bool:
        tries["publish"] += 1
        if tries["publish"] % 5 == 0:
            raise (BusError if tries["publish"] % 2 else ValueError)("cannot publish")
        done = await publish_all(*args)
        if tries["publish"] % 7 == 0:
            raise BusError("no answer")
        return done

    async with Leader(bus, monkeypatch) as leader:

        async def begun() -> bool:
            return (await author.get(batch)).status == states.IN_PROGRESS

        await until(begun, "it is valid", 20)
        monkeypatch.setattr(Files, "read", failing_read)
        monkeypatch.setattr(publish, "publish_all", failing_publish)
        monkeypatch.setattr(publish, "_REST_S", 0.05)
        await until(lambda: leader.engine.lines()["published",] == 3000, "all is published", 60)
        monkeypatch.setattr(Files, "read", read)
        await until(lambda: author.over(batch), "it is over", 60)
    record = await author.get(batch)
    assert (record.status, record.progress.completed) == (states.COMPLETED, 3000)
    assert record.progress.epoch == 0
    assert set(worker.asked.values()) == {1}
    assert tries["read"] > 3
    assert tries["publish"] > 5


async def test_an_active_key_without_a_batch_is_forgotten(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    batch = "batch_" + "0" * 32
    await author.batches.touch("acme", batch)
    async with Leader(bus, monkeypatch):
        await until(lambda: author.let_go(batch), "it is forgotten", 10)


async def test_an_input_that_is_deleted_stops_its_batch_and_keeps_what_was_answered(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    monkeypatch.setattr(publish, "window", lambda _slots, _rate: 128)
    worker.held.clear()
    batch = await author.create(lines(5000))
    async with Leader(bus, monkeypatch):

        async def queued() -> bool:
            return (await bus.js.stream_info("BAT")).state.messages > 0

        await until(queued, "lines are queued")
        await author.files.delete("acme", (await author.get(batch)).input_file_id)
        worker.held.set()
        await until(lambda: author.over(batch), "it is over", 30)
    record = await author.get(batch)
    assert record.status == states.CANCELLED
    assert [error.code for error in record.errors] == ["file_not_found"]
    answered = (await author.content(record.output_file_id)).count(b"\n")
    assert 0 < answered == record.progress.completed < 5000


async def test_a_batch_whose_repeats_wait_for_an_input_that_is_deleted_is_stopped(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    batch = await author.create(lines(20), options=batch_pb2.BatchOptions(dedupe=True))
    async with Leader(bus, monkeypatch) as leader:
        await until(lambda: leader.engine.lines()["published",] == 1, "the first is queued", 20)
        await author.files.delete("acme", (await author.get(batch)).input_file_id)
        working = asyncio.create_task(Worker(bus).work())
        await until(lambda: author.over(batch), "it is over", 20)
        await end(working)
    record = await author.get(batch)
    assert record.status == states.CANCELLED
    assert [error.code for error in record.errors] == ["file_not_found"]
    assert (await author.content(record.output_file_id)).count(b"\n") == 1
    assert record.progress.completed == 1


async def test_a_cost_that_is_reached_stops_a_batch(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    options = batch_pb2.BatchOptions(max_cost_nano=1)
    batch = await author.create(lines(10), options=options)
    cost = batch_pb2.LineResult(number=99, status=200, attempt=0)
    cost.cost.nano_usd = 5
    async with Leader(bus, monkeypatch):
        worker.held.clear()

        async def begun() -> bool:
            return (await author.get(batch)).status == states.IN_PROGRESS

        await until(begun, "it runs")
        await bus.js.publish(subjects.result(batch, 99), cost.SerializeToString())
        worker.held.set()
        await until(lambda: author.over(batch), "it is over", 30)
    record = await author.get(batch)
    assert record.status == states.CANCELLED
    assert record.errors[0].code == "max_cost_exceeded"
    assert time.time() - record.created_at < 60


async def test_it_is_told_how_many_lines_were_checked_while_they_are(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = asyncio.Event()
    read = Files.read

    async def read_slowly(*args: Any) -> AsyncGenerator[bytes, None]:
        async for piece in read(*args):
            for line in piece.splitlines(keepends=True):
                if b'"c60"' in line:
                    await checked.wait()
                yield line
                if not checked.is_set():
                    await asyncio.sleep(0.01)

    author = Author(bus)
    batch = await author.create(lines(60))

    async def told() -> int:
        return (await author.get(batch)).progress.validated

    monkeypatch.setattr(Files, "read", read_slowly)
    async with Leader(bus, monkeypatch):
        assert 0 < await until(told, "it is told", 20) < 60
        checked.set()
        await until(lambda: author.over(batch), "it is over", 20)
    assert not await told()


async def test_what_ends_before_it_is_validated_has_no_files(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    cancelled = await author.create(b"nonsense\n")
    late = await author.create(b"nonsense\n", window_s=-1)
    await author.batches.change("acme", cancelled, lambda kept: states.cancel(kept, 7))
    async with Leader(bus, monkeypatch) as leader:
        for batch, status in ((cancelled, states.CANCELLED), (late, states.EXPIRED)):
            await until(partial(author.over, batch), "it is over", 20)
            record = await author.get(batch)
            assert record.status == status
            assert not record.output_file_id
            assert not record.error_file_id
        # It had no lines: nobody counts its results from the first one there ever was.
        assert leader.engine._counting._next == 0


async def test_many_small_batches_at_once_are_all_run(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    batches = [await author.create(lines(3), tenant=f"t{n % 7}") for n in range(60)]
    async with Leader(bus, monkeypatch):
        for batch in batches:
            await until(partial(author.over, batch), "it is over", 40)
            assert (await author.get(batch)).progress.completed == 3
    assert set(worker.asked.values()) == {1}


async def test_a_line_that_waits_though_its_batch_is_over_is_not_run(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    async with Leader(bus, monkeypatch) as leader:
        batch = await author.create(lines(3))
        await until(partial(author.over, batch), "it is over", 60)
        await until(partial(author.let_go, batch), "nothing is left of it", 30)
        late = job_pb2.Job(
            request_id=subjects.line_id(batch, 2),
            attempt=2,
            line=job_pb2.BatchLine(batch_id=batch, number=2, json=b"{}"),
        )
        subject = subjects.job(subjects.BATCH, "sim", "main", "m")
        await bus.js.publish(subject, late.SerializeToString())
        await until(partial(nothing_queued, bus), "it was taken", 30)
        assert set(worker.asked.values()) == {1}
        token = subjects.token(batch)
        await leader.engine._delete_stops()
        assert token in await author.batches.stopped_since()
        monkeypatch.setattr(engine, "_STOPS_SETTLE_S", -10)
        await leader.engine._delete_stops()
        assert token not in await author.batches.stopped_since()


async def nothing_queued(bus: Bus) -> bool:
    return (await bus.js.stream_info("BAT")).state.messages == 0


async def test_a_batch_whose_list_of_copies_is_lost_ends_and_says_so(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    async with Leader(bus, monkeypatch):
        batch = await author.create(
            lines(3), options=batch_pb2.BatchOptions(dedupe=True), paused=True
        )

        async def begun() -> bool:
            return (await author.get(batch)).status == states.IN_PROGRESS

        await until(begun, "it runs", 30)
    await Blobs(bus).delete(f"copies/{batch}")
    async with Leader(bus, monkeypatch):
        await until(partial(author.over, batch), "it is over", 60)
    found = await author.get(batch)
    assert found.status == states.CANCELLED
    assert [error.code for error in found.errors] == ["internal_error"]


async def test_a_batch_whose_lines_the_queue_refuses_holds_no_other_one_up(
    bus: Bus, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author(bus)
    refused: list[str] = []

    async def publish_all(bus: Bus, messages: Sequence[atomic.Message]) -> bool:
        if any(first in message.message_id for message in messages):
            refused.append(first)
            raise BusError("refused")
        return await atomic.publish_all(bus, messages)

    async with Leader(bus, monkeypatch):
        monkeypatch.setattr(publish, "publish_all", publish_all)
        batch = await author.create(lines(3), window_s=60)  # it is always the first in its turn
        first = subjects.line_id(batch, 0).rpartition("_")[0]
        await until(lambda: bool(refused), "it was tried", 20)
        others = [await author.create(lines(3)) for _ in range(3)]
        for other in others:
            await until(partial(author.over, other), "the others are over", 20)
    assert not await author.over(batch)


async def test_lines_that_could_not_be_queued_are_not_taken_for_fast_ones(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    async def refuse(_bus: Bus, messages: Sequence[atomic.Message]) -> bool:
        tries.append(len(messages))
        raise BusError("refused")

    monkeypatch.setattr(publish, "_REST_S", 0.05)
    await Author(bus).create(lines(64))
    async with Leader(bus, monkeypatch) as leader:
        monkeypatch.setattr(publish, "publish_all", refuse)
        await until(lambda: len(tries) > 3, "it was tried", 20)
        publishing = leader.engine._publishing
        assert publishing._rates.of(subjects.job(subjects.BATCH, "sim", "main", "m")) == 0


async def test_what_workers_say_lines_wait_for_is_in_the_progress_until_the_batch_is_over(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, delays = Author(bus), Delays(bus)
    batch = await author.create(lines(10))
    refused = InferenceError("upstream_credentials", "the key is refused")
    route = job_pb2.Route(provider="sim", pool="main", model="m")
    async with Leader(bus, monkeypatch):

        async def told() -> bool:
            await delays.tell(batch, route, refused)
            return len((await author.get(batch)).progress.delays) == 1

        await until(told, "it is told", 10)
        (delay,) = (await author.get(batch)).progress.delays
        assert (delay.provider, delay.model, delay.code) == ("sim", "m", "upstream_credentials")
        assert delay.message == "the key is refused"
        working = asyncio.create_task(Worker(bus).work())
        await until(lambda: author.over(batch), "it is over", 20)
    assert not (await author.get(batch)).progress.delays
    await end(working)


async def test_lines_that_share_a_prompts_beginning_are_queued_together(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further apart in the input than the lines that are queued at once."""
    prompts = [f"prompt {number % 8}" for number in range(800)]
    author = Author(bus)
    data = lines(800)
    for prompt in prompts:
        message = b'"messages":[{"role":"system","content":"%b"}]' % prompt.encode()
        data = data.replace(b'"messages":[]', message, 1)
    await author.create(data)

    async def queued() -> list[str]:
        told = await bus.js.stream_info("BAT")
        jobs = [await bus.js.get_msg("BAT", n) for n in range(1, told.state.last_seq + 1)]
        numbers = [job_pb2.Job.FromString(job.data or b"").line.number for job in jobs]
        return [prompts[number - 1] for number in numbers]

    async def full() -> bool:
        return len(await queued()) == 128

    async with Leader(bus, monkeypatch):
        await until(full, "the window is full")
        found = await queued()
    # The first of those that follow is there, too: the others find a warm cache.
    assert Counter(found) == {"prompt 0": 100, "prompt 1": 27, "prompt 2": 1}
