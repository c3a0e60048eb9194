"""Lines of batches on real workers: every endpoint, every end a line can have."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker import subjects
from broker.batch.states import BATCH_CANCELLED, STOPPED
from broker.bus.batches import Batches
from broker.bus.files import Files
from broker.bus.responses import Blobs
from broker.v1 import file_pb2, job_pb2
from tests.system.lines import CHAT, Lines, chat
from tests.system.shared import shared_stack
from tests.system.stack import Stack, until

PRICES = {
    "provider": "sim",
    "model": "echo",
    "rates": {"prices": {"output_tokens": 3_000 * 10**6}},
}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Stack]:
    # Two tries are soon used up.
    limits = {"batch_tries": 2}
    sections = {"routing": {"offers": [PRICES]}}
    async with shared_stack(tmp_path_factory, workers=2, limits=limits, sections=sections) as stack:
        yield stack


@pytest.fixture
async def lines(shared: Stack) -> Lines:
    await shared.reset_sim()
    return Lines(shared, f"batch_{next(_numbers):032x}")


PNG = "data:image/png;base64,iVBORw0KGgoA"
ANSWERED: dict[str, tuple[dict[str, Any], str]] = {
    CHAT: (chat(), "chat.completion"),
    "/v1/completions": ({"model": "sim", "prompt": "hello"}, "text_completion"),
    "/v1/embeddings": ({"model": "sim", "input": ["a", "b"]}, "list"),
    "/v1/responses": ({"model": "sim", "input": "hello"}, "response"),
    "/v1/moderations": ({"model": "sim", "input": "hello"}, ""),
    "/v1/images/generations": ({"model": "sim", "prompt": "a cat"}, ""),
    "/v1/images/edits": ({"model": "sim", "prompt": "a cat", "image": [PNG]}, ""),
}


@pytest.mark.parametrize("endpoint", ANSWERED)
async def test_a_line_of_each_endpoint_is_answered_as_over_http(
    lines: Lines, shared: Stack, endpoint: str
) -> None:
    body, kind = ANSWERED[endpoint]
    status, answer = await lines.one(body, endpoint)
    assert status == 200
    async with shared.client() as client:
        told = (await client.post(endpoint, json={**body, "model": "sim/sim"})).json()
    assert answer.keys() == told.keys()
    assert answer.get("object", "") == told.get("object", "") == kind


REFUSED: list[tuple[str, dict[str, Any] | bytes, str, str | None]] = [
    (CHAT, chat(stream=True), "stream", "unsupported_parameter"),
    (CHAT, chat(use_custom_keys=True), "use_custom_keys", "unsupported_parameter"),
    (CHAT, {"model": "sim"}, "messages", "missing_required_parameter"),
    (CHAT, {"model": "sim", "messages": 1}, "messages", "invalid_type"),
    (CHAT, b'{"model": 1' + b"[" * 5000, "", None),
    ("/v1/rerank", chat(), "url", None),
    *(
        ("/v1/responses", {"model": "sim", "input": "x", **field}, name, "unsupported_parameter")
        for field, name in (
            ({"background": True}, "background"),
            ({"stream": True}, "stream"),
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        )
    ),
]


async def test_what_a_line_cannot_be_is_its_result_and_makes_no_call(
    lines: Lines, shared: Stack
) -> None:
    await lines.publish(*(lines.job(body, endpoint) for endpoint, body, _, _ in REFUSED))
    for result, (_, _, param, code) in zip(await lines.all(), REFUSED, strict=True):
        error = json.loads(result.json)["error"]
        assert (result.status, error["type"]) == (400, "invalid_request_error")
        assert (error["param"] or "") == param
        if code is not None:
            assert error["code"] == code
    assert (await shared.sim_stats())["calls"] == 0


async def test_answers_are_told_apart_counted_and_labelled(lines: Lines, shared: Stack) -> None:
    before = (await shared.ledger()).total()
    await lines.send(*(chat("echo", f"say {n}", tags="a,b", signature="s") for n in range(50)))
    results = await lines.all()
    assert [result.number for result in results] == list(range(1, 51))
    ids = set()
    for n, result in enumerate(results):
        body = json.loads(result.json)
        ids.add(body["id"])
        assert body["choices"][0]["message"]["content"] == f"say {n}"
        assert (result.status, result.custom_id, result.attempt) == (200, f"line-{n + 1}", 1)
        assert result.usage.output_tokens == body["usage"]["completion_tokens"] > 0
        assert (list(result.tags), result.signature) == (["a", "b"], "s")
        assert (result.route.provider, result.answered_model) == ("sim", "echo")
        assert result.cost.nano_usd == 3_000 * result.usage.output_tokens
    assert len(ids) == 50
    after = (await shared.ledger()).total()
    assert after.charges == before.charges  # whoever counts the results writes them
    assert after.completed == before.completed + 50
    assert (await shared.sim_stats())["calls"] == 50


FAILURES = [
    ("sim-status=400", 400, "invalid_request_error", 1),
    ("sim-fault=cut", 502, "server_error", 2),
]


async def test_failures_of_a_provider_are_tried_again_where_that_helps_and_then_told(
    lines: Lines, shared: Stack
) -> None:
    await lines.send(*(chat(model) for model, _, _, _ in FAILURES))
    results = await lines.all()
    for result, (_, status, kind, attempts) in zip(results, FAILURES, strict=True):
        assert (result.status, result.attempt) == (status, attempts)
        assert json.loads(result.json)["error"]["type"] == kind
    assert (await shared.sim_stats())["by_model"] == {
        model: attempts for model, _, _, attempts in FAILURES
    }


async def test_trouble_of_a_provider_is_sat_out_however_few_tries_a_line_has(
    lines: Lines, shared: Stack
) -> None:
    trouble = [f"sim-status={status},first_n=2,key=t{status}" for status in (500, 401, 402, 503)]
    await lines.send(*(chat(model) for model in trouble))
    results = await lines.all()
    assert [(result.status, result.attempt) for result in results] == [(200, 3)] * len(trouble)


async def test_a_line_that_fails_while_its_model_answers_others_is_told_so(lines: Lines) -> None:
    bad, good = {"status": 500}, {"ttft_ms": 400}
    await lines.send(*(chat("sim", sim=bad if n == 10 else good) for n in range(30)))
    results = await lines.all()
    assert [result.number for result in results if result.status != 200] == [11]
    assert (results[10].status, results[10].attempt) == (502, 2)


async def test_a_call_that_takes_too_long_has_no_status(lines: Lines) -> None:
    job = lines.job(chat("sim-ttft_ms=60000"), remaining_ms=300)
    await lines.publish(job)
    (result,) = await lines.all()
    assert (result.status, result.error.code) == (0, "request_timeout")
    assert not result.json


async def test_limits_of_a_provider_are_sat_out_and_use_up_no_try(
    lines: Lines, shared: Stack
) -> None:
    storm = "sim-status=429,retry_after=0.2,first_n=12,key=storm"
    await lines.send(*(chat(storm) for _ in range(10)))
    results = await lines.all()
    assert {result.status for result in results} == {200}
    assert max(result.attempt for result in results) >= 2
    assert (await shared.sim_stats())["by_status"] == {"429": 12, "200": 10}


async def test_a_model_that_is_over_its_limit_holds_up_no_other_one(
    lines: Lines, shared: Stack
) -> None:
    slow, quick = "sim-ttft_ms=200,allow_open=1,key=slow", "sim-ttft_ms=100"
    await lines.send(*(chat(slow if n % 2 else quick) for n in range(40)))

    async def done() -> bool:
        by_model = (await shared.sim_stats())["by_model"]
        return bool(by_model.get(quick) == 20)

    await until(done, "the lines of the other model have run")
    assert await lines.results() < 40
    assert {result.status for result in await lines.all()} == {200}


async def test_a_line_that_has_its_result_is_not_run_again(lines: Lines, shared: Stack) -> None:
    job = lines.job(chat("sim-vary"))
    await lines.publish(job)
    first = await lines.all()
    job.attempt = 2
    await lines.publish(job)
    assert await lines.all() == first
    # Nor one that another leader had queued so long ago that the queue has forgotten it.
    job.attempt, job.line.maybe_done = 1, True
    subject = subjects.job(subjects.BATCH, lines.provider, "main", subjects.UNLISTED)
    await shared.bus.js.publish(subject, job.SerializeToString())
    assert await lines.all() == first
    assert (await shared.sim_stats())["calls"] == 1


async def test_lines_of_a_batch_that_is_stopped_end_without_a_call(
    lines: Lines, shared: Stack
) -> None:
    batches = Batches(shared.bus)
    await batches.stop(lines.batch, BATCH_CANCELLED)
    other = Lines(shared, f"batch_{next(_numbers):032x}")
    await other.send(chat())
    await other.all()  # workers know of it by now

    async def stopped() -> bool:
        await lines.send(chat())
        results = await lines.all()
        return results[-1].error.code == BATCH_CANCELLED

    await until(stopped, "the lines are stopped")
    await shared.reset_sim()
    await lines.send(*(chat() for _ in range(20)))
    result = (await lines.all())[-1]
    assert (result.status, result.error.message) == (0, STOPPED[BATCH_CANCELLED])
    assert (await shared.sim_stats())["calls"] == 0
    await batches.unstop(lines.batch)


async def test_what_is_no_job_is_dropped_and_what_has_no_plan_fails_by_itself(
    lines: Lines, shared: Stack
) -> None:
    subject = "req.bat.sim.main._"
    for garbage in (b"", b"\xff\xff\xff", b"garbage"):
        await shared.bus.js.publish(subject, garbage)
    job = lines.job(chat("sim-status=500"))
    job.ClearField("plan")
    await lines.publish(job)
    (result,) = await lines.all()
    assert result.status == 500
    subjects = (await shared.bus.js.stream_info("RES", subjects_filter="res.*.*")).state.subjects
    assert all(subject.startswith("res.batch_") for subject in subjects or ())


@pytest.mark.parametrize("logged", [True, False])
async def test_a_line_that_is_lost_too_often_is_told_then_put_aside(
    lines: Lines, shared: Stack, logged: bool
) -> None:
    await lines.publish(
        lines.job(chat("sim", "secret", log_query_body=logged), losses=4),
        lines.job(chat(), losses=3),
        lines.job(chat(), losses=2),
    )
    lost, *others = await lines.all()
    assert {result.status for result in others} == {200}
    assert lost.status == 502
    assert json.loads(lost.json)["error"]["code"] == "worker_lost"
    assert (await shared.sim_stats())["calls"] == 2
    letter = await shared.bus.js.get_last_msg("DLQ", "dlq.bat.sim.main")
    job = job_pb2.Job.FromString(letter.data or b"")
    assert job.line.batch_id == lines.batch
    assert (b"secret" in job.line.json) is logged


async def test_a_large_answer_is_an_object(lines: Lines, shared: Stack) -> None:
    await lines.send(chat("sim-bytes=2000000,tokens=100"))
    (result,) = await lines.all()
    assert result.status == 200
    data = await Blobs(shared.bus).get(result.object.name)
    assert data is not None
    assert len(data) == result.object.size
    assert len(json.loads(data)["choices"][0]["message"]["content"]) == 2_000_000


async def test_a_line_of_20_mb_is_read_from_its_file(lines: Lines, shared: Stack) -> None:
    url = "data:image/png;base64," + "A" * (20 << 20)
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    body = {"model": "echo", "messages": [{"role": "user", "content": parts}]}
    line = {"custom_id": "x", "method": "POST", "url": CHAT, "body": body}
    before, data = b"{}\n", json.dumps(line).encode()

    async def content() -> AsyncIterator[bytes]:
        whole = before + data + b"\n" + before
        for start in range(0, len(whole), 1 << 20):
            yield whole[start : start + (1 << 20)]

    files = Files(shared.bus)
    file = await files.put(
        file_pb2.StoredFile(owner="t", purpose=file_pb2.FILE_PURPOSE_BATCH), content()
    )
    place = job_pb2.FileRange(owner="t", file_id=file.id, offset=len(before), size=len(data))
    jobs = [lines.job(b"", model="echo") for _ in range(3)]
    for job in jobs:
        job.line.range.CopyFrom(place)
    jobs[2].line.range.owner = "somebody else"
    await lines.publish(*jobs)
    *found, refused = await lines.all()
    for result in found:
        assert result.status == 200
        assert json.loads(result.json)["choices"][0]["message"]["content"] == "what is this?"
    assert refused.status == 404
