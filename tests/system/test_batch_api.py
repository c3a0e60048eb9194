"""The batch API over HTTP: OpenAI's own library, mistakes, what goes beyond, other people's batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from broker.bus.keyring import Keyring
from broker.translate.batches import ENDPOINTS
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

OTHER = "mr-a-key-of-another-tenant-0123456789"
CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MODEL = "sim/tokens=5"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    offer = {
        "provider": "sim",
        "model": "echo",
        "rates": {"prices": {"input_tokens": 1000, "output_tokens": 1000}},
    }
    sections = {"routing": {"offers": [offer]}}
    async with shared_stack(tmp_path_factory, sections=sections) as stack:
        await Keyring(stack.bus).add(OTHER, "another key", tenant="another")
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as client:
        yield client


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with connect(stack) as sdk:
        yield sdk


def connect(stack: Stack, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30)


def line(name: str, model: str = MODEL, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = body or {"messages": [{"role": "user", "content": f"say {name}"}]}
    return {"custom_id": name, "method": "POST", "url": url, "body": {"model": model, **asked}}


async def upload(sdk: AsyncOpenAI, lines: Iterable[Any]) -> str:
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    made = await sdk.files.create(file=("lines.jsonl", text.encode()), purpose="batch")
    return made.id


async def create(sdk: AsyncOpenAI, lines: Iterable[Any], **more: Any) -> Batch:
    file_id = await upload(sdk, lines)
    asked: Any = {"endpoint": CHAT, "completion_window": "24h", **more}
    return await sdk.batches.create(input_file_id=file_id, **asked)


async def ended(sdk: AsyncOpenAI, batch_id: str) -> Batch:
    over = {"completed", "failed", "expired", "cancelled"}

    async def look() -> Batch | None:
        batch = await sdk.batches.retrieve(batch_id)
        return batch if batch.status in over else None

    batch: Batch = await until(look, f"{batch_id} is over", 60)
    return batch


async def rows(sdk: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    content = await sdk.files.content(file_id)
    return [json.loads(row) for row in content.text.splitlines()]


# --- the official library ---


async def test_the_official_library_runs_a_batch(sdk: AsyncOpenAI) -> None:
    names = [f"row {n}" for n in range(30)]
    made = await create(sdk, [line(name) for name in names], metadata={"for": "a test"})
    assert (made.object, made.status, made.endpoint) == ("batch", "validating", CHAT)
    assert made.expires_at == made.created_at + 86_400
    assert made.metadata == {"for": "a test"}
    batch = await ended(sdk, made.id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (30, 30, 0)
    assert batch.error_file_id is None
    times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert all(times)
    assert times == sorted(time or 0 for time in times)
    found = await rows(sdk, batch.output_file_id)
    assert [row["custom_id"] for row in found] == names
    for row in found:
        assert row["error"] is None
        assert row["id"].startswith("batch_req_")
        assert row["response"]["status_code"] == 200
        assert row["response"]["request_id"]
        body = row["response"]["body"]
        assert (body["object"], body["usage"]["completion_tokens"]) == ("chat.completion", 5)
    assert batch.usage is not None
    assert batch.usage.output_tokens == 30 * 5
    output = await sdk.files.retrieve(batch.output_file_id or "")
    assert output.purpose == "batch_output"


PICTURE = "data:image/png;base64," + "iVBORw0KGgoA" * 60_000
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/embeddings": {"input": "hello"},
    "/v1/completions": {"prompt": "hello"},
    "/v1/moderations": {"input": "hello"},
    "/v1/images/generations": {"prompt": "hello"},
    "/v1/images/edits": {"prompt": "hello", "images": [{"image_url": PICTURE}]},
}


async def test_lines_of_every_endpoint_are_answered_in_its_own_format(sdk: AsyncOpenAI) -> None:
    assert set(ASKED) == set(ENDPOINTS)
    made = {
        url: await create(sdk, [line("a", url=url, **body)], endpoint=url)
        for url, body in ASKED.items()
    }
    kinds, bodies = {}, {}
    for url, batch in made.items():
        over = await ended(sdk, batch.id)
        assert (over.status, over.error_file_id) == ("completed", None), (url, over)
        [row] = await rows(sdk, over.output_file_id)
        body = bodies[url] = row["response"]["body"]
        kinds[url] = body.get("object") or set(body)
    assert kinds["/v1/responses"] == "response"
    assert kinds["/v1/chat/completions"] == "chat.completion"
    assert kinds["/v1/embeddings"] == "list"
    assert kinds["/v1/completions"] == "text_completion"
    assert {"id", "model", "results"} <= set(kinds["/v1/moderations"])
    assert {"created", "data"} <= set(kinds["/v1/images/generations"])
    assert {"created", "data"} <= set(kinds["/v1/images/edits"])
    # The picture came along, though its line is too large for a message.
    seen = {
        url: bodies[url]["usage"]["input_tokens_details"]["image_tokens"]
        for url in ("/v1/images/generations", "/v1/images/edits")
    }
    assert seen["/v1/images/generations"] == 0 < seen["/v1/images/edits"]


async def test_a_list_is_walked_page_by_page(stack: Stack) -> None:
    async with connect(stack, OTHER) as sdk:
        made = []
        for _ in range(5):
            made.append((await create(sdk, [line("a")])).id)
            await asyncio.sleep(0.002)  # ids are in the order of milliseconds
        assert [batch.id async for batch in sdk.batches.list(limit=2)] == made[::-1]
        page = await sdk.batches.with_raw_response.list(limit=2, after=made[4])
        body = page.http_response.json()
        for batch_id in made:  # other tests count calls
            await ended(sdk, batch_id)
    assert {key: body[key] for key in body if key != "data"} == {
        "object": "list",
        "first_id": made[3],
        "last_id": made[2],
        "has_more": True,
    }


async def test_lines_that_fail_are_in_the_error_file_with_what_the_endpoint_would_say(
    sdk: AsyncOpenAI,
) -> None:
    wrong = line("wrong", messages="no list")
    lost = line("lost", model="sim/status=404")
    made = await create(sdk, [line("right"), wrong, lost], extra_body={"mixed_models": True})
    batch = await ended(sdk, made.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    assert [row["custom_id"] for row in await rows(sdk, batch.output_file_id)] == ["right"]
    first, second = await rows(sdk, batch.error_file_id)
    assert (first["custom_id"], first["error"]) == ("wrong", None)
    assert first["response"]["status_code"] == 400
    assert first["response"]["body"]["error"]["param"] == "messages"
    assert (second["custom_id"], second["response"]["status_code"]) == ("lost", 404)


async def test_a_batch_of_failures_alone_completes_without_an_output_file(
    sdk: AsyncOpenAI,
) -> None:
    made = await create(sdk, [line("a", messages=5), line("b", messages=6)])
    batch = await ended(sdk, made.id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(await rows(sdk, batch.error_file_id)) == 2


# --- mistakes of the file ---


MISTAKES: dict[str, tuple[list[Any], list[tuple[str, int | None]]]] = {
    "not JSON": ([line("a"), "{", line("b"), "[]"], [("invalid_json_line", 2), ("", 4)]),
    "a name twice": ([line("a"), line("b"), line("a")], [("duplicate_custom_id", 3)]),
    "another endpoint": ([line("a", url="/v1/embeddings")], [("url_mismatch", 1)]),
    "another model": ([line("a"), line("b", model="sim/tokens=6")], [("model_mismatch", 2)]),
    "nothing": (["", "  "], [("empty_file", None)]),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_every_mistake_is_named_and_nothing_is_run(
    sdk: AsyncOpenAI, stack: Stack, name: str
) -> None:
    lines, mistakes = MISTAKES[name]
    before = (await stack.sim_stats())["calls"]
    made = await create(sdk, lines)
    assert made.status == "validating"
    batch = await ended(sdk, made.id)
    assert batch.status == "failed"
    assert batch.failed_at
    assert batch.errors is not None
    told = [(error.code, error.line) for error in batch.errors.data or ()]
    assert len(told) == len(mistakes)
    for (code, number), (expected, at) in zip(told, mistakes, strict=True):
        assert number == at
        assert code == expected or not expected
    assert (await stack.sim_stats())["calls"] == before


# --- mistakes of the call ---


@pytest.mark.parametrize("missing", ["input_file_id", "endpoint", "completion_window"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, missing: str) -> None:
    body = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}
    del body[missing]
    reply = await client.post("/v1/batches", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", missing)


async def test_a_file_has_to_be_there_and_be_meant_for_it(sdk: AsyncOpenAI, stack: Stack) -> None:
    other = await sdk.files.create(file=("a.jsonl", b"{}\n"), purpose="user_data")
    async with connect(stack, OTHER) as another:
        theirs = await upload(another, [line("a")])
    for file_id in (other.id, theirs, "file-0", "../x"):
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
        assert caught.value.param == "input_file_id"


async def test_another_keys_batch_is_not_there(sdk: AsyncOpenAI, stack: Stack) -> None:
    made = await create(sdk, [line("a")])
    async with connect(stack, OTHER) as another:
        with pytest.raises(openai.NotFoundError):
            await another.batches.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await another.batches.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.batches.retrieve("batch_0")


async def test_the_same_idempotency_key_is_the_same_batch(sdk: AsyncOpenAI) -> None:
    file_id = await upload(sdk, [line("a")])
    named = {"Idempotency-Key": "once and for all"}
    asked: Any = {"endpoint": CHAT, "completion_window": "24h", "extra_headers": named}
    made = await asyncio.gather(
        *(sdk.batches.create(input_file_id=file_id, **asked) for _ in range(5))
    )
    assert len({batch.id for batch in made}) == 1
    other = await upload(sdk, [line("b")])
    with pytest.raises(openai.ConflictError):
        await sdk.batches.create(input_file_id=other, **asked)


# --- cancel, pause, what goes beyond ---

SLOW = "sim/tokens=5,ttft_ms=1500"


async def test_a_cancelled_batch_keeps_what_it_has_and_says_of_the_rest_that_it_did_not_run(
    sdk: AsyncOpenAI,
) -> None:
    lines = [line(f"row {n}", model=SLOW) for n in range(2000)]
    made = await create(sdk, lines)

    async def some() -> bool:
        counts = (await sdk.batches.retrieve(made.id)).request_counts
        return counts is not None and counts.completed > 0

    await until(some, "a line was answered", 30)
    stopping = await sdk.batches.cancel(made.id)
    assert stopping.status in {"cancelling", "cancelled"}
    again = await sdk.batches.cancel(made.id)
    assert again.cancelling_at == stopping.cancelling_at
    batch = await ended(sdk, made.id)
    assert batch.status == "cancelled"
    right = await rows(sdk, batch.output_file_id)
    rest = await rows(sdk, batch.error_file_id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == len(right) > 0
    assert len(right) + len(rest) == len(lines)
    assert {row["error"]["code"] for row in rest} == {"batch_cancelled"}
    assert {row["custom_id"] for row in right + rest} == {each["custom_id"] for each in lines}
    kept = await sdk.batches.cancel(batch.id)
    assert kept.status == "cancelled"


async def test_what_is_over_cannot_be_cancelled(
    sdk: AsyncOpenAI, client: httpx.AsyncClient
) -> None:
    made = await create(sdk, [line("a")])
    await ended(sdk, made.id)
    with pytest.raises(openai.ConflictError):
        await sdk.batches.cancel(made.id)
    assert (await client.post(f"/v1/batches/{made.id}/pause")).status_code == 409
    assert (await client.post(f"/v1/batches/{made.id}/retry")).status_code == 400


async def test_a_paused_batch_waits_until_it_is_resumed(
    sdk: AsyncOpenAI, client: httpx.AsyncClient
) -> None:
    lines = [line(f"row {n}", model=SLOW) for n in range(600)]
    made = await create(sdk, lines)
    paused = (await client.post(f"/v1/batches/{made.id}/pause")).json()
    assert paused["millrace"]["paused"]

    async def still() -> bool:
        before = (await sdk.batches.retrieve(made.id)).request_counts
        await asyncio.sleep(2.5)
        return (await sdk.batches.retrieve(made.id)).request_counts == before

    await until(still, "nothing more ends", 60)
    assert (await sdk.batches.retrieve(made.id)).status in {"validating", "in_progress"}
    resumed = (await client.post(f"/v1/batches/{made.id}/resume")).json()
    assert not resumed.get("millrace", {}).get("paused")
    batch = await ended(sdk, made.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == len(lines)


async def test_results_are_read_while_it_runs_and_are_the_same_after(
    sdk: AsyncOpenAI, client: httpx.AsyncClient
) -> None:
    names = [f"row {n}" for n in range(200)]
    lines = [line(name, messages=[] if name == "row 7" else None or _said(name)) for name in names]
    made = await create(sdk, [*lines[:100], "", *lines[100:]])
    path = f"/v1/batches/{made.id}/results"
    async with client.stream("GET", path, params={"follow": "true"}) as reply:
        assert reply.headers["x-incomplete"] == "false"
        live = [json.loads(row) async for row in reply.aiter_lines()]
    assert [row["custom_id"] for row in live] == names
    await ended(sdk, made.id)
    reply = await client.get(path)
    assert [json.loads(row) for row in reply.text.splitlines()] == live
    # The input may be deleted when it is done.
    await sdk.files.delete(made.input_file_id)
    rest = await client.get(path, params={"after": 102})
    assert [json.loads(row) for row in rest.text.splitlines()] == live[101:]
    for wrong in ("-1", "x", "9" * 30):
        assert (await client.get(path, params={"after": wrong})).status_code == 400
    batch = await sdk.batches.retrieve(made.id)
    assert batch.output_file_id is not None
    await sdk.files.delete(batch.output_file_id)
    gone = await client.get(path)
    assert gone.status_code == 404
    assert batch.output_file_id in gone.json()["error"]["message"]


async def test_a_bound_of_the_cost_needs_prices(sdk: AsyncOpenAI, stack: Stack) -> None:
    before = (await stack.sim_stats())["calls"]
    made = await create(sdk, [line("a"), line("b")], extra_body={"max_cost": 1})
    batch = await ended(sdk, made.id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    [error] = batch.errors.data
    assert (error.code, error.param) == ("price_unknown", "max_cost")
    assert MODEL in (error.message or "")
    assert (await stack.sim_stats())["calls"] == before
    priced = await create(sdk, [line("a", model="sim/echo")], extra_body={"max_cost": 1})
    assert (await ended(sdk, priced.id)).status == "completed"


async def test_what_describes_a_batch_is_small(client: httpx.AsyncClient) -> None:
    for path in ("/v1/batches", "/v1/batches/estimate"):
        answer = await client.post(path, json={"metadata": {"a": "x" * (2 << 20)}})
        assert answer.status_code == 413


async def test_who_follows_results_is_answered_at_once_and_counts_as_a_stream(
    sdk: AsyncOpenAI, client: httpx.AsyncClient
) -> None:
    async def open_streams() -> float:
        lines = (await client.get("/metrics")).text.splitlines()
        [found] = [line for line in lines if line.startswith("millrace_open_streams{")]
        return float(found.split()[1])

    made = await create(sdk, [line("a", model="sim/tokens=5,ttft_ms=3000")])
    path = f"/v1/batches/{made.id}/results"
    async with client.stream("GET", path, params={"follow": "true"}):
        batch = await sdk.batches.retrieve(made.id)
        assert batch.status in {"validating", "in_progress"}
        assert await open_streams() == 1

    async def closed() -> bool:
        return await open_streams() == 0

    await until(closed, "it is closed")


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_what_failed_is_run_again_in_a_batch_of_its_own(
    sdk: AsyncOpenAI, client: httpx.AsyncClient
) -> None:
    # Each key fails three times, which is as often as a line is tried.
    failing = [
        line(f"bad {n}", model=f"sim/tokens=5,status=400,first_n=1,key=retried{n}")
        for n in range(3)
    ]
    made = await create(sdk, [line("good"), *failing], extra_body={"mixed_models": True})
    first = await ended(sdk, made.id)
    assert first.request_counts is not None
    assert (first.request_counts.completed, first.request_counts.failed) == (1, 3)
    child, same = [(await client.post(f"/v1/batches/{made.id}/retry")).json() for _ in range(2)]
    assert child["id"] == same["id"] != made.id
    assert child["millrace"]["retry_of"] == made.id
    second = await ended(sdk, child["id"])
    assert second.request_counts is not None
    assert (second.request_counts.total, second.request_counts.completed) == (3, 3)
    found = await rows(sdk, second.output_file_id)
    assert [row["custom_id"] for row in found] == ["bad 0", "bad 1", "bad 2"]


async def test_an_estimate_names_mistakes_and_prices_without_a_call(
    sdk: AsyncOpenAI, client: httpx.AsyncClient, stack: Stack
) -> None:
    before = (await stack.sim_stats())["calls"]
    file_id = await upload(sdk, [line("a"), line("b", max_tokens=7, messages=_said("x" * 400))])
    body = {"input_file_id": file_id, "endpoint": CHAT}
    found = (await client.post("/v1/batches/estimate", json=body)).json()
    assert (found["total"], found["models"], found["errors"]) == (2, {MODEL: 2}, None)
    assert found["input_tokens"] >= 100
    # What the simulated model may write at most nobody knows.
    assert (found["output_tokens"], found["cost_high"]) == (None, None)
    wrong = await upload(sdk, [line("a"), line("a"), "{"])
    body["input_file_id"] = wrong
    errors = (await client.post("/v1/batches/estimate", json=body)).json()["errors"]["data"]
    assert [(error["code"], error["line"]) for error in errors] == [
        ("duplicate_custom_id", 2),
        ("invalid_json_line", 3),
    ]
    assert (await stack.sim_stats())["calls"] == before
