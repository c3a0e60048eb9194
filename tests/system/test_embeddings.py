"""Embeddings through the whole system: HTTP, gRPC, the official library; several formats behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from broker.bus.usage import usage_groups
from broker.v1 import generation_pb2, operations_pb2
from tests.system import rpc
from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

# Provider -> where its API begins.
PROVIDERS = {
    "openai": "/v1",
    "mistral": "/v1",
    "together_ai": "/v1",
    "perplexity": "",
    "azure": "/openai/v1",
    "vllm": "/v1",
}


def vector(text: Any) -> list[float]:
    """A vector that tells its input."""
    return [float(len(text)), 0.5, -2.0]


def packed(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def embedded(call: Received) -> Said:
    """An answer in OpenAI's format, with the habits of each provider."""
    asked = call.json
    given = asked["input"]
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    word = asked.get("encoding_format", "float")
    data: list[dict[str, Any]] = []
    for index, text in enumerate(inputs):
        value: Any = vector(text)
        if word == "base64":
            value = packed(value)
        elif word == "base64_int8":
            value = base64.b64encode(struct.pack("<3b", len(text), 1, -2)).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    usage = {"prompt_tokens": 4 * len(inputs), "total_tokens": 4 * len(inputs)}
    body: dict[str, Any] = {"object": "list", "data": data, "model": f"{asked['model']}-001"}
    if call.provider != "together_ai":
        body["usage"] = usage
    return Said(body=body, headers={"x-request-id": "up_1"})


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(embedded) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers = {
        name: {"base_url": fake.url(name) + path, "api_key": "k"}
        for name, path in PROVIDERS.items()
    }
    serves = ("sim", *PROVIDERS)
    limits = {"slow_reader_s": 2}
    async with shared_stack(
        tmp_path_factory, providers=providers, serves=serves, limits=limits
    ) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = embedded


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30
    ) as client:
        yield client


async def post(stack: Stack, body: dict[str, Any]) -> httpx.Response:
    async with stack.client() as client:
        return await client.post("/v1/embeddings", json=body)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])
async def test_the_official_library_reads_every_providers_vectors(
    sdk: AsyncOpenAI, provider: str, encoding: Any
) -> None:
    """Without a word about the format it asks for base64."""
    answer = await sdk.embeddings.create(
        model=f"{provider}/m", input=["a", "longer text"], **encoding
    )
    assert answer.object == "list"
    assert [item.index for item in answer.data] == [0, 1]
    tail = [1.0, -2.0] if provider == "perplexity" else [0.5, -2.0]
    assert [item.embedding for item in answer.data] == [[1.0, *tail], [11.0, *tail]]
    assert answer.model == "m-001"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens
    estimated = (answer.usage.model_extra or {}).get("estimated")
    assert estimated is (True if provider == "together_ai" else None)


async def test_sim_has_vectors_of_its_own_for_every_text(sdk: AsyncOpenAI) -> None:
    one = await sdk.embeddings.create(model="sim/sim", input=["a", "b", "a"], dimensions=16)
    vectors = [item.embedding for item in one.data]
    assert vectors[0] == vectors[2] != vectors[1]
    assert {len(vector) for vector in vectors} == {16}
    numbers = await sdk.embeddings.create(
        model="sim/sim", input="a", dimensions=16, encoding_format="float"
    )
    assert numbers.data[0].embedding == pytest.approx(vectors[0])


@pytest.mark.parametrize(
    ("provider", "fields", "sent"),
    [
        ("openai", {}, {"encoding_format": "float"}),
        ("openai", {"encoding_format": "base64"}, {"encoding_format": "base64"}),
        ("openai", {"dimensions": 8, "user": "u"}, {"dimensions": 8, "user": "u"}),
        ("openai", {"input": [1, 2]}, {"input": [1, 2]}),
        ("openai", {"input": [[1, 2], [3]]}, {"input": [[1, 2], [3]]}),
        ("openai", {"new_field": {"x": 1}}, {"new_field": {"x": 1}}),
        ("mistral", {"dimensions": 8}, {"output_dimension": 8}),
        ("perplexity", {}, {"encoding_format": "base64_int8"}),
    ],
)
async def test_a_field_goes_out_as_the_provider_knows_it(
    stack: Stack, fake: FakeProvider, provider: str, fields: Any, sent: Any
) -> None:
    answer = await post(stack, {"model": f"{provider}/m", "input": "hi", **fields})
    assert answer.status_code == 200, answer.text
    [call] = fake.take()
    assert call.json | sent == call.json
    known = {"model", "input", "encoding_format", *sent}
    assert set(call.json) <= known


async def test_what_a_provider_has_not_is_left_out_and_told(
    stack: Stack, fake: FakeProvider
) -> None:
    body = {"model": "together_ai/m", "input": ["hi"], "user": "u", "encoding_format": "base64"}
    answer = await post(stack, body)
    assert answer.headers["x-dropped-params"] == "user"
    assert answer.headers["x-millrace-provider"] == "together_ai"
    assert answer.headers["x-millrace-model"] == "m-001"
    [call] = fake.take()
    assert call.json == {"model": "m", "input": "hi"}
    refused = await post(stack, body | {"drop_params": False})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "user")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "together_ai/m", "dimensions": 8}, "dimensions", "unsupported_parameter"),
        ({"model": "mistral/m", "input": [1, 2]}, "input", "unsupported_parameter"),
        ({"model": "sim/sim", "input": []}, "input", "empty_array"),
        ({"model": "sim/sim", "input": ["a", ""]}, "input[1]", "empty_string"),
        ({"model": "sim/sim", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_field(
    stack: Stack, fake: FakeProvider, body: dict[str, Any], param: str, code: str
) -> None:
    answer = await post(stack, {"input": "hi", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert not fake.take()


async def test_an_upstream_error_keeps_its_status(sdk: AsyncOpenAI, fake: FakeProvider) -> None:
    said = {"message": "no such model", "type": "invalid_request_error", "code": "model_not_found"}
    fake.script = lambda _: Said(404, {"error": said})
    with pytest.raises(openai.NotFoundError):
        await sdk.embeddings.create(model="openai/none", input="hi")


async def test_a_short_answer_is_never_passed_on(stack: Stack, fake: FakeProvider) -> None:
    def short(call: Received) -> Said:
        said = embedded(call)
        assert not isinstance(said.body, bytes)
        return Said(body={**said.body, "data": said.body["data"][:1]})

    fake.script = short
    answer = await post(stack, {"model": "openai/m", "input": ["a", "b"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert len(fake.take()) > 1, "it is tried again"


async def test_2048_large_vectors_come_in_order(stack: Stack, fake: FakeProvider) -> None:
    """70 MB of numbers: more than a message, a frame or the limit of other answers may be."""
    rest = b",".join([b"0.0123456789012345"] * 1800)

    def large(call: Received) -> Said:
        items = [
            b'{"object": "embedding", "index": %d, "embedding": [%d,%b]}' % (index, index, rest)
            for index in range(len(call.json["input"]))
        ]
        return Said(body=b'{"object": "list", "data": [%b], "model": "m"}' % b", ".join(items))

    fake.script = large
    answer = await post(stack, {"model": "openai/m", "input": [f"text {n}" for n in range(2048)]})
    assert answer.status_code == 200, answer.text[:300]
    assert len(answer.content) > 64 << 20
    data = json.loads(answer.content)["data"]
    assert [(item["index"], item["embedding"][0]) for item in data] == [(n, n) for n in range(2048)]
    await stack.quiet()


async def test_a_client_that_leaves_closes_the_upstream_call(stack: Stack) -> None:
    async with stack.client(timeout_s=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/embeddings", json={"model": "sim/fault=hang", "input": "a"})
    await stack.quiet(timeout_s=3)


async def test_who_does_not_read_a_large_answer_is_dropped(stack: Stack) -> None:
    body = json.dumps({"model": "sim/sim", "input": [f"text {n}" for n in range(2048)]})
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.edges["edge"][0])
    writer.write((head + body).encode())
    log = stack.processes["edge"].log

    def dropped() -> bool:
        """Of a request whose answer had begun."""
        lines = log.read_text().splitlines()
        return any('"client_gone"' in line and '"status":200' in line for line in lines)

    await until(dropped, "the client is dropped")
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := await reader.read(1 << 20):
            received += piece
    writer.close()
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith(b"0\r\n\r\n"), "it looks whole"
    assert (await post(stack, {"model": "sim/sim", "input": "a"})).status_code == 200


async def test_the_charge_is_what_the_provider_counted(stack: Stack) -> None:
    answer = await post(stack, {"model": "openai/m", "input": ["a", "b", "c"]})
    wanted = answer.headers["x-request-id"]

    async def charges() -> list[Any]:
        groups = [group async for group in usage_groups(stack.bus)]
        return [c for group in groups for c in group.charges if c.request_id == wanted]

    [charge] = await until(charges, "the charge")
    assert charge.usage.input_tokens == 12
    assert charge.answered_model == "m-001"


# --- gRPC ---


def embed(model: str, *texts: str, **fields: Any) -> generation_pb2.Request:
    return generation_pb2.Request(
        embed=operations_pb2.EmbedRequest(model=model, texts=texts, **fields)
    )


@pytest.mark.parametrize("provider", ["openai", "together_ai", "perplexity"])
async def test_typed_vectors_are_float32_where_that_is_asked_for(
    stack: Stack, provider: str
) -> None:
    request = embed(f"{provider}/m", "a", "bcd", format=operations_pb2.VECTOR_FORMAT_FLOAT32)
    tail = [1.0, -2.0] if provider == "perplexity" else [0.5, -2.0]
    async with rpc.connected(stack) as client:
        answer = (await client.infer(request)).answer
        events = await client.events(request)
    assert answer.model == "m-001"
    assert answer.usage.input_tokens
    streamed = [event.vectors for event in events if event.HasField("vectors")]
    for vectors in (answer.vectors, streamed):
        values = [value for some in vectors for value in some.values]
        assert [list(struct.unpack("<3f", value)) for value in values] == [
            [1.0, *tail],
            [3.0, *tail],
        ]
    assert events[0].HasField("started")
    assert events[-1].HasField("completed")


async def test_typed_mistakes_are_refused(stack: Stack) -> None:
    async with rpc.connected(stack) as client:
        failed = await rpc.failure(client.infer(embed("sim/sim", "a", "")))
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", ["input[1]"])


async def test_many_requests_run_beside_each_other(stack: Stack) -> None:
    answers = await asyncio.gather(
        *(post(stack, {"model": "openai/m", "input": "x" * n}) for n in range(1, 33))
    )
    lengths = [answer.json()["data"][0]["embedding"][0] for answer in answers]
    assert lengths == [float(n) for n in range(1, 33)]
