"""Lines that are handed over to Bedrock's batch jobs through a bucket, on a whole stack."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.batch import states
from broker.v1 import batch_pb2
from tests.system.batches import Runner, chat
from tests.system.bedrock_batches import LEAST, BedrockBatches, row
from tests.system.provider import fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import Stack, until

MODEL = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
# Nano-dollars of a million output tokens; what a line's seven are at full price, and in a batch.
_PRICE = 3_000 * 10**6
_FULL, _HALF = 7 * _PRICE // 10**6, 7 * _PRICE // 10**6 // 2
OFFER = {
    "provider": "bedrock",
    "model": MODEL,
    "rates": {"prices": {"output_tokens": _PRICE}},
    "variants": {},
}
NATIVE = batch_pb2.BatchOptions(execution="native")


@pytest.fixture(scope="module")
def provider() -> BedrockBatches:
    return BedrockBatches()


@pytest.fixture(scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, provider: BedrockBatches, anyio_backend: str
) -> AsyncIterator[Stack]:
    async with (
        fake_provider(provider) as fake,
        shared_stack(
            tmp_path_factory,
            providers={"bedrock": row(fake)},
            serves=("bedrock",),
            limits={"batch_poll_s": 0.2},
            sections={"routing": {"offers": [OFFER]}},
        ) as stack,
    ):
        yield stack


@pytest.fixture
def runner(shared: Stack, provider: BedrockBatches) -> Runner:
    provider.reset()
    return Runner(shared, f"owner-{time.monotonic_ns()}")


def lines(count: int = LEAST, **fields: Any) -> list[dict[str, Any]]:
    return [chat(n, f"bedrock/{MODEL}", max_tokens=9, **fields) for n in range(count)]


async def emptied(provider: BedrockBatches, deleted: int) -> None:
    await until(lambda: not provider.objects, "the bucket is empty again")
    assert len(provider.deleted) == deleted


async def test_lines_are_answered_by_a_job_at_half_the_price_and_nothing_is_left(
    runner: Runner, provider: BedrockBatches
) -> None:
    record = await runner.over(await runner.create(lines(120), options=NATIVE))
    assert record.status == states.COMPLETED
    assert (record.progress.completed, record.progress.failed) == (120, 0)
    [job] = provider.jobs.values()
    assert (job.asked["modelId"], len(job.records), provider.live) == (MODEL, 120, [])
    assert job.records[7]["modelInput"]["inferenceConfig"] == {"maxTokens": 9}
    rows = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(120)]
    body = rows[5]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "native say 5"
    assert body["usage"]["completion_tokens"] == 7
    assert record.progress.cost.nano_usd == 120 * _HALF
    ledger = await runner.stack.ledger()
    assert sum(ledger.lines[key].charges for key in ledger.lines if key[0] == runner.owner) == 120
    await emptied(provider, 3)


async def test_records_that_expired_or_failed_for_a_while_run_live_and_the_others_are_told(
    runner: Runner, provider: BedrockBatches
) -> None:
    fates = {"say 3": 0, "say 4": 503, "say 5": 400}
    provider.quick = False
    provider.becomes = fates.get
    batch = await runner.create(lines(), options=NATIVE)
    await until(lambda: provider.jobs, "it is handed over")
    provider.finish(as_="Expired")
    record = await runner.over(batch)
    assert (record.progress.completed, record.progress.failed) == (LEAST - 1, 1)
    assert (len(provider.jobs), sorted(provider.live)) == (1, ["say 3", "say 4"])
    (failed,) = await runner.rows(record.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("line-5", 400)
    assert "refused there" in failed["response"]["body"]["error"]["message"]
    assert record.progress.cost.nano_usd == 2 * _FULL + (LEAST - 3) * _HALF


async def test_what_is_too_little_for_a_job_runs_live(
    runner: Runner, provider: BedrockBatches
) -> None:
    few, mixed = lines(LEAST - 1), lines()
    # A job would not keep to the tier.
    mixed[7]["body"]["service_tier"] = "flex"
    for some in (few, mixed):
        provider.reset()
        record = await runner.over(await runner.create(some, options=NATIVE))
        assert record.progress.completed == len(some)
        assert (len(provider.live), provider.jobs) == (len(some), {})
        assert (provider.objects, provider.deleted) == ({}, [])


async def test_a_job_that_is_refused_or_fails_runs_live_and_leaves_nothing(
    runner: Runner, provider: BedrockBatches
) -> None:
    provider.refuse = ["ValidationException"]
    record = await runner.over(await runner.create(lines(), options=NATIVE))
    assert (record.progress.completed, len(provider.live), provider.jobs) == (LEAST, LEAST, {})
    await emptied(provider, 1)
    provider.reset()
    provider.fail = ["The role may not read the bucket."]
    record = await runner.over(await runner.create(lines(), options=NATIVE))
    assert (record.progress.completed, len(provider.live), len(provider.jobs)) == (LEAST, LEAST, 1)
    await emptied(provider, 1)


async def test_a_place_among_the_jobs_that_run_is_waited_for(
    runner: Runner, provider: BedrockBatches
) -> None:
    provider.refuse = ["ServiceQuotaExceededException", "ThrottlingException"]
    record = await runner.over(await runner.create(lines(), options=NATIVE))
    assert (record.progress.completed, provider.live, len(provider.jobs)) == (LEAST, [], 1)


async def test_what_is_not_done_near_the_deadline_is_stopped_and_runs_live(
    runner: Runner, provider: BedrockBatches
) -> None:
    provider.quick = False
    provider.becomes = lambda said: 0 if said > "say 1" else None
    batch = await runner.create(lines(), options=NATIVE, window_s=16)
    await until(lambda: provider.jobs, "it is handed over")
    assert not provider.live
    record = await runner.over(batch)
    assert (record.status, record.progress.completed) == (states.COMPLETED, LEAST)
    assert len(provider.live) == LEAST - 2
    assert [job.status for job in provider.jobs.values()] == ["Stopped"]


@pytest.mark.parametrize("slow", [False, True], ids=["some-answers", "no-file"])
async def test_cancelling_a_batch_stops_its_job_and_keeps_what_was_answered(
    runner: Runner, provider: BedrockBatches, slow: bool
) -> None:
    provider.quick, provider.slow = False, slow
    provider.becomes = lambda said: 0 if said > "say 1" else None
    batch = await runner.create(lines(), options=NATIVE)
    await until(lambda: provider.jobs, "it is handed over")
    await runner.change(batch, lambda kept: states.cancel(kept, int(time.time())))
    record = await runner.over(batch)
    assert record.status == states.CANCELLED
    assert [job.status for job in provider.jobs.values()] == ["Stopped"]
    assert not provider.live
    assert len(await runner.rows(record.output_file_id)) == (0 if slow else 2)
    errors = await runner.rows(record.error_file_id)
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
    await emptied(provider, 1 if slow else 3)


TROUBLE: list[list[int | str]] = [
    [500, 0, 429, 0, 0, 503, 0, 0, 500],
    # Each of the first calls is done, and not told so.
    ["late", 0, "late", 0, 0, "late", "late", 0, "late"],
    ["cut", 0, "cut", 0, 0, "cut", "cut", 0, "cut", "cut"],
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=["refused", "late", "cut"])
async def test_jobs_and_buckets_that_fail_are_asked_again_and_one_job_is_made(
    runner: Runner, provider: BedrockBatches, trouble: list[int | str]
) -> None:
    provider.trouble = list(trouble)
    record = await runner.over(await runner.create(lines(), options=NATIVE))
    assert record.progress.completed == LEAST
    assert (len(provider.jobs), provider.live) == (1, [])


async def test_a_job_that_the_list_does_not_tell_of_is_made_again_as_the_same_one(
    runner: Runner, provider: BedrockBatches
) -> None:
    provider.blind = True
    # The list, the file, the job.
    provider.trouble = [0, 0, "late"]
    record = await runner.over(await runner.create(lines(), options=NATIVE))
    assert record.progress.completed == LEAST
    assert (len(provider.jobs), provider.live, provider.trouble) == (1, [], [])


async def test_kill_9_behind_the_making_of_a_job_makes_no_second_one(
    runner: Runner, provider: BedrockBatches
) -> None:
    stack = runner.stack
    provider.quick = False
    provider.slow_create_s = 30.0
    batch = await runner.create(lines(), options=NATIVE)
    await until(lambda: provider.jobs, "it was made")
    stack.processes["worker0"].kill()
    provider.slow_create_s = 0.0
    provider.finish()
    # Its job comes again when the lease has run out: not after a minute here.
    found = await stack.bus.js.consumer_info("BAT", "bat-bedrock-main")
    await stack.bus.js.add_consumer("BAT", found.config.evolve(ack_wait=1.0))
    stack.start_worker(0)
    record = await runner.over(batch, timeout_s=150)
    assert record.progress.completed == LEAST
    rows = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(LEAST)]
    assert (len(provider.jobs), provider.live) == (1, [])
    await emptied(provider, 3)
