"""Messages that go wrong: in the format's own words, and never as if they were whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.system.messages_client import GPT, OPUS, connect, post, said, streamed
from tests.system.messages_wire import SSE, answer, chunk, events
from tests.system.provider import FakeProvider, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import Stack

PROVIDERS = {"anthropic": "", "openai": "/v1"}


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(answer) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers = {
        name: {"base_url": fake.url(name) + path, "api_key": "k"}
        for name, path in PROVIDERS.items()
    }
    async with shared_stack(
        tmp_path_factory, providers=providers, serves=("sim", *PROVIDERS)
    ) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = answer


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncAnthropic]:
    async with connect(stack) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "kind", "shown"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.APIStatusError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (529, "overloaded_error", anthropic.APIStatusError),
    ],
)
async def test_an_upstream_error_keeps_its_type(
    sdk: AsyncAnthropic, fake: FakeProvider, status: int, kind: str, shown: Any
) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "model: told so"}}
    fake.script = lambda _: Said(status, error, headers={"retry-after": "0.01"})
    with pytest.raises(shown) as caught:
        await said(sdk, stream=False, model=OPUS)
    assert caught.value.status_code == status
    body: Any = caught.value.body
    assert body.keys() == {"type", "error", "request_id"}
    assert body["error"] == {"type": kind, "message": "model: told so"}
    assert body["request_id"] == caught.value.request_id


async def test_a_wrong_key_is_refused_in_the_same_form(stack: Stack) -> None:
    answered = await post(stack, {"model": OPUS}, **{"x-api-key": "mr-wrong"})
    assert answered.status_code == 401
    assert answered.json()["error"]["type"] == "authentication_error"


async def test_a_wrong_field_is_named(stack: Stack) -> None:
    answered = await post(stack, {"model": OPUS, "messages": [{"role": "user", "content": [{}]}]})
    error = answered.json()["error"]
    assert answered.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert "messages[0].content[0].type" in error["message"]


@pytest.mark.parametrize("fault", ["error_event", "cut", "reset"])
async def test_a_stream_that_breaks_ends_with_an_error_and_no_message_stop(
    stack: Stack, fault: str
) -> None:
    """Text was shown, and the second run says something else, so that it cannot go on."""
    model = f"sim/fault={fault},vary,tokens=12,after=4,delay_ms=40"
    shown = await streamed(stack, {"model": model})
    names = [name for name, _ in shown]
    assert names[0] == "message_start"
    assert names[-1] == "error"
    assert not {"message_stop", "message_delta"} & set(names)
    assert shown[-1][1]["error"]["type"] == "api_error"


async def test_a_stream_that_fails_before_it_begins_has_the_status_of_its_error(
    stack: Stack, fake: FakeProvider
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    fake.script = lambda _: Said(body=events(error), headers=SSE)
    answered = await post(stack, {"model": OPUS, "stream": True})
    assert answered.status_code == 529
    assert answered.json()["error"] == error["error"]


async def test_the_library_raises_for_an_error_inside_a_stream(
    fake: FakeProvider, sdk: AsyncAnthropic
) -> None:
    failed = b'data: {"error": {"message": "it broke", "type": "server_error"}}\n\n'
    fake.script = lambda _: Said(body=chunk({"content": "a"}) + failed, headers=SSE)
    with pytest.raises(anthropic.APIStatusError):
        await said(sdk, stream=True, model=GPT)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_closes_the_upstream_call(stack: Stack, stream: bool) -> None:
    body = {"model": "sim/fault=hang", "stream": stream}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await post(stack, body)
    await stack.quiet(timeout_s=5)


async def test_a_client_that_leaves_in_the_middle_closes_the_upstream_call(
    stack: Stack, sdk: AsyncAnthropic
) -> None:
    model = "sim/tokens=3000,delay_ms=20"
    async with sdk.messages.stream(
        model=model, max_tokens=5000, messages=[{"role": "user", "content": "Hello!"}]
    ) as events:
        async for event in events:
            if event.type == "text":
                break
    await stack.quiet(timeout_s=5)
