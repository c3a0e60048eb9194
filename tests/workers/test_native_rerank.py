"""Reranking in the formats of Bedrock, Google Cloud and Text Embeddings Inference."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.operations import RERANK
from broker.settings import ProviderSettings
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers import registry
from workers.provider import Call, Provider


def loaded(kind: str, **settings: Any) -> Provider:
    """The provider as an operator has it."""
    return registry.load(ProviderSettings(kind, kind, **settings))


TEI = "https://mine.example/v1"
PROVIDERS = {
    "bedrock": loaded("bedrock", options={"region": "eu-west-1"}),
    "vertex_ai": loaded("vertex_ai", options={"project": "p1"}),
    "huggingface": loaded("huggingface", base_url=TEI),
}
MODELS = {
    "bedrock": "cohere.rerank-v3-5:0",
    "vertex_ai": "semantic-ranker-default-004",
    "huggingface": "tei",
}


def request(**fields: Any) -> generation_pb2.Request:
    documents = [
        operations_pb2.RerankDocument(text="one"),
        operations_pb2.RerankDocument(json=b'{"title": "two", "year": 2, "x": null}'),
    ]
    rerank = operations_pb2.RerankRequest(query="q", documents=documents, **fields)
    return generation_pb2.Request(rerank=rerank)


def call(at: Provider, asked: generation_pb2.Request, model: str = "") -> Call:
    model = model or MODELS[at.name]
    return at.dialect_for(model, RERANK).call(asked, model, at)


def places(name: str, asked: generation_pb2.Request, body: Any) -> list[event_pb2.Event]:
    decoder = PROVIDERS[name].dialect_for("m", RERANK).decoder(asked, {})
    return [*decoder.feed(json.dumps(body).encode()), *decoder.close()]


_TEXTS = ["one", "title: two\nyear: 2\nx: null"]


def test_coheres_models_on_bedrock_are_asked_in_coheres_format() -> None:
    made = call(PROVIDERS["bedrock"], request(top_n=5, max_tokens_per_doc=10))
    assert made.path == "/model/cohere.rerank-v3-5%3A0/invoke"
    assert json.loads(made.body) == {
        "query": "q",
        "documents": _TEXTS,
        "api_version": 2,
        "top_n": 2,
        "max_tokens_per_doc": 10,
    }


def test_amazons_model_on_bedrock_knows_no_limits() -> None:
    made = call(PROVIDERS["bedrock"], request(max_tokens_per_doc=10), "amazon.rerank-v1:0")
    assert made.path == "/model/amazon.rerank-v1%3A0/invoke"
    assert json.loads(made.body) == {"query": "q", "documents": _TEXTS}
    assert made.dropped == ("max_tokens_per_doc",)


def test_google_cloud_ranks_at_another_host() -> None:
    made = call(PROVIDERS["vertex_ai"], request(top_n=1, rank_fields=["title"]))
    assert made.base_url == "https://discoveryengine.googleapis.com"
    config = "/v1/projects/p1/locations/global/rankingConfigs/default_ranking_config:rank"
    assert made.path == config
    assert json.loads(made.body) == {
        "model": "semantic-ranker-default-004",
        "query": "q",
        "records": [{"id": "0", "content": "one"}, {"id": "1", "content": "title: two"}],
        "topN": 1,
        "ignoreRecordDetailsInResponse": True,
    }


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("eu", "https://discoveryengine.googleapis.com"),
        ("us-central1", "https://discoveryengine.googleapis.com"),
    ],
)
def test_every_host_of_vertex_ai_is_known(location: str, host: str) -> None:
    options = {"project": "p1", "location": location}
    at = loaded("vertex_ai", options=options)
    assert call(at, request()).base_url == host


def test_a_host_of_the_operators_stands_before_ranking_too() -> None:
    at = loaded("vertex_ai", base_url="https://proxy.example", options={"project": "p1"})
    assert call(at, request()).base_url == ""


def test_ranking_without_a_project_says_what_to_set() -> None:
    with pytest.raises(InferenceError, match="VERTEX_AI_PROJECT"):
        call(loaded("vertex_ai"), request())


def test_an_endpoint_of_text_embeddings_inference_ranks_texts() -> None:
    asked = request()
    asked.rerank.extra["raw_scores"] = b"true"
    made = call(PROVIDERS["huggingface"], asked)
    assert (made.base_url, made.path) == ("https://mine.example", "/rerank")
    assert json.loads(made.body) == {"query": "q", "texts": _TEXTS, "raw_scores": True}


def test_hugging_faces_router_has_no_reranking() -> None:
    with pytest.raises(InferenceError) as raised:
        loaded("huggingface").dialect_for("m", RERANK)
    assert raised.value.reason == "unsupported_operation"


ANSWERS: list[tuple[str, Any, float]] = [
    (
        "bedrock",
        {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]},
        1,
    ),
    ("vertex_ai", {"records": [{"id": "1", "score": 0.9}, {"id": "0", "score": 0.1}]}, 1),
    ("huggingface", [{"index": 0, "score": 0.1}, {"index": 1, "score": 0.9}], 0),
]


@pytest.mark.parametrize(("name", "body", "units"), ANSWERS)
def test_the_best_document_comes_first(name: str, body: Any, units: float) -> None:
    events = places(name, request(), body)
    ranked = [event.ranked for event in events if event.HasField("ranked")]
    assert [(place.index, place.relevance_score) for place in ranked] == [(1, 0.9), (0, 0.1)]
    assert events[-1].completed.usage.search_units == units


def test_what_the_provider_cannot_cut_short_is_cut_here() -> None:
    events = places("huggingface", request(top_n=1), ANSWERS[2][1])
    assert [event.ranked.index for event in events if event.HasField("ranked")] == [1]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("bedrock", {"message": "no"}),
        ("bedrock", {"results": [{"index": 2, "relevance_score": 1}]}),
        ("vertex_ai", {"error": {"code": 400, "message": "no"}}),
        ("vertex_ai", {"records": [{"id": "x", "score": 1}]}),
        ("huggingface", {"error": "no", "error_type": "backend"}),
        ("huggingface", [{"index": 2, "score": 1}]),
    ],
)
def test_a_ranking_that_makes_no_sense_is_an_error(name: str, body: Any) -> None:
    with pytest.raises(InferenceError):
        places(name, request(), body)


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_answer_of_any_form_is_read_or_an_error_of_the_providers(name: str) -> None:
    odd: list[Any] = [[], {}, "x", 1, None, [1], {"a": []}, [None], [{}]]
    for value in odd:
        for body in (value, {"results": value, "records": value}):
            with contextlib.suppress(InferenceError):
                places(name, request(), body)


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_a_provider_has_not_is_left_out_and_told(name: str) -> None:
    asked = request(max_chunks_per_doc=3)
    asked.rerank.extra["a_field_of_others"] = b"1"
    made = call(PROVIDERS[name], asked)
    assert made.dropped == ("max_chunks_per_doc", "a_field_of_others")
    assert b"others" not in made.body
