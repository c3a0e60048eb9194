"""Images through the whole system: HTTP, gRPC, the official library; several formats behind."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from broker.bus.usage import usage_groups
from broker.translate.multipart import Fields, FormReader, boundary_of
from broker.v1 import generation_pb2, operations_pb2
from tests.system import rpc
from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

# Provider -> where its API begins.
PROVIDERS = {
    "openai": "/v1",
    "xai": "/v1",
    "together_ai": "/v1",
    "azure": "/openai/v1",
    "openrouter": "/api/v1",
    "fireworks": "/inference/v1",
    "gemini": "",
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
JPEG = b"\xff\xd8\xff" + bytes(range(256))
TEXT = base64.b64encode(PNG).decode()
USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"text_tokens": 8, "image_tokens": 4},
    "output_tokens": 272,
    "total_tokens": 284,
}
FACTS = {
    "background": "opaque",
    "output_format": "png",
    "quality": "high",
    "size": "1024x1024",
}


def drawn(call: Received) -> Said:
    """An answer in the provider's own format."""
    headers = {"x-request-id": "up_1"}
    if call.provider == "gemini":
        inline = {"inlineData": {"mimeType": "image/png", "data": TEXT}}
        counts = {"promptTokenCount": 5, "candidatesTokenCount": 1290, "totalTokenCount": 1295}
        modality = [{"modality": "IMAGE", "tokenCount": 1290}]
        content = {"role": "model", "parts": [{"text": "Here."}, inline]}
        body: dict[str, Any] = {
            "candidates": [{"content": content, "finishReason": "STOP"}],
            "usageMetadata": {**counts, "candidatesTokensDetails": modality},
        }
        return Said(body=body, headers=headers)
    if call.provider == "fireworks":
        body = {"id": "i", "base64": [f"data:image/png;base64,{TEXT}"], "finishReason": "SUCCESS"}
        return Said(body=body, headers=headers)
    asked = asked_of(call)
    if asked.get("stream") in (True, "true"):
        name = "image_edit" if "edits" in call.path else "image_generation"
        return streamed(name, int(asked.get("partial_images", 0)))
    data = [{"b64_json": TEXT} for _ in range(int(asked.get("n", 1)))]
    body = {"data": data}
    if call.provider in ("openai", "azure"):
        body |= {"created": 1700000000, "usage": USAGE, **FACTS}
    return Said(body=body, headers=headers)


def streamed(name: str, partial: int) -> Said:
    events = [
        {"type": f"{name}.partial_image", "partial_image_index": index, "b64_json": TEXT, **FACTS}
        for index in range(partial)
    ]
    events.append({"type": f"{name}.completed", "b64_json": TEXT, "usage": USAGE, **FACTS})
    lines = [f"event: {e['type']}\ndata: {json.dumps({**e, 'created_at': 17})}\n\n" for e in events]
    return Said(body="".join(lines).encode(), headers={"content-type": "text/event-stream"})


def form_of(call: Received) -> Fields:
    boundary = boundary_of(call.headers["content-type"].encode())
    assert boundary is not None
    reader = FormReader(boundary)
    reader.feed(call.body)
    return reader.close()


def asked_of(call: Received) -> dict[str, Any]:
    if call.headers["content-type"] == "application/json":
        return dict(call.json)
    return {name: texts[0] for name, texts in form_of(call).texts.items()}


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(drawn) as made:
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
    # Of tokens; pictures take longer.
    limits = {"first_token_timeout_s": 0.5, "stall_timeout_s": 0.5}
    async with shared_stack(
        tmp_path_factory, providers=providers, serves=serves, limits=limits
    ) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = drawn


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30
    ) as client:
        yield client


def pictures(answer: Any) -> list[bytes]:
    return [base64.b64decode(one.b64_json) for one in answer.data]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_official_library_reads_every_providers_pictures(
    sdk: AsyncOpenAI, fake: FakeProvider, provider: str
) -> None:
    answer = await sdk.images.generate(
        model=f"{provider}/m", prompt="a fox", n=2, size="1024x1024", response_format="b64_json"
    )
    assert pictures(answer) == [PNG, PNG]
    assert answer.created > 0
    if provider in ("openai", "azure"):
        assert (answer.created, answer.quality) == (1700000000, "high")
        assert answer.usage is not None
        assert answer.usage.input_tokens_details.image_tokens == 4
    # Who draws one picture a call is called twice.
    assert len(fake.take()) == (2 if provider in ("fireworks", "gemini") else 1)


async def test_sim_draws_the_same_picture_for_the_same_words(sdk: AsyncOpenAI) -> None:
    one = await sdk.images.generate(model="sim/sim", prompt="a fox", n=2)
    two = await sdk.images.generate(model="sim/sim", prompt="a fox")
    assert pictures(one)[0] == pictures(two)[0] != pictures(one)[1]
    assert pictures(two)[0].startswith(b"\x89PNG")
    assert two.usage is not None
    assert two.usage.output_tokens == 272


@pytest.mark.parametrize("provider", ["openai", "azure", "sim"])
async def test_pictures_come_on_the_way(sdk: AsyncOpenAI, provider: str) -> None:
    stream = await sdk.images.generate(
        model=f"{provider}/m", prompt="a fox", stream=True, partial_images=2
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [getattr(event, "partial_image_index", None) for event in events] == [0, 1, None]
    last = events[-1]
    assert last.type == "image_generation.completed"
    assert last.usage.output_tokens == 272
    assert last.created_at
    assert base64.b64decode(last.b64_json).startswith(b"\x89PNG")


async def test_who_does_not_stream_is_read_as_a_stream_all_the_same(sdk: AsyncOpenAI) -> None:
    stream = await sdk.images.generate(
        model="gemini/m", prompt="a fox", stream=True, partial_images=2
    )
    [only] = [event async for event in stream]
    assert only.type == "image_generation.completed"
    assert base64.b64decode(only.b64_json) == PNG


@pytest.mark.parametrize("provider", ["openai", "azure"])
@pytest.mark.parametrize("streams", [False, True])
async def test_two_pictures_and_a_mask_arrive_as_they_were_sent(
    sdk: AsyncOpenAI, fake: FakeProvider, provider: str, streams: bool
) -> None:
    image = [("a.png", PNG, "image/png"), ("b.jpg", JPEG, "image/jpeg")]
    asked: dict[str, Any] = {"model": f"{provider}/m", "prompt": "blue", "mask": PNG * 2}
    if streams:
        stream = await sdk.images.edit(image=image, stream=True, partial_images=1, **asked)
        kinds = [event.type async for event in stream]
        assert kinds == ["image_edit.partial_image", "image_edit.completed"]
    else:
        answer = await sdk.images.edit(image=image, n=2, extra_body={"complexity": "low"}, **asked)
        assert pictures(answer) == [PNG, PNG]
    [call] = fake.take()
    assert call.path.endswith("/images/edits")
    form = form_of(call)
    assert [(file.name, bytes(file.data)) for file in form.files["image"]] == [
        ("a.png", PNG),
        ("b.jpg", JPEG),
    ]
    assert form.files["mask"][0].data == PNG * 2
    assert form.texts["prompt"] == ["blue"]
    if not streams:
        assert (form.texts["n"], form.texts["complexity"]) == (["2"], ["low"])


async def test_an_edit_goes_to_others_in_their_own_form(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    for provider in ("xai", "together_ai", "openrouter", "gemini", "sim"):
        answer = await sdk.images.edit(model=f"{provider}/m", prompt="blue", image=PNG)
        assert pictures(answer)[0].startswith(b"\x89PNG")
        for call in fake.take():
            assert TEXT in call.body.decode()
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.images.edit(model="xai/m", prompt="blue", image=PNG, mask=PNG)
    assert raised.value.param == "mask"
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.images.edit(model="fireworks/m", prompt="blue", image=PNG)
    assert raised.value.code == "unsupported_operation"


async def test_a_line_of_a_batch_edits_pictures_as_the_same_request_over_http_does(
    sdk: AsyncOpenAI, stack: Stack, fake: FakeProvider
) -> None:
    url = f"data:image/png;base64,{TEXT}"
    bodies: dict[str, dict[str, Any]] = {
        provider: {"model": f"{provider}/m", "prompt": "blue", "images": [{"image_url": url}] * 2}
        for provider in ("openai", "xai", "openrouter", "gemini")
    }
    bodies["openai"] |= {"mask": {"image_url": url}, "quality": "high"}
    edits: Any = "/v1/images/edits"
    async with stack.client() as client:
        for body in bodies.values():
            assert (await client.post(edits, json=body)).status_code == 200
    over_http = {call.provider: sent(call) for call in fake.take()}
    lines = [
        {"custom_id": provider, "method": "POST", "url": edits, "body": body}
        for provider, body in bodies.items()
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = await sdk.files.create(file=("in.jsonl", data), purpose="batch")
    made = await sdk.batches.create(
        input_file_id=file.id,
        endpoint=edits,
        completion_window="24h",
        extra_body={"mixed_models": True},
    )

    async def ended() -> str | None:
        batch = await sdk.batches.retrieve(made.id)
        return batch.output_file_id if batch.status == "completed" else None

    output = (await sdk.files.content(await until(ended, "the batch is over", 60))).text
    rows = {row["custom_id"]: row["response"] for row in map(json.loads, output.splitlines())}
    assert rows.keys() == bodies.keys()
    for row in rows.values():
        assert (row["status_code"], row["body"]["data"][0]["b64_json"]) == (200, TEXT)
    assert {call.provider: sent(call) for call in fake.take()} == over_http


def sent(call: Received) -> tuple[str, Any, Any]:
    """Where a call went, its fields, and the files that it brought."""
    if call.headers["content-type"] == "application/json":
        return call.path, call.json, None
    form = form_of(call)
    files = {name: [bytes(file.data) for file in some] for name, some in form.files.items()}
    return call.path, form.texts, files


async def test_a_variation_is_openais_alone(stack: Stack, fake: FakeProvider) -> None:
    async with stack.client() as client:
        for provider, status in (("openai", 200), ("xai", 400)):
            answer = await client.post(
                "/v1/images/variations",
                data={"model": f"{provider}/dall-e-2", "n": "1"},
                files=[("image", ("a.png", PNG))],
            )
            assert answer.status_code == status
    [call] = fake.take()
    assert call.path.endswith("/images/variations")
    assert form_of(call).files["image"][0].data == PNG


@pytest.mark.parametrize("path", ["generations", "edits", "variations"])
async def test_a_mistake_is_refused_before_anybody_is_asked(
    stack: Stack, fake: FakeProvider, path: str
) -> None:
    body = {"model": "openai/m", "prompt": "p", "image": f"data:image/png;base64,{TEXT}", "n": 0}
    async with stack.client() as client:
        answer = await client.post(f"/v1/images/{path}", json=body)
        form = await client.post(
            f"/v1/images/{path}",
            data={"model": "openai/m", "prompt": "p", "n": "0"},
            files=[("image", ("a.png", PNG))],
        )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    if path == "generations":
        assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_media_type")
    else:
        assert (form.status_code, form.json()["error"]["param"]) == (400, "n")
    assert not fake.take()


async def test_a_provider_without_pictures_says_so(sdk: AsyncOpenAI, fake: FakeProvider) -> None:
    fake.script = lambda _: Said(
        400, {"error": {"message": "no", "code": "moderation_blocked", "type": "user_error"}}
    )
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.images.generate(model="openai/m", prompt="a fox")
    assert raised.value.code == "moderation_blocked"


async def test_a_stream_that_breaks_ends_in_an_error(sdk: AsyncOpenAI) -> None:
    stream = await sdk.images.generate(
        model="sim/fault=cut,after=1,delay_ms=1", prompt="a fox", stream=True, partial_images=2
    )
    first = await anext(aiter(stream))
    assert first.type == "image_generation.partial_image"
    with pytest.raises(openai.APIError, match="cut off"):
        await anext(aiter(stream))


async def test_a_picture_may_take_longer_than_a_token(sdk: AsyncOpenAI) -> None:
    stream = await sdk.images.generate(
        model="sim/ttft_ms=800,delay_ms=800", prompt="a fox", stream=True, partial_images=1
    )
    kinds = [event.type async for event in stream]
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]


async def test_a_client_that_leaves_closes_the_upstream_call(stack: Stack) -> None:
    async with stack.client(timeout_s=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            body = {"model": "sim/fault=hang", "prompt": "a"}
            await client.post("/v1/images/generations", json=body)
    await stack.quiet(timeout_s=5)


async def test_20_mb_arrive_and_more_than_the_limit_is_refused(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    large = PNG + bytes(20 << 20)
    answer = await sdk.images.edit(model="openai/m", prompt="blue", image=large)
    assert pictures(answer) == [PNG]
    [call] = fake.take()
    assert form_of(call).files["image"][0].data == large
    with pytest.raises(openai.APIStatusError) as raised:
        await sdk.images.edit(model="openai/m", prompt="blue", image=[large, large])
    assert raised.value.status_code == 413
    assert not fake.take()


async def test_large_pictures_come_back_whole(sdk: AsyncOpenAI) -> None:
    answer = await sdk.images.generate(model="sim/bytes=3000000", prompt="a fox", n=3)
    assert [len(one) > 3_000_000 for one in pictures(answer)] == [True] * 3
    stream = await sdk.images.generate(
        model="sim/bytes=3000000", prompt="a fox", stream=True, partial_images=2
    )
    assert [len(event.b64_json) > 4_000_000 async for event in stream] == [True] * 3


async def test_the_charge_is_what_the_provider_counted(stack: Stack) -> None:
    async with stack.client() as client:
        answer = await client.post(
            "/v1/images/generations", json={"model": "openai/m", "prompt": "p", "n": 2}
        )
    wanted = answer.headers["x-request-id"]

    async def charges() -> list[Any]:
        groups = [group async for group in usage_groups(stack.bus)]
        return [c for group in groups for c in group.charges if c.request_id == wanted]

    [charge] = await until(charges, "the charge")
    usage = charge.usage
    assert (usage.input_tokens, usage.input_image_tokens) == (8, 4)
    assert (usage.output_image_tokens, usage.images) == (272, 2)


# --- gRPC ---


def image(model: str, **fields: Any) -> generation_pb2.Request:
    asked = operations_pb2.ImageRequest(model=model, prompt="a fox", **fields)
    return generation_pb2.Request(image=asked)


@pytest.mark.parametrize("provider", ["openai", "gemini", "sim"])
async def test_typed_pictures_are_bytes(stack: Stack, provider: str) -> None:
    given = [operations_pb2.Attachment(data=PNG)]
    async with rpc.connected(stack) as client:
        answer = (await client.infer(image(f"{provider}/m", n=2))).answer
        edited = (await client.infer(image(f"{provider}/m", images=given))).answer
        events = await client.events(image(f"{provider}/m", partial_images=1))
    assert len(answer.images) == 2
    assert not answer.choices
    assert answer.usage.output_image_tokens
    for found in (*answer.images, *edited.images):
        assert found.image.data.startswith(b"\x89PNG")
        assert found.image.media_type == "image/png"
    assert answer.id.startswith("image-")
    kinds = [event.WhichOneof("kind") for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "completed")
    partial = [event.image.partial for event in events if event.HasField("image")]
    assert partial == ([False] if provider == "gemini" else [True, False])


async def test_typed_mistakes_are_refused(stack: Stack) -> None:
    async with rpc.connected(stack) as client:
        failed = await rpc.failure(client.infer(image("sim/sim", n=11)))
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", ["n"])
