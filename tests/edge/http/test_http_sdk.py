"""The official client library in front of the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from broker.errors import TABLE, InferenceError
from tests.edge.http.standin import HELLO, SECRET, Edge, Engine, Exchange, Start, started, text

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
Connect = Callable[[Edge], AsyncOpenAI]


@pytest.fixture
async def sdk() -> AsyncIterator[Connect]:
    opened: list[AsyncOpenAI] = []

    def connect(edge: Edge, key: str = SECRET) -> AsyncOpenAI:
        opened.append(AsyncOpenAI(api_key=key, base_url=f"{edge.url}/v1", max_retries=0))
        return opened[-1]

    yield connect
    for client in opened:
        await client.close()


def expected(status: int) -> type[openai.APIStatusError]:
    return {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        409: openai.ConflictError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
    }.get(status, openai.InternalServerError if status >= 500 else openai.APIStatusError)


async def test_the_sdk_reads_answers_and_streams(start: Start, sdk: Connect) -> None:
    edge = await start(Engine(HELLO))
    client = sdk(edge)
    answer = await client.chat.completions.create(model="sim/sim-1", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello"
    assert answer._request_id == edge.engine.requests[0][2]
    stream = await client.chat.completions.create(model="sim/sim-1", messages=MESSAGES, stream=True)
    said = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    assert said == "Hello"
    models = await client.models.list()
    assert [m.id for m in models.data] == ["sim/sim-1", "openai/gpt-4o"]
    assert (await client.models.retrieve("openai/gpt-4o")).owned_by == "openai"


@pytest.mark.parametrize("reason", [r for r in TABLE if r != "client_gone"])
async def test_each_reason_raises_the_class_that_callers_rely_on(
    start: Start, sdk: Connect, reason: str
) -> None:
    row = TABLE[reason]
    edge = await start(Engine(refusal=InferenceError(reason, "because", param="model")))
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk(edge).chat.completions.create(model="m", messages=MESSAGES, stream=stream)
        assert type(caught.value) is expected(row.http)
        assert caught.value.status_code == row.http
        assert (caught.value.type, caught.value.code) == (row.type, row.code)
        assert caught.value.param == "model"
        assert caught.value.request_id == edge.engine.requests[-1][2]


async def test_a_wrong_key_is_an_authentication_error(start: Start, sdk: Connect) -> None:
    edge = await start()
    client = AsyncOpenAI(api_key="mr-wrong", base_url=f"{edge.url}/v1", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        await client.models.list()
    await client.close()


async def test_an_error_inside_a_stream_is_an_api_error(start: Start, sdk: Connect) -> None:
    edge = await start(Engine([[started(), text("Hel")], InferenceError("worker_lost", "gone")]))
    stream = await sdk(edge).chat.completions.create(model="m", messages=MESSAGES, stream=True)
    said = ""
    with pytest.raises(openai.APIError, match="gone") as caught:
        async for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert said == "Hel"
    assert type(caught.value) is openai.APIError
    assert caught.value.code == "worker_lost"


async def test_the_sdk_waits_as_long_as_it_is_told_and_tries_again(start: Start) -> None:
    class Busy(Engine):
        async def submit(self, *args: Any, **more: Any) -> Exchange:
            self.refusal = (
                InferenceError("queue_full", "full", retry_after=0.05)
                if not self.requests
                else None
            )
            return await super().submit(*args, **more)

    edge = await start(Busy())
    client = AsyncOpenAI(api_key=SECRET, base_url=f"{edge.url}/v1", max_retries=1)
    answer = await client.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello"
    assert len(edge.engine.requests) == 2
    await client.close()


async def test_the_sdk_does_not_try_again_where_that_is_no_use(start: Start) -> None:
    edge = await start(Engine(refusal=InferenceError("upstream_error", "broken")))
    client = AsyncOpenAI(api_key=SECRET, base_url=f"{edge.url}/v1", max_retries=3)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="m", messages=MESSAGES)
    assert len(edge.engine.requests) == 1
    await client.close()
