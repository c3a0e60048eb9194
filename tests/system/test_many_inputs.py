"""Embeddings of more inputs than one call takes, in the formats of several providers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from broker.bus.usage import usage_groups
from broker.v1 import control_service_pb2, generation_pb2, operations_pb2
from tests.system import rpc
from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

# Provider -> a model of it, and how many inputs a call takes.
MODELS = {
    "cohere": ("embed-v4.0", 96),
    "gemini": ("gemini-embedding-001", 100),
    "vertex_ai": ("text-embedding-005", 250),
    "bedrock": ("amazon.titan-embed-text-v2:0", 1),
    "huggingface": ("tei", 32),
    "mistral": ("mistral-embed", 512),
}
CALLS_AT_ONCE = 8


def number_of(text: str) -> float:
    return float(text.rpartition(" ")[2])


def vector(text: str) -> list[float]:
    """A vector that tells its input."""
    return [number_of(text), 0.5]


def texts_of(call: Received) -> list[str]:
    asked = call.json
    match call.provider:
        case "cohere":
            texts = asked["texts"]
        case "gemini":
            texts = [one["content"]["parts"][0]["text"] for one in asked["requests"]]
        case "vertex_ai":
            texts = [one["content"] for one in asked["instances"]]
        case "bedrock":
            texts = [asked["inputText"]]
        case _:
            texts = asked["input"]
    assert isinstance(texts, list | str)
    return [texts] if isinstance(texts, str) else texts


def embedded(call: Received) -> Said:
    """An answer in the provider's own format."""
    vectors = [vector(text) for text in texts_of(call)]
    count = len(vectors)
    match call.provider:
        case "cohere":
            meta = {"billed_units": {"input_tokens": 2 * count}}
            return Said(body={"id": "x", "embeddings": {"float": vectors}, "meta": meta})
        case "gemini":
            used = {"promptTokenCount": 2 * count}
            values = [{"values": one} for one in vectors]
            return Said(body={"embeddings": values, "usageMetadata": used})
        case "vertex_ai":
            statistics = {"token_count": 2, "truncated": False}
            made = [{"embeddings": {"statistics": statistics, "values": one}} for one in vectors]
            return Said(body={"predictions": made})
        case "bedrock":
            return Said(body={"embedding": vectors[0], "inputTextTokenCount": 2})
    data = [{"index": index, "embedding": one} for index, one in enumerate(vectors)]
    usage = {"prompt_tokens": 2 * count, "total_tokens": 2 * count}
    return Said(body={"object": "list", "model": "m-1", "data": data, "usage": usage})


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(embedded) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers: dict[str, Any] = {
        name: {"base_url": fake.url(name), "api_key": "k"} for name in MODELS
    }
    providers["vertex_ai"]["options"] = {"project": "p1"}
    providers["mistral"]["api_key"] = ["key-number-one", "key-number-two"]
    serves = ("sim", *MODELS)
    async with shared_stack(tmp_path_factory, providers=providers, serves=serves) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = embedded


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=60
    ) as client:
        yield client


def inputs(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def sizes(calls: list[Received]) -> list[int]:
    return sorted((len(texts_of(call)) for call in calls), reverse=True)


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])
async def test_one_more_than_a_call_takes_is_two_calls_and_one_answer(
    sdk: AsyncOpenAI, fake: FakeProvider, provider: str, encoding: Any
) -> None:
    """Without a word about the format the official library asks for base64."""
    model, most = MODELS[provider]
    answer = await sdk.embeddings.create(
        model=f"{provider}/{model}", input=inputs(most + 1), **encoding
    )
    assert [item.embedding for item in answer.data] == [vector(text) for text in inputs(most + 1)]
    assert [item.index for item in answer.data] == list(range(most + 1))
    assert answer.usage.prompt_tokens == 2 * (most + 1)
    assert sizes(fake.take()) == [most, 1]


async def charges(stack: Stack, request_id: str) -> list[Any]:
    groups = [group async for group in usage_groups(stack.bus)]
    return [one for group in groups for one in group.charges if one.request_id == request_id]


async def attempts(stack: Stack, request_id: str) -> list[Any]:
    groups = [group async for group in usage_groups(stack.bus)]
    return [one for group in groups for one in group.attempts if one.request_id == request_id]


async def test_5000_inputs_at_96_a_call_come_back_in_order_and_are_charged_once(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    before = fake.connections
    raw = await sdk.embeddings.with_raw_response.create(
        model="cohere/embed-v4.0", input=inputs(5000)
    )
    answer = raw.parse()
    assert [int(item.embedding[0]) for item in answer.data] == list(range(5000))
    assert answer.usage.prompt_tokens == 10_000
    assert sizes(fake.take()) == [96] * 52 + [8]
    # One caller's large request has only so many of the provider's connections.
    assert fake.connections <= before + CALLS_AT_ONCE
    request_id = raw.headers["x-request-id"]
    [charge] = await until(lambda: charges(stack, request_id), "the charge")
    assert charge.usage.input_tokens == 10_000
    [attempt] = await until(lambda: attempts(stack, request_id), "the attempt's record")
    assert attempt.upstream_calls == 53
    await stack.quiet()


@pytest.mark.parametrize("provider", ["cohere", "gemini"])
@pytest.mark.parametrize(
    "said",
    [
        Said(503, {"message": "busy"}),
        Said(429, {"message": "slow down"}, headers={"retry-after": "0.1"}),
        Said(200, b'{"embeddings": {"float": [[1,', cut=True),
    ],
    ids=["overloaded", "limited", "cut"],
)
async def test_a_call_that_fails_in_the_middle_is_made_again_alone(
    sdk: AsyncOpenAI, fake: FakeProvider, provider: str, said: Said
) -> None:
    model, most = MODELS[provider]
    wanted = inputs(10 * most)
    fake.script = failing(once_at(5 * most, said))
    answer = await sdk.embeddings.create(model=f"{provider}/{model}", input=wanted)
    assert [item.embedding for item in answer.data] == list(map(vector, wanted))
    assert sizes(fake.take()) == [most] * 11
    assert answer.usage.prompt_tokens == 20 * most


def once_at(number: int, said: Said) -> Callable[[Received], Said | None]:
    """Fails the first call that has this input."""
    failed = False

    def answer(call: Received) -> Said | None:
        nonlocal failed
        if failed or f"text {number}" not in texts_of(call):
            return None
        failed = True
        return said

    return answer


def failing(when: Callable[[Received], Said | None]) -> Callable[[Received], Said]:
    return lambda call: when(call) or embedded(call)


async def test_a_provider_that_wants_one_call_to_wait_is_left_alone_by_the_others(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    said = Said(429, {"message": "slow down"}, headers={"retry-after": "0.5"})
    fake.script = failing(once_at(0, said))
    await sdk.embeddings.create(model="cohere/embed-v4.0", input=inputs(96 * 50))
    firsts = [texts_of(call)[0] for call in fake.take()]
    refused, again = (at for at, first in enumerate(firsts) if first == "text 0")
    # Those under way, and those that wake with it.
    assert again - refused < 2 * CALLS_AT_ONCE


async def test_the_other_calls_are_made_with_another_key_where_one_is_over_its_limit(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    """Nothing is asked for twice but what was refused, and nothing waits."""
    served: list[str] = []

    def answer(call: Received) -> Said:
        if len(fake.calls) > 3 and call.key == fake.calls[0].key:
            return Said(429, {"message": f"{call.key} is over"}, headers={"retry-after": "60"})
        served.append(texts_of(call)[0])
        return embedded(call)

    fake.script = answer
    wanted = inputs(512 * 20)[:10_000]
    answered = await sdk.embeddings.create(model="mistral/mistral-embed", input=wanted)
    assert [item.embedding for item in answered.data] == list(map(vector, wanted))
    assert {call.key for call in fake.take()} == {"key-number-one", "key-number-two"}
    assert len(served) == len(set(served)) == 20


async def test_what_cannot_be_embedded_fails_the_whole_with_the_providers_error(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    said = Said(400, {"message": "invalid request: texts[3] is too long"})
    fake.script = failing(lambda call: said if "text 500" in texts_of(call) else None)
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.embeddings.create(model="cohere/embed-v4.0", input=inputs(5000))
    assert raised.value.param == "input"
    assert "texts[3]" in raised.value.message
    # Those that waited for their turn are not begun.
    assert len(fake.take()) <= 6 + 2 * CALLS_AT_ONCE
    await stack.quiet()


async def test_a_client_that_leaves_closes_all_of_its_calls(stack: Stack) -> None:
    before = (await stack.sim_stats())["calls"]
    async with stack.client(timeout_s=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                "/v1/embeddings", json={"model": "sim/fault=hang", "input": inputs(8000)}
            )
    assert (await stack.sim_stats())["calls"] == before + 4
    await stack.quiet(timeout_s=10)


async def test_a_call_that_goes_on_failing_is_told_and_the_others_are_not_paid_for_again(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    said = Said(503, {"message": "busy"})
    fake.script = failing(lambda call: said if "text 0" in texts_of(call) else None)
    with pytest.raises(openai.InternalServerError) as raised:
        await sdk.embeddings.create(model="cohere/embed-v4.0", input=inputs(960))
    assert raised.value.status_code == 503
    assert sizes(fake.take()) == [96] * 12
    request_id = raised.value.response.headers["x-request-id"]
    [attempt] = await until(lambda: attempts(stack, request_id), "the attempt's record")
    assert attempt.usage.input_tokens == 2 * 9 * 96, "what was made is on the provider's bill"
    assert not await charges(stack, request_id)


async def test_models_that_embed_are_listed_as_such_and_found_by_their_plain_names(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    async with stack.client() as client:
        listed = (await client.get("/v1/models?operation=embed")).json()["data"]
    ids = {model["id"] for model in listed}
    assert {"cohere/embed-v4.0", "bedrock/amazon.titan-embed-text-v2:0"} <= ids
    assert {operation for model in listed for operation in model["operations"]} == {"embed"}
    asked = control_service_pb2.ListModelsRequest(operation="embed")
    async with rpc.connected(stack) as typed:
        models = (await typed.control.ListModels(asked, metadata=typed.metadata, timeout=10)).models
    assert {model.id for model in models} == ids
    assert {*models[0].operations} == {"embed"}
    answer = await sdk.embeddings.create(model="embed-v4.0", input=inputs(1))
    assert answer.data[0].embedding == vector("text 0")
    assert [call.provider for call in fake.take()] == ["cohere"]


async def test_typed_vectors_of_many_calls_are_folded_in_order(stack: Stack) -> None:
    embed = operations_pb2.EmbedRequest(
        model="gemini/gemini-embedding-001",
        texts=inputs(350),
        format=operations_pb2.VECTOR_FORMAT_FLOAT32,
    )
    async with rpc.connected(stack) as client:
        answer = (await client.infer(generation_pb2.Request(embed=embed))).answer
    some = sorted(answer.vectors, key=lambda one: one.first)
    values = [struct.unpack("<2f", value) for one in some for value in one.values]
    assert values == [(float(number), 0.5) for number in range(350)]
    assert answer.usage.input_tokens == 700


async def test_several_large_requests_at_a_time_all_come_back_whole(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    answers = await asyncio.gather(
        *(
            sdk.embeddings.create(model="huggingface/tei", input=inputs(300 + number))
            for number in range(8)
        )
    )
    for number, answer in enumerate(answers):
        assert [int(item.embedding[0]) for item in answer.data] == list(range(300 + number))
    assert {call.path for call in fake.take()} == {"/embeddings"}
