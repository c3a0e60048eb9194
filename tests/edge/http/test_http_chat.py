from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from broker.errors import TABLE, InferenceError
from broker.v1 import event_pb2
from tests.edge.http.standin import (
    AUTHORIZED,
    COMPLETED,
    FINISHED,
    HELLO,
    Engine,
    Start,
    body,
    error,
    started,
    text,
    until,
)

CHAT = "/v1/chat/completions"


def chunks(stream: str) -> list[dict[str, object]]:
    return [
        json.loads(event.removeprefix("data: "))
        for event in stream.split("\n\n")
        if event.startswith("data: {")
    ]


async def test_a_whole_answer_has_its_body_and_headers(
    start: Start, client: httpx.AsyncClient
) -> None:
    first = started(
        upstream_request_id="up-req-1",
        dropped_params=["logit_bias", "seed"],
        rate_limits={
            "x-ratelimit-remaining-requests": "99",
            "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:00Z",
            "set-cookie": "secret",
        },
    )
    edge = await start(Engine([[first, text("Hello"), FINISHED, COMPLETED]]))
    answer = await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)
    assert answer.status_code == 200
    completion = answer.json()
    assert completion["id"] == "chatcmpl-0123"
    assert completion["choices"][0]["message"]["content"] == "Hello"
    assert completion["usage"]["total_tokens"] == 5
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["x-millrace-provider"] == "sim"
    assert answer.headers["x-millrace-model"] == "sim-1"
    assert answer.headers["x-millrace-upstream-request-id"] == "up-req-1"
    assert answer.headers["x-dropped-params"] == "logit_bias, seed"
    assert answer.headers["x-ratelimit-remaining-requests"] == "99"
    assert answer.headers["anthropic-ratelimit-tokens-reset"] == "2026-01-01T00:00:00Z"
    assert "set-cookie" not in answer.headers
    assert "server" not in answer.headers
    assert "date" in answer.headers
    (request, key, request_id, timeout_s) = edge.engine.requests[0]
    assert request.generate.messages[0].parts[0].text.text == "Hi"
    assert key.name == "test"
    assert request_id == answer.headers["x-request-id"]
    assert timeout_s == 600
    assert edge.engine.exchanges[0].closed.is_set()


async def test_batches_of_a_whole_answer_are_joined(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start(Engine(HELLO))
    answer = await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


async def test_a_stream_is_server_sent_events_up_to_done(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start(Engine(HELLO))
    request = body(stream=True, stream_options={"include_usage": True})
    answer = await client.post(edge.url + CHAT, json=request, headers=AUTHORIZED)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-millrace-provider"] == "sim"
    assert answer.headers["x-request-id"] == edge.engine.exchanges[0].request_id
    assert answer.text.endswith("data: [DONE]\n\n")
    seen = chunks(answer.text)
    assert seen[-1]["choices"] == []
    said = "".join(c["choices"][0]["delta"].get("content") or "" for c in seen[:-1])  # type: ignore[index]
    assert said == "Hello"
    assert edge.engine.exchanges[0].closed.is_set()


async def test_each_batch_reaches_the_client_before_the_next_exists(
    start: Start, client: httpx.AsyncClient
) -> None:
    gate = asyncio.Event()
    edge = await start(Engine([[started(), text("one")], gate, [text("two"), FINISHED, COMPLETED]]))
    async with client.stream(
        "POST", edge.url + CHAT, json=body(stream=True), headers=AUTHORIZED
    ) as answer:
        pieces = answer.aiter_text()
        seen = ""
        async with asyncio.timeout(5):
            while "one" not in seen:
                seen += await anext(pieces)
        assert "two" not in seen
        gate.set()
        seen += "".join([piece async for piece in pieces])
    assert seen.endswith("data: [DONE]\n\n")


async def test_the_status_of_a_stream_waits_for_its_first_events(
    start: Start, client: httpx.AsyncClient
) -> None:
    refused = error("upstream_rate_limit", "slow down", retry_after=3.0)
    edge = await start(Engine([refused]))
    answer = await client.post(edge.url + CHAT, json=body(stream=True), headers=AUTHORIZED)
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["message"] == "slow down"
    assert edge.engine.exchanges[0].closed.is_set()


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_error_says_who_failed_how_it_came_there_and_by_what_id_it_is_known(
    start: Start, client: httpx.AsyncClient, streamed: bool
) -> None:
    told = asyncio.Event()
    failed = error(
        "upstream_error", "broke", provider="openai", model="gpt-9", upstream_request_id="req-up"
    )
    edge = await start(Engine([told, failed]))
    asking = asyncio.create_task(
        client.post(edge.url + CHAT, json=body(stream=streamed), headers=AUTHORIZED)
    )
    await until(lambda: edge.engine.exchanges)
    edge.engine.exchanges[0].route = "price: openai"
    told.set()
    headers = (await asking).headers
    assert headers["x-millrace-provider"] == "openai"
    assert headers["x-millrace-model"] == "gpt-9"
    assert headers["x-millrace-upstream-request-id"] == "req-up"
    assert headers["x-millrace-route"] == "price: openai"
    (line,) = edge.lines()
    assert (line["provider"], line["reason"]) == ("openai", "upstream_error")


async def test_an_error_after_content_is_an_event_and_not_done(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start(Engine([[started(), text("Hel")], error("worker_lost", "gone")]))
    answer = await client.post(edge.url + CHAT, json=body(stream=True), headers=AUTHORIZED)
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    last = chunks(answer.text)[-1]
    assert last == {
        "error": {"message": "gone", "type": "server_error", "param": None, "code": "worker_lost"}
    }
    assert answer.text.endswith("\n\n")
    (line,) = edge.lines()
    assert (line["status"], line["reason"]) == (200, "worker_lost")


async def test_a_bug_mid_stream_is_an_error_event_with_a_logged_traceback(
    start: Start, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    edge = await start(Engine([[started(), text("Hel")], ValueError("inner secret")]))
    answer = await client.post(edge.url + CHAT, json=body(stream=True), headers=AUTHORIZED)
    assert chunks(answer.text)[-1]["error"]["code"] == "internal"  # type: ignore[index]
    assert "inner secret" not in answer.text
    assert "inner secret" in caplog.text


async def test_a_bug_is_a_500_with_a_logged_traceback(
    start: Start, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    edge = await start(Engine(refusal=ValueError("inner secret")))
    answer = await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "inner secret" not in answer.text
    assert "inner secret" in caplog.text
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.request_id == answer.headers["x-request-id"]  # type: ignore[attr-defined]


async def test_an_answer_without_an_end_is_an_error(
    start: Start, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    edge = await start(Engine([[started(), text("Hel")]]))
    assert (await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)).status_code == 500
    answer = await client.post(edge.url + CHAT, json=body(stream=True), headers=AUTHORIZED)
    assert "[DONE]" not in answer.text
    assert "error" in chunks(answer.text)[-1]


@pytest.mark.parametrize("reason", [r for r in TABLE if r != "client_gone"])
@pytest.mark.parametrize("stream", [False, True])
async def test_every_reason_becomes_its_status_and_body(
    start: Start, client: httpx.AsyncClient, reason: str, stream: bool
) -> None:
    edge = await start(Engine(refusal=InferenceError(reason, "because", param="model")))
    answer = await client.post(edge.url + CHAT, json=body(stream=stream), headers=AUTHORIZED)
    row = TABLE[reason]
    assert answer.status_code == row.http
    assert answer.json() == {
        "error": {"message": "because", "type": row.type, "param": "model", "code": row.code}
    }
    assert answer.headers["x-request-id"].startswith("req_")
    assert ("retry-after" in answer.headers) is (
        row.http in (429, 503) and reason != "insufficient_quota"
    )
    (line,) = edge.lines()
    assert (line["status"], line["reason"]) == (row.http, reason)


async def test_an_odd_model_name_cannot_break_the_headers(
    start: Start, client: httpx.AsyncClient
) -> None:
    odd = event_pb2.Event(started=event_pb2.Started(provider="sim", model="mod\r\nx-evil: 1 é"))
    edge = await start(Engine([[odd, text("Hi"), FINISHED, COMPLETED]]))
    answer = await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)
    assert answer.status_code == 200
    assert answer.headers["x-millrace-model"] == "mod??x-evil: 1 ?"
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    ("value", "timeout_s"), [("5", 5.0), ("0.25", 0.25), ("100000", 600.0), (None, 600.0)]
)
async def test_the_timeout_header_shortens_the_limit_and_never_extends_it(
    start: Start, client: httpx.AsyncClient, value: str | None, timeout_s: float
) -> None:
    edge = await start()
    headers = AUTHORIZED | ({} if value is None else {"x-millrace-timeout": value})
    await client.post(edge.url + CHAT, json=body(), headers=headers)
    assert edge.engine.requests[0][3] == timeout_s


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf", "1e3", "", "5s"])
async def test_a_malformed_timeout_is_refused(
    start: Start, client: httpx.AsyncClient, value: str
) -> None:
    edge = await start()
    headers = AUTHORIZED | {"x-millrace-timeout": value}
    answer = await client.post(edge.url + CHAT, json=body(), headers=headers)
    assert answer.status_code == 400
    assert "X-Millrace-Timeout" in answer.json()["error"]["message"]
    assert edge.engine.requests == []


async def test_open_streams_per_key_are_limited_and_given_back(
    start: Start, client: httpx.AsyncClient
) -> None:
    gate = asyncio.Event()
    script = [[started(), text("a")], gate, [FINISHED, COMPLETED]]
    edge = await start(Engine(script), limits={"streams_per_key": 2})
    other = edge.table.put("mr-other-key")
    assert other.id
    url = edge.url + CHAT
    running = [
        asyncio.create_task(client.post(url, json=body(stream=True), headers=AUTHORIZED))
        for _ in range(2)
    ]
    await until(lambda: len(edge.engine.exchanges) == 2)
    assert edge.metric("millrace_open_streams{") == 2
    refused = await client.post(url, json=body(stream=True), headers=AUTHORIZED)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "too_many_streams"
    assert "retry-after" in refused.headers
    # Neither other keys nor whole answers are meant.
    edge.engine.script = HELLO
    for asked in (
        client.post(url, json=body(), headers=AUTHORIZED),
        client.post(url, json=body(stream=True), headers={"authorization": "Bearer mr-other-key"}),
    ):
        assert (await asked).status_code == 200
    gate.set()
    await asyncio.gather(*running)
    assert edge.metric("millrace_open_streams{") == 0
    again = await client.post(url, json=body(stream=True), headers=AUTHORIZED)
    assert again.status_code == 200


async def test_a_finished_request_is_counted_and_logged_once(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    headers = AUTHORIZED | {"x-client-request-id": "theirs-1"}
    answer = await client.post(edge.url + CHAT, json=body(stream=True), headers=headers)
    (line,) = edge.lines()
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["client_request_id"] == "theirs-1"
    assert (line["provider"], line["model"], line["status"]) == ("sim", "sim-1", 200)
    assert (line["input_tokens"], line["output_tokens"], line["stream"]) == (3, 2, True)
    assert str(line["key"]).startswith("key_")
    labels = 'process="edge-test",provider="sim",reason="",status="200"'
    assert edge.metric(f"millrace_requests_total{{{labels}}}") == 1
    assert edge.metric('millrace_request_seconds_count{process="edge-test",provider="sim"}') == 1
    assert edge.metric("millrace_first_content_seconds_count") == 1


async def test_a_client_never_chooses_the_request_id(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    headers = AUTHORIZED | {"x-request-id": "req_mine"}
    first = await client.post(edge.url + CHAT, json=body(), headers=headers)
    second = await client.post(edge.url + CHAT, json=body(), headers=headers)
    ids = {first.headers["x-request-id"], second.headers["x-request-id"], "req_mine"}
    assert len(ids) == 3
