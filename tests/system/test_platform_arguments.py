"""Arguments of the platform that change what a provider is sent: drop_params and extra_headers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from openai import AsyncOpenAI, BadRequestError

from broker.v1 import content_pb2, generation_pb2
from tests.system import rpc
from tests.system.provider import FakeProvider, chat_answer, fake_provider
from tests.system.stack import KEY, MakeStack, Stack

MODEL = "mistral/mistral-small-latest"
# Mistral has the seed under another name, the others not at all.
ASKED: dict[str, Any] = {"logit_bias": {"50256": -100}, "store": True, "seed": 7}
LACKING = {"logit_bias", "store"}


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(lambda _: chat_answer()) as made:
        yield made


@pytest.fixture
async def stack(make_stack: MakeStack, fake: FakeProvider) -> Stack:
    providers = {"mistral": {"base_url": fake.url("mistral"), "api_key": "sk-ours-0123456789"}}
    return await make_stack(workers=1, providers=providers, serves=("mistral",))


def over_grpc(**platform: Any) -> generation_pb2.Request:
    part = content_pb2.Part(text=content_pb2.Text(text="hello"))
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])
    generate = generation_pb2.GenerateRequest(model=MODEL, messages=[message], **ASKED)
    return generation_pb2.Request(generate=generate, platform=generation_pb2.Platform(**platform))


def sent(fake: FakeProvider) -> dict[str, Any]:
    (call,) = fake.take()
    return dict(call.json)


async def test_http_drops_and_reports_unless_it_is_told_not_to(
    stack: Stack, fake: FakeProvider
) -> None:
    allowed: list[dict[str, Any]] = [{}, {"drop_params": True}, {"drop_params": None}]
    async with stack.client() as client:
        for fields in allowed:
            reply = await stack.chat(client, MODEL, **ASKED, **fields)
            assert reply.status_code == 200
            assert set(reply.headers["x-dropped-params"].split(", ")) == LACKING
            body = sent(fake)
            assert body.keys().isdisjoint({*LACKING, "drop_params"})
            assert body["random_seed"] == 7
        async with stack.stream(client, MODEL, **ASKED, drop_params=False) as streamed:
            assert streamed.status_code == 400
        reply = await stack.chat(client, MODEL, **ASKED, drop_params=False)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_parameter")
        assert all(name in error["message"] for name in LACKING)
        assert fake.take() == []
        reply = await stack.chat(client, MODEL, seed=7, drop_params=False)
        assert reply.status_code == 200
        assert "x-dropped-params" not in reply.headers


async def test_grpc_drops_and_reports_unless_it_is_told_not_to(
    stack: Stack, fake: FakeProvider
) -> None:
    async with rpc.connected(stack) as client:
        for request in (over_grpc(), over_grpc(drop_params=True)):
            reply = await client.infer(request)
            assert set(reply.answer.dropped_params) == LACKING
            assert sent(fake).keys().isdisjoint(LACKING)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer(over_grpc(drop_params=False))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert all(name in str(caught.value.details()) for name in LACKING)
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason.lower() == "unsupported_parameter"
    assert fake.take() == []


async def test_headers_reach_the_provider_from_the_sdk_from_the_body_and_over_grpc(
    stack: Stack, fake: FakeProvider
) -> None:
    ours = {"authorization": "Bearer sk-ours-0123456789", "content-type": "application/json"}
    async with AsyncOpenAI(base_url=f"{stack.url()}/v1", api_key=KEY, max_retries=0) as sdk:
        await sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hello"}],
            extra_headers={
                "X-Custom-Header": "value",
                "anthropic-beta": "context-1m-2025-08-07",
                "Cookie": "session=1",
                "X-Forwarded-For": "10.0.0.1",
                "X-Request-ID": "theirs",
                "Idempotency-Key": "theirs",
                "OpenAI-Organization": "org-1",
                "X-Api-Key": KEY,
            },
            extra_body={"extra_headers": {"X-Body": "1", "Authorization": "Bearer theirs"}},
        )
    (call,) = fake.take()
    got = dict(call.headers)
    expected = {
        "x-custom-header": "value",
        "anthropic-beta": "context-1m-2025-08-07",
        "x-body": "1",
        **ours,
    }
    assert {name: got.pop(name) for name in expected} == expected
    assert got.pop("user-agent").startswith("millrace/")
    assert set(got) <= {"host", "accept", "accept-encoding", "content-length", "connection"}
    assert "extra_headers" not in call.json

    async with rpc.connected(stack) as client:
        await client.infer(
            over_grpc(extra_headers={"X-Custom-Header": "1", "X-Provider-Key": "2", "Cookie": "3"})
        )
    (call,) = fake.take()
    assert call.headers["x-custom-header"] == "1"
    assert call.headers.keys().isdisjoint({"x-provider-key", "cookie"})


async def test_the_sdk_raises_its_own_class_for_what_may_not_be_dropped(stack: Stack) -> None:
    async with AsyncOpenAI(base_url=f"{stack.url()}/v1", api_key=KEY, max_retries=0) as sdk:
        with pytest.raises(BadRequestError) as caught:
            await sdk.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "hello"}],
                store=True,
                extra_body={"drop_params": False},
            )
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "store")
