"""Lines that are handed over to their provider's own batch API, on a whole stack."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.batch import states
from broker.v1 import batch_pb2
from tests.system.batch_provider import BatchProvider, said_of
from tests.system.batches import Runner, chat
from tests.system.provider import fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import Stack, until

# Nano-dollars of a million output tokens.
_PRICE = 3_000 * 10**6
MODELS = {
    "openai": "openai/gpt-4o",
    "groq": "groq/llama-3.3-70b-versatile",
    "mistral": "mistral/mistral-small-latest",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "vertex_ai": "vertex_ai/gemini-2.5-flash",
}
# Behind the address, where it is not Vertex AI.
SUFFIXES = {"openai": "/v1", "groq": "/v1", "mistral": "/v1", "anthropic": "", "gemini": ""}
OPENAI, MISTRAL = MODELS["openai"], MODELS["mistral"]
GEMINI, VERTEX_AI = MODELS["gemini"], MODELS["vertex_ai"]
OFFERS = [
    {
        "provider": name,
        "model": model.partition("/")[2],
        "rates": {"prices": {"output_tokens": _PRICE}},
        "variants": {},
    }
    for name, model in MODELS.items()
]
NATIVE = batch_pb2.BatchOptions(execution="native")


@pytest.fixture(scope="module")
def provider() -> BatchProvider:
    return BatchProvider()


@pytest.fixture(scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, provider: BatchProvider, anyio_backend: str
) -> AsyncIterator[Stack]:
    async with fake_provider(provider) as fake:
        rows: dict[str, dict[str, Any]] = {
            name: {"base_url": fake.url(name) + suffix, "api_key": f"key-of-{name}"}
            for name, suffix in SUFFIXES.items()
        }
        rows["vertex_ai"] = {
            "base_url": fake.url("vertex_ai"),
            "api_key": "ya29.key-of-vertex_ai",
            "options": {
                "project": "p1",
                "location": "us-central1",
                "batch_bucket": "gs://b1/batches",
                "storage_url": fake.url("vertex_ai"),
            },
        }
        async with shared_stack(
            tmp_path_factory,
            providers=rows,
            serves=("sim", *rows),
            limits={"batch_poll_s": 0.2},
            sections={"routing": {"offers": OFFERS}},
        ) as stack:
            yield stack


@pytest.fixture
def runner(shared: Stack, provider: BatchProvider) -> Runner:
    provider.reset()
    return Runner(shared, f"owner-{time.monotonic_ns()}")


def lines(count: int, model: str = OPENAI, **fields: Any) -> list[dict[str, Any]]:
    return [chat(n, model, max_tokens=9, **fields) for n in range(count)]


@pytest.mark.parametrize("name", MODELS)
async def test_lines_are_answered_by_the_providers_batch_at_half_the_price(
    runner: Runner, provider: BatchProvider, name: str
) -> None:
    record = await runner.over(await runner.create(lines(120, MODELS[name]), options=NATIVE))
    assert record.status == states.COMPLETED
    assert (record.progress.completed, record.progress.failed) == (120, 0)
    assert record.progress.native == 120
    assert [len(batch.lines) for batch in provider.batches.values()] == [120]
    assert not provider.live
    rows = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(120)]
    body = rows[5]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "native say 5"
    assert body["usage"]["completion_tokens"] == 7
    assert record.progress.cost.nano_usd == 120 * 7 * _PRICE // 10**6 // 2
    ledger = await runner.stack.ledger()
    assert sum(ledger.lines[key].charges for key in ledger.lines if key[0] == runner.owner) == 120


@pytest.mark.parametrize("model", [OPENAI, MISTRAL])
async def test_files_that_were_made_at_the_provider_are_deleted(
    runner: Runner, provider: BatchProvider, model: str
) -> None:
    await runner.over(await runner.create(lines(3, model), options=NATIVE))
    await until(lambda: not provider.files, "they are deleted")
    assert len(provider.deleted) == 2


@pytest.mark.parametrize("name", MODELS)
async def test_lines_that_expired_or_failed_for_a_while_run_live_and_the_others_are_told(
    runner: Runner, provider: BatchProvider, name: str
) -> None:
    fates = {"say 3": 0, "say 4": 529, "say 5": 400}
    provider.becomes = lambda body: fates.get(said_of(body))
    record = await runner.over(await runner.create(lines(10, MODELS[name]), options=NATIVE))
    assert (record.progress.completed, record.progress.failed) == (9, 1)
    assert record.progress.native == 7
    assert sorted(provider.live) == ["say 3", "say 4"]
    assert len(provider.batches) == 1
    (row,) = await runner.rows(record.error_file_id)
    assert (row["custom_id"], row["response"]["status_code"]) == ("line-5", 400)
    full, half = 7 * _PRICE // 10**6, 7 * _PRICE // 10**6 // 2
    assert record.progress.cost.nano_usd == 2 * full + 7 * half


async def test_what_a_batch_api_does_not_take_runs_live(
    runner: Runner, provider: BatchProvider
) -> None:
    mixed = lines(6)
    mixed[2]["body"]["extra_headers"] = {"x-trace": "1"}
    record = await runner.over(await runner.create(mixed, options=NATIVE))
    assert record.progress.completed == 6
    assert provider.live == ["say 2"]
    assert [len(batch.lines) for batch in provider.batches.values()] == [5]


async def test_a_provider_without_a_batch_api_is_an_error_or_live(
    runner: Runner, provider: BatchProvider
) -> None:
    mixed = [*lines(3), *(chat(n, "sim/echo") for n in range(3, 6))]
    options = batch_pb2.BatchOptions(execution="native", mixed_models=True)
    record = await runner.over(await runner.create(mixed, options=options))
    assert (record.progress.completed, record.progress.failed) == (3, 3)
    rows = await runner.rows(record.error_file_id)
    assert {row["response"]["status_code"] for row in rows} == {400}
    assert {row["response"]["body"]["error"]["param"] for row in rows} == {"execution"}
    options = batch_pb2.BatchOptions(execution="auto", mixed_models=True)
    record = await runner.over(await runner.create(mixed, options=options))
    assert record.progress.completed == 6


@pytest.mark.parametrize(
    ("count", "window_s", "handed"), [(100, 86_400, 100), (99, 86_400, 0), (100, 86_399, 0)]
)
async def test_auto_hands_over_what_is_large_and_has_time(
    runner: Runner, provider: BatchProvider, count: int, window_s: int, handed: int
) -> None:
    options = batch_pb2.BatchOptions(execution="auto")
    record = await runner.over(
        await runner.create(lines(count), options=options, window_s=window_s)
    )
    assert record.progress.completed == count
    assert sum(len(batch.lines) for batch in provider.batches.values()) == handed
    assert len(provider.live) == count - handed


@pytest.mark.parametrize("model", [OPENAI, GEMINI, VERTEX_AI])
async def test_a_batch_that_is_refused_for_a_limit_is_made_again_later(
    runner: Runner, provider: BatchProvider, model: str
) -> None:
    provider.refuse = ["token_limit_exceeded"]
    record = await runner.over(await runner.create(lines(3, model), options=NATIVE))
    assert record.progress.completed == 3
    assert (len(provider.batches), provider.live) == (2, [])


@pytest.mark.parametrize("model", [OPENAI, MISTRAL, GEMINI, VERTEX_AI])
async def test_a_batch_that_is_refused_for_good_runs_live_and_leaves_no_file(
    runner: Runner, provider: BatchProvider, model: str
) -> None:
    provider.refuse = ["model_not_found"]
    record = await runner.over(await runner.create(lines(3, model), options=NATIVE))
    assert record.progress.completed == 3
    assert (len(provider.batches), len(provider.live)) == (1, 3)
    assert (provider.files, len(provider.deleted)) == ({}, 1)


@pytest.mark.parametrize("model", [OPENAI, GEMINI, VERTEX_AI])
async def test_a_file_of_which_no_batch_may_be_made_yet_is_not_left_there(
    runner: Runner, provider: BatchProvider, model: str
) -> None:
    # The list, the file, the batch.
    provider.trouble = [0, 0, 429]
    record = await runner.over(await runner.create(lines(3, model), options=NATIVE))
    assert (record.progress.completed, provider.live) == (3, [])
    inputs = [name for name in provider.deleted if "output" not in name]
    assert len(inputs) == 2


async def test_what_is_not_done_near_the_deadline_is_cancelled_there_and_runs_live(
    runner: Runner, provider: BatchProvider
) -> None:
    provider.quick = False
    # Gemini's never begins, and does not end either when it is cancelled.
    provider.stuck = "gemini"
    provider.becomes = lambda body: 0 if said_of(body) > "say 1" else None
    batches = {
        model: await runner.create(lines(5, model), options=NATIVE, window_s=16)
        for model in (OPENAI, VERTEX_AI, GEMINI)
    }
    await until(lambda: len(provider.batches) == 3, "they are handed over")
    assert not provider.live
    for batch in batches.values():
        record = await runner.over(batch)
        assert record.status == states.COMPLETED
        assert record.progress.completed == 5
    undone = ["say 2", "say 3", "say 4"]
    assert sorted(provider.live) == sorted([*undone * 3, "say 0", "say 1"])
    assert {batch.provider: batch.status for batch in provider.batches.values()} == {
        "openai": "cancelled",
        "vertex_ai": "cancelled",
        "gemini": "in_progress",
    }


@pytest.mark.parametrize("model", [OPENAI, MISTRAL, VERTEX_AI])
async def test_cancelling_a_batch_cancels_there_and_keeps_what_was_answered(
    runner: Runner, provider: BatchProvider, model: str
) -> None:
    provider.quick = False
    provider.becomes = lambda body: 0 if said_of(body) > "say 1" else None
    batch = await runner.create(lines(5, model), options=NATIVE)
    await until(lambda: provider.batches, "it is handed over")
    await runner.change(batch, lambda kept: states.cancel(kept, int(time.time())))
    record = await runner.over(batch)
    assert record.status == states.CANCELLED
    assert [batch.status for batch in provider.batches.values()] == ["cancelled"]
    assert not provider.live
    assert len(await runner.rows(record.output_file_id)) == 2
    errors = await runner.rows(record.error_file_id)
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}


async def test_a_batch_of_gemini_has_the_calls_and_leaves_none_of_our_files(
    runner: Runner, provider: BatchProvider
) -> None:
    await runner.over(await runner.create(lines(3, GEMINI), options=NATIVE))
    [batch] = provider.batches.values()
    assert batch.asked["path"] == "/v1beta/models/gemini-2.5-flash:batchGenerateContent"
    assert batch.lines[0]["request"]["generationConfig"] == {"maxOutputTokens": 9}
    await until(lambda: provider.deleted, "its input is deleted")
    # The API takes the name of its own file of answers for too long.
    assert [name.startswith("files/batch-") for name in provider.files] == [True]


async def test_answers_to_a_schema_and_tiers_are_gemini_live(
    runner: Runner, provider: BatchProvider
) -> None:
    mixed = lines(3, GEMINI)
    form = {"name": "a", "schema": {"type": "object", "properties": {"b": {"type": "string"}}}}
    mixed[1]["body"]["response_format"] = {"type": "json_schema", "json_schema": form}
    mixed[2]["body"]["service_tier"] = "flex"
    record = await runner.over(await runner.create(mixed, options=NATIVE))
    assert (record.progress.completed, sorted(provider.live)) == (3, ["say 1", "say 2"])


@pytest.mark.parametrize(("model", "done"), [(GEMINI, 0), (VERTEX_AI, 3)])
async def test_what_expired_at_google_runs_live_at_the_full_price(
    runner: Runner, provider: BatchProvider, model: str, done: int
) -> None:
    provider.quick = False
    provider.becomes = lambda body: 0 if said_of(body) == "say 1" else None
    batch = await runner.create(lines(4, model), options=NATIVE)
    await until(lambda: provider.batches, "it is handed over")
    provider.finish(as_="expired")
    record = await runner.over(batch)
    assert (record.progress.completed, len(provider.live)) == (4, 4 - done)
    full, half = 7 * _PRICE // 10**6, 7 * _PRICE // 10**6 // 2
    assert record.progress.cost.nano_usd == (4 - done) * full + done * half


async def test_all_that_a_job_of_vertex_ai_put_into_the_bucket_is_read_and_deleted(
    runner: Runner, provider: BatchProvider
) -> None:
    mixed = lines(5, VERTEX_AI, metadata={"team": "search"})
    mixed[2]["body"]["web_search_options"] = {}
    record = await runner.over(await runner.create(mixed, options=NATIVE))
    assert (record.progress.completed, provider.live) == (5, ["say 2"])
    [batch] = provider.batches.values()
    labels = [line["request"]["labels"] for line in batch.lines]
    assert [label["team"] for label in labels] == ["search"] * 4
    assert len({label["millrace"] for label in labels}) == 4
    await until(lambda: not provider.files, "they are deleted")
    folders = {name.split("/")[0] for name in provider.deleted}
    assert (folders, len(provider.deleted)) == ({"batches"}, 4)


async def test_cancelling_a_batch_cancels_at_gemini_and_runs_nothing(
    runner: Runner, provider: BatchProvider
) -> None:
    provider.quick = False
    batch = await runner.create(lines(4, GEMINI), options=NATIVE)
    await until(lambda: provider.batches, "it is handed over")
    await runner.change(batch, lambda kept: states.cancel(kept, int(time.time())))
    record = await runner.over(batch)
    assert record.status == states.CANCELLED
    assert [batch.status for batch in provider.batches.values()] == ["cancelled"]
    assert not provider.live
    errors = await runner.rows(record.error_file_id)
    assert [row["error"]["code"] for row in errors] == ["batch_cancelled"] * 4


TROUBLE: dict[str, list[int | str]] = {
    "refused": [500, 0, 429, 0, 0, 503, 0, 0, 500],
    # Each of the first calls is done, and not told so.
    "late": ["late", 0, "late", 0, 0, "late", "late", 0, "late"],
    "cut": ["cut", 0, "cut", 0, 0, "cut", "cut", 0, "cut", "cut"],
}
# With files, without, and with the list of a folder.
FAILING = [
    *((name, trouble) for name in ("openai", "anthropic") for trouble in TROUBLE),
    ("gemini", "late"),
    ("vertex_ai", "cut"),
]


@pytest.mark.parametrize(("name", "trouble"), FAILING)
async def test_a_batch_api_that_fails_is_asked_again_and_makes_one_batch(
    runner: Runner, provider: BatchProvider, name: str, trouble: str
) -> None:
    provider.trouble = list(TROUBLE[trouble])
    record = await runner.over(await runner.create(lines(6, MODELS[name]), options=NATIVE))
    assert record.progress.completed == 6
    assert (len(provider.batches), provider.live) == (1, [])


async def _kill(stack: Stack) -> None:
    """Kill the worker; what it had comes again at once, not after a minute."""
    stack.processes["worker0"].kill()
    for name in MODELS:
        found = await stack.bus.js.consumer_info("BAT", f"bat-{name}-main")
        await stack.bus.js.add_consumer("BAT", found.config.evolve(ack_wait=1.0))


async def test_kill_9_while_files_are_deleted_asks_nothing_twice(
    runner: Runner, provider: BatchProvider
) -> None:
    provider.quick = False
    provider.slow_delete_s = 30.0
    # The batch is not over, so that its results alone say that its lines have been run.
    mixed = [*lines(6, VERTEX_AI), chat(6, OPENAI)]
    options = batch_pb2.BatchOptions(execution="native", mixed_models=True)
    batch = await runner.create(mixed, options=options)
    await until(lambda: len(provider.batches) == 2, "both providers have it")
    [job] = provider.newest("vertex_ai")
    provider.end(job, "completed")
    await until(lambda: any("/output/" in name for name in provider.deleted), "answers go")
    await _kill(runner.stack)
    provider.slow_delete_s = 0.0
    runner.stack.start_worker(0)
    await until(lambda: not any("/" in name for name in provider.files), "all are gone", 60)
    provider.finish()
    record = await runner.over(batch)
    assert (record.progress.completed, provider.live) == (7, [])


async def test_kill_9_behind_the_making_of_batches_makes_no_second_ones(
    runner: Runner, provider: BatchProvider
) -> None:
    stack = runner.stack
    provider.quick = False
    provider.slow_create_s = 30.0
    batches = [await runner.create(lines(20, model), options=NATIVE) for model in MODELS.values()]
    await until(lambda: len(provider.batches) == len(MODELS), "all providers have them")
    await _kill(stack)
    provider.slow_create_s = 0.0
    provider.finish()
    stack.start_worker(0)
    for batch in batches:
        record = await runner.over(batch, timeout_s=150)
        assert record.progress.completed == 20
        rows = await runner.rows(record.output_file_id)
        assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(20)]
    assert (len(provider.batches), provider.live) == (len(MODELS), [])
