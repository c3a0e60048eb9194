"""Moderations and rankings through the whole system, with several formats behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
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
    "cohere": "",
    "together_ai": "/v1",
    "openrouter": "/v1",
    "vllm": "/v1",
    "fireworks": "/inference/v1",
    "bedrock": "",
    "vertex_ai": "",
    "huggingface": "/v1",
    "anthropic": "",
}
# Those that rank in a format of their own.
NATIVE = {
    "bedrock": "cohere.rerank-v3-5:0",
    "vertex_ai": "semantic-ranker-default-004",
    "huggingface": "tei",
}
PARTS = [
    {"type": "text", "text": "harm?"},
    {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}},
]


def openai_moderation(call: Received) -> Said:
    given = call.json["input"]
    count = len(given) if isinstance(given, list) and isinstance(given[0], str) else 1
    result = {
        "flagged": True,
        "categories": {"violence": True, "self-harm/intent": False, "illicit": None},
        "category_scores": {"violence": 0.98, "self-harm/intent": 1e-05},
        "category_applied_input_types": {"violence": ["text", "image"], "self-harm/intent": []},
        "new_key": {"a": 1},
    }
    body = {"id": "modr-up", "model": "omni-moderation-2024-09-26", "results": [result] * count}
    return Said(body=body)


def mistral_moderation(call: Received) -> Said:
    given = call.json["input"]
    texts = [given] if isinstance(given, str) else given
    results = [
        {
            "categories": {"violence_and_threats": "harm" in text, "pii": False},
            "category_scores": {"violence_and_threats": 0.7, "pii": 0.1},
        }
        for text in texts
    ]
    return Said(body={"id": "x", "model": "mistral-moderation-2411", "results": results})


RANKING = [{"index": 2, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.25}]


def ranked(call: Received) -> Said:
    """Each provider's way of saying the same."""
    results: list[dict[str, Any]] = [dict(place) for place in RANKING]
    if call.provider == "cohere":
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        return Said(body={"id": "r", "results": results, "meta": meta})
    if call.provider == "bedrock":
        return Said(body={"results": results})
    if call.provider == "vertex_ai":
        records = [{"id": str(one["index"]), "score": one["relevance_score"]} for one in results]
        return Said(body={"records": records})
    if call.provider == "huggingface":
        scores = [{"index": one["index"], "score": one["relevance_score"]} for one in results]
        return Said(body=json.dumps([*scores, {"index": 1, "score": 0.1}]).encode())
    for place in results:
        place["document"] = {"text": "as the provider has it"}
    if call.provider == "fireworks":
        return Said(body={"object": "list", "data": results, "usage": {"total_tokens": 30}})
    body = {"id": "r", "model": "m-1", "results": results, "usage": {"total_tokens": 30}}
    return Said(body=body)


def answer(call: Received) -> Said:
    if "moderations" not in call.path:
        return ranked(call)
    return (mistral_moderation if call.provider == "mistral" else openai_moderation)(call)


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(answer) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers: dict[str, Any] = {
        name: {"base_url": fake.url(name) + path, "api_key": "k"}
        for name, path in PROVIDERS.items()
    }
    providers["vertex_ai"]["options"] = {"project": "p1"}
    serves = ("sim", *PROVIDERS)
    async with shared_stack(tmp_path_factory, providers=providers, serves=serves) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = answer


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30
    ) as client:
        yield client


async def post(stack: Stack, path: str, body: dict[str, Any]) -> httpx.Response:
    async with stack.client() as client:
        return await client.post(path, json=body)


# --- moderations ---


@pytest.mark.parametrize("model", [{}, {"model": "openai/omni-moderation-latest"}])
async def test_every_key_of_a_judgement_arrives(
    sdk: AsyncOpenAI, fake: FakeProvider, model: Any
) -> None:
    told = await sdk.moderations.create(input="harm?", **model)
    assert told.id.startswith("modr-")
    assert told.id != "modr-up"
    assert told.model == "omni-moderation-2024-09-26"
    [result] = told.results
    assert result.flagged
    assert result.categories.violence
    assert result.category_scores.self_harm_intent == 1e-05
    assert result.category_applied_input_types.violence == ["text", "image"]
    assert (result.model_extra or {})["new_key"] == {"a": 1}
    [call] = fake.take()
    assert call.json == {"model": "omni-moderation-latest", "input": "harm?"}


async def test_parts_are_judged_as_one_thing(sdk: AsyncOpenAI, fake: FakeProvider) -> None:
    told = await sdk.moderations.create(model="openai/m", input=PARTS)  # type: ignore[arg-type]
    assert len(told.results) == 1
    assert fake.take()[0].json["input"] == PARTS


async def test_parts_of_text_alone_are_one_text_where_there_are_no_parts(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    parts = [{"type": "text", "text": text} for text in ("harm?", "no")]
    told = await sdk.moderations.create(model="mistral/m", input=parts)  # type: ignore[arg-type]
    assert len(told.results) == 1
    assert fake.take()[0].json["input"] == "harm?\nno"


async def test_a_provider_with_categories_of_its_own_keeps_them(sdk: AsyncOpenAI) -> None:
    told = await sdk.moderations.create(model="mistral/m", input=["harm?", "hello"])
    assert [result.flagged for result in told.results] == [True, False]
    assert told.results[0].categories.model_dump()["violence_and_threats"] is True
    assert told.results[0].category_scores.model_dump()["pii"] == 0.1


async def test_sim_judges_by_the_words(sdk: AsyncOpenAI) -> None:
    told = await sdk.moderations.create(model="sim/sim", input=["violence", "peace"])
    assert [result.flagged for result in told.results] == [True, False]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "empty_array"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": ["a", 1]}, "input[1]", "invalid_type"),
        ({"input": [{"type": "text"}]}, "input[0].text", "missing_required_parameter"),
        ({"input": [{"type": "image_url"}]}, "input[0].image_url", "missing_required_parameter"),
        ({"input": [{"type": "sound"}]}, "input[0].type", "invalid_value"),
        ({"input": [{"text": "a"}]}, "input[0].type", "missing_required_parameter"),
        ({"input": "a", "model": "anthropic/m"}, "model", "unsupported_operation"),
        ({"input": PARTS, "model": "mistral/m"}, "input[1]", "unsupported_parameter"),
    ],
)
async def test_what_cannot_be_judged_is_refused(
    stack: Stack, fake: FakeProvider, body: Any, param: str, code: str
) -> None:
    reply = await post(stack, "/v1/moderations", {"model": "openai/m", **body})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)
    assert not fake.take()


# --- rankings ---

DOCUMENTS: list[Any] = ["one", "two", {"title": "three", "year": 3}]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("provider", ["cohere", "together_ai", "openrouter", "fireworks", "vllm"])
async def test_a_ranking_has_coheres_shape_whoever_made_it(
    stack: Stack, fake: FakeProvider, provider: str, path: str
) -> None:
    body = {"model": f"{provider}/m", "query": "q", "documents": DOCUMENTS, "top_n": 2}
    told = (await post(stack, path, body)).json()
    assert told.pop("id").startswith("rerank-")
    units = {"billed_units": {"search_units": 1}}
    used = units if provider == "cohere" else {"tokens": {"input_tokens": 30}}
    assert told == {"results": RANKING, "meta": {"api_version": {"version": "2"}, **used}}
    [call] = fake.take()
    third = DOCUMENTS[2] if provider == "together_ai" else "title: three\nyear: 3"
    assert call.json == {"model": "m", "query": "q", "documents": ["one", "two", third], "top_n": 2}
    paths = {"cohere": "/v2/rerank", "fireworks": "/inference/v1/rerank"}
    assert call.path == paths.get(provider, "/v1/rerank")


@pytest.mark.parametrize("provider", NATIVE)
async def test_a_ranking_in_a_format_of_its_own_has_the_same_shape(
    stack: Stack, fake: FakeProvider, provider: str
) -> None:
    model = f"{provider}/{NATIVE[provider]}"
    body = {"model": model, "query": "q", "documents": DOCUMENTS, "top_n": 2}
    told = (await post(stack, "/v1/rerank", body | {"return_documents": True})).json()
    shown = [{**place, "document": None} for place in RANKING]
    assert [{**place, "document": None} for place in told["results"]] == shown
    assert [place["document"] for place in told["results"]] == [DOCUMENTS[2], {"text": "one"}]
    [call] = fake.take()
    assert b"title: three\\nyear: 3" in call.body


@pytest.mark.parametrize("provider", ["cohere", "vllm"])
async def test_documents_come_back_as_the_caller_gave_them(stack: Stack, provider: str) -> None:
    body = {"model": f"{provider}/m", "query": "q", "documents": DOCUMENTS}
    told = (await post(stack, "/v1/rerank", body | {"return_documents": True})).json()
    assert [place["document"] for place in told["results"]] == [DOCUMENTS[2], {"text": "one"}]


async def test_only_some_fields_are_looked_at(stack: Stack, fake: FakeProvider) -> None:
    body = {"query": "q", "documents": [DOCUMENTS[2]] * 3, "rank_fields": ["title"]}
    await post(stack, "/v1/rerank", body | {"model": "cohere/m"})
    await post(stack, "/v1/rerank", body | {"model": "together_ai/m"})
    emulated, native = fake.take()
    assert emulated.json["documents"] == ["title: three"] * 3
    assert native.json["documents"] == [DOCUMENTS[2]] * 3
    assert native.json["rank_fields"] == ["title"]


async def test_what_a_reranker_has_not_is_left_out_and_told(
    stack: Stack, fake: FakeProvider
) -> None:
    body = {"model": "cohere/m", "query": "q", "documents": DOCUMENTS}
    limits = {"max_tokens_per_doc": 100, "max_chunks_per_doc": 3}
    reply = await post(stack, "/v1/rerank", body | limits)
    assert reply.headers["x-dropped-params"] == "max_chunks_per_doc"
    assert fake.take()[0].json["max_tokens_per_doc"] == 100
    refused = await post(stack, "/v1/rerank", body | limits | {"drop_params": False})
    assert refused.json()["error"]["param"] == "max_chunks_per_doc"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"query": None}, "query", "missing_required_parameter"),
        ({"query": ""}, "query", "empty_string"),
        ({"documents": None}, "documents", "missing_required_parameter"),
        ({"documents": []}, "documents", "empty_array"),
        ({"documents": "x"}, "documents", "invalid_type"),
        ({"documents": ["a", 1]}, "documents[1]", "invalid_type"),
        ({"top_n": 0}, "top_n", "integer_below_min_value"),
        ({"return_documents": 1}, "return_documents", "invalid_type"),
        ({"model": "anthropic/m"}, "model", "unsupported_operation"),
    ],
)
async def test_what_cannot_be_ranked_is_refused(
    stack: Stack, fake: FakeProvider, fields: Any, param: str, code: str
) -> None:
    body = {"model": "cohere/m", "query": "q", "documents": ["a"], **fields}
    reply = await post(stack, "/v1/rerank", body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)
    assert not fake.take()


@pytest.mark.parametrize("results", [[{"index": 9, "relevance_score": 1}], [{"index": 0}], None])
async def test_a_ranking_that_makes_no_sense_is_not_passed_on(
    stack: Stack, fake: FakeProvider, results: Any
) -> None:
    fake.script = lambda _: Said(body={"results": results})
    body = {"model": "cohere/m", "query": "q", "documents": ["a"]}
    reply = await post(stack, "/v1/rerank", body)
    assert reply.status_code == 502


async def test_searches_are_charged(stack: Stack) -> None:
    body = {"model": "cohere/m", "query": "q", "documents": DOCUMENTS}
    wanted = (await post(stack, "/v1/rerank", body)).headers["x-request-id"]

    async def charges() -> list[Any]:
        groups = [group async for group in usage_groups(stack.bus)]
        return [c for group in groups for c in group.charges if c.request_id == wanted]

    [charge] = await until(charges, "the charge")
    assert charge.usage.search_units == 1


# --- gRPC ---


async def test_typed_judgements_and_rankings(stack: Stack) -> None:
    inputs = [operations_pb2.ModerationInput(text="harm?"), operations_pb2.ModerationInput(text="")]
    moderate = operations_pb2.ModerateRequest(model="openai/m", inputs=inputs)
    documents = [operations_pb2.RerankDocument(text=text) for text in ("one", "two words", "two")]
    rerank = operations_pb2.RerankRequest(model="sim/sim", query="two words", documents=documents)
    async with rpc.connected(stack) as client:
        judged = (await client.infer(generation_pb2.Request(moderate=moderate))).answer
        places = (await client.infer(generation_pb2.Request(rerank=rerank))).answer
        events = await client.events(generation_pb2.Request(rerank=rerank))
    assert [one.index for one in judged.moderations] == [0, 1]
    assert judged.moderations[0].categories["violence"]
    assert list(judged.moderations[0].applied["violence"].types) == ["text", "image"]
    assert [place.index for place in places.ranked] == [1, 2, 0]
    assert places.usage.search_units == 1
    assert [event.ranked.index for event in events if event.HasField("ranked")] == [1, 2, 0]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (generation_pb2.Request(moderate=operations_pb2.ModerateRequest(model="sim/sim")), "input"),
        (
            generation_pb2.Request(
                rerank=operations_pb2.RerankRequest(
                    model="sim/sim", documents=[operations_pb2.RerankDocument(text="a")]
                )
            ),
            "query",
        ),
        (
            generation_pb2.Request(
                rerank=operations_pb2.RerankRequest(
                    model="sim/sim",
                    query="q",
                    documents=[operations_pb2.RerankDocument(json=b"[1]")],
                )
            ),
            "documents[0]",
        ),
    ],
)
async def test_typed_mistakes_are_refused(
    stack: Stack, request_: generation_pb2.Request, param: str
) -> None:
    async with rpc.connected(stack) as client:
        failed = await rpc.failure(client.infer(request_))
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", [param])
