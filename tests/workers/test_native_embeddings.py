"""Embeddings in the formats of Cohere, Google, Bedrock and Hugging Face, byte for byte."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.operations import EMBED
from broker.providers import REGISTRY
from broker.settings import ProviderSettings
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers import registry
from workers.provider import Call, Embeds, Provider


def loaded(kind: str, **settings: Any) -> Provider:
    """The provider as an operator has it."""
    return registry.load(ProviderSettings(kind, kind, **settings))


def provider(name: str) -> Provider:
    options = {"vertex_ai": {"project": "p1", "location": "us-central1"}}
    return loaded(name, options=options.get(name, {}))


def request(*texts: str, extra: Mapping[str, Any] | None = None, **fields: Any) -> Any:
    embed = operations_pb2.EmbedRequest(texts=texts or ("hi", "there"), **fields)
    for name, value in (extra or {}).items():
        embed.extra[name] = json.dumps(value).encode()
    return generation_pb2.Request(embed=embed)


def call(name: str, model: str, asked: generation_pb2.Request) -> Call:
    at = provider(name)
    return at.dialect_for(model, EMBED).call(asked, model, at)


def answered(
    name: str, asked: generation_pb2.Request, body: Any, headers: Mapping[str, str] = {}
) -> list[event_pb2.Event]:
    decoder = provider(name).dialect_for("m", EMBED).decoder(asked, headers)
    data = json.dumps(body, indent=1).encode()
    events = [event for at in range(0, len(data), 5) for event in decoder.feed(data[at : at + 5])]
    return [*events, *decoder.close()]


def vectors(events: list[event_pb2.Event]) -> list[Any]:
    found = [event.vectors for event in events if event.HasField("vectors")]
    return [json.loads(value) for some in found for value in some.values]


NOVA = "amazon.nova-2-multimodal-embeddings-v1:0"
_VERTEX = "/v1beta1/projects/p1/locations/us-central1/publishers/google/models"
_COHERE = {"model": "embed-v4.0", "texts": ["hi", "there"], "embedding_types": ["float"]}
_PARTS = [{"content": {"parts": [{"text": text}]}} for text in ("hi", "there")]

# provider, model, request, path, body
CALLS: list[tuple[str, str, Any, str, Any]] = [
    (
        *("cohere", "embed-v4.0", request(), "/v2/embed"),
        {**_COHERE, "input_type": "search_document", "truncate": "NONE"},
    ),
    (
        "cohere",
        "embed-v4.0",
        request(dimensions=256, input_type="search_query", extra={"truncate": "END"}),
        "/v2/embed",
        {
            **_COHERE,
            "input_type": "search_query",
            "truncate": "END",
            "output_dimension": 256,
        },
    ),
    (
        "gemini",
        "gemini-embedding-001",
        request(dimensions=768, input_type="search_query"),
        "/v1beta/models/gemini-embedding-001:batchEmbedContents",
        {
            "requests": [
                {
                    "model": "models/gemini-embedding-001",
                    "taskType": "RETRIEVAL_QUERY",
                    "outputDimensionality": 768,
                    **part,
                }
                for part in _PARTS
            ]
        },
    ),
    (
        "gemini",
        "gemini-embedding-2",
        request("hi", input_type="question_answering"),
        "/v1beta/models/gemini-embedding-2:batchEmbedContents",
        {
            "requests": [
                {
                    "model": "models/gemini-embedding-2",
                    "content": {"parts": [{"text": "task: question answering | query: hi"}]},
                }
            ]
        },
    ),
    (
        "vertex_ai",
        "text-embedding-005",
        request(dimensions=256, input_type="clustering"),
        f"{_VERTEX}/text-embedding-005:predict",
        {
            "instances": [
                {"content": "hi", "task_type": "CLUSTERING"},
                {"content": "there", "task_type": "CLUSTERING"},
            ],
            "parameters": {"autoTruncate": False, "outputDimensionality": 256},
        },
    ),
    (
        "vertex_ai",
        "gemini-embedding-001",
        request("hi", extra={"autoTruncate": True}),
        f"{_VERTEX}/gemini-embedding-001:predict",
        {"instances": [{"content": "hi"}], "parameters": {"autoTruncate": True}},
    ),
    (
        "vertex_ai",
        "gemini-embedding-2",
        request("hi", dimensions=128, input_type="search_document"),
        f"{_VERTEX}/gemini-embedding-2:embedContent",
        {
            "content": {"parts": [{"text": "title: none | text: hi"}]},
            "outputDimensionality": 128,
        },
    ),
    (
        "bedrock",
        "amazon.titan-embed-text-v2:0",
        request("hi", dimensions=256, extra={"normalize": False}),
        "/model/amazon.titan-embed-text-v2%3A0/invoke",
        {"inputText": "hi", "dimensions": 256, "normalize": False},
    ),
    (
        *("bedrock", "amazon.titan-embed-text-v1", request("hi")),
        *("/model/amazon.titan-embed-text-v1/invoke", {"inputText": "hi"}),
    ),
    (
        *("bedrock", "amazon.titan-embed-image-v1", request("hi", dimensions=384)),
        "/model/amazon.titan-embed-image-v1/invoke",
        {"inputText": "hi", "embeddingConfig": {"outputEmbeddingLength": 384}},
    ),
    (
        "bedrock",
        NOVA,
        request("hi", dimensions=1024, input_type="search_query"),
        "/model/amazon.nova-2-multimodal-embeddings-v1%3A0/invoke",
        {
            "taskType": "SINGLE_EMBEDDING",
            "singleEmbeddingParams": {
                "embeddingPurpose": "GENERIC_RETRIEVAL",
                "embeddingDimension": 1024,
                "text": {"value": "hi", "truncationMode": "NONE"},
            },
        },
    ),
    (
        "bedrock",
        "cohere.embed-english-v3",
        request(input_type="search_query", extra={"truncate": "START"}),
        "/model/cohere.embed-english-v3/invoke",
        {"texts": ["hi", "there"], "input_type": "search_query", "truncate": "START"},
    ),
    (
        "bedrock",
        "us.cohere.embed-v4:0",
        request(dimensions=512),
        "/model/us.cohere.embed-v4%3A0/invoke",
        {
            "texts": ["hi", "there"],
            "input_type": "search_document",
            "truncate": "NONE",
            "embedding_types": ["float"],
            "output_dimension": 512,
        },
    ),
    (
        "huggingface",
        "intfloat/e5:hf-inference",
        request(extra={"normalize": True}),
        "/hf-inference/models/intfloat/e5/pipeline/feature-extraction",
        {"inputs": ["hi", "there"], "normalize": True},
    ),
]


@pytest.mark.parametrize(("name", "model", "asked", "path", "body"), CALLS)
def test_the_call_is_the_providers_own(
    name: str, model: str, asked: Any, path: str, body: Any
) -> None:
    made = call(name, model, asked)
    assert (made.path, json.loads(made.body)) == (path, body)
    assert not made.dropped


def test_the_routers_other_api_is_beside_the_one_of_openai() -> None:
    made = call("huggingface", "a/b", request())
    assert made.base_url == "https://router.huggingface.co"


def test_an_endpoint_of_ones_own_speaks_openais_format() -> None:
    at = loaded("huggingface", base_url="https://mine.example/v1")
    made = at.dialect_for("m", EMBED).call(request(), "m", at)
    assert made.path == "/embeddings"
    assert json.loads(made.body)["input"] == ["hi", "there"]


@pytest.mark.parametrize(
    ("model", "region"), [("amazon.titan-embed-text-v1", "eu-west-1"), (f"x.{NOVA}", "")]
)
def test_the_region_of_a_request_counts(model: str, region: str) -> None:
    asked = request("hi")
    asked.platform.region = region
    wanted = f"https://bedrock-runtime.{region}.amazonaws.com" if region else ""
    assert call("bedrock", model, asked).base_url == wanted


PROVIDERS = ("cohere", "gemini", "vertex_ai", "bedrock", "huggingface")
MODELS = {"bedrock": NOVA}


@pytest.mark.parametrize("name", PROVIDERS)
def test_tokens_are_refused_where_texts_are_read(name: str) -> None:
    asked = generation_pb2.Request()
    asked.embed.tokens.add().ids.extend([1, 2])
    with pytest.raises(InferenceError) as raised:
        call(name, MODELS.get(name, "m"), asked)
    assert (raised.value.reason, raised.value.param) == ("unsupported_parameter", "input")


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_a_provider_has_not_is_left_out_and_told(name: str) -> None:
    asked = request("hi", user="u", extra={"a_field_of_others": 1})
    made = call(name, MODELS.get(name, "m"), asked)
    assert made.dropped == ("user", "a_field_of_others")
    assert b"others" not in made.body
    asked.platform.drop_params = False
    with pytest.raises(InferenceError) as raised:
        call(name, MODELS.get(name, "m"), asked)
    assert raised.value.param == "user"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("cohere", "embed-english-v3.0"),
        ("bedrock", "amazon.titan-embed-text-v1"),
        ("bedrock", "cohere.embed-multilingual-v3"),
        ("huggingface", "a/b"),
    ],
)
def test_dimensions_are_refused_where_there_is_no_choice(name: str, model: str) -> None:
    with pytest.raises(InferenceError) as raised:
        call(name, model, request("hi", dimensions=8))
    assert (raised.value.reason, raised.value.param) == ("unsupported_parameter", "dimensions")


@pytest.mark.parametrize(
    ("name", "model", "fields", "param"),
    [
        ("gemini", "m", {"input_type": "poetry"}, "input_type"),
        ("bedrock", "anthropic.claude-3", {}, "model"),
        ("huggingface", "a/b:nebius", {}, "model"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    name: str, model: str, fields: Any, param: str
) -> None:
    with pytest.raises(InferenceError) as raised:
        call(name, model, request("hi", **fields))
    assert raised.value.param == param


_TWO = [[0.5, -2e-05], [1, 2]]
# provider, body, headers, tokens (None: estimated)
ANSWERS: list[tuple[str, Any, dict[str, str], int | None]] = [
    (
        "cohere",
        {
            "id": "x",
            "texts": ['"float":[[1]]', "there"],
            "embeddings": {"float": _TWO},
            "meta": {"billed_units": {"input_tokens": 4}},
            "response_type": "embeddings_by_type",
        },
        *({}, 4),
    ),
    ("cohere", {"embeddings": {"float": _TWO}}, {}, None),
    ("gemini", {"embeddings": [{"values": one} for one in _TWO]}, {}, None),
    (
        "gemini",
        {
            "embeddings": [{"values": one} for one in _TWO],
            "usageMetadata": {"promptTokenCount": 7},
        },
        *({}, 7),
    ),
    (
        "vertex_ai",
        {
            "predictions": [
                {"embeddings": {"values": one, "statistics": {"token_count": 3}}} for one in _TWO
            ],
            "metadata": {"billableCharacterCount": 12},
        },
        *({}, 6),
    ),
    ("bedrock", {"embeddings": _TWO, "id": "x", "texts": ["hi", "there"]}, {}, None),
    (
        *("bedrock", {"embeddings": {"float": _TWO}}),
        *({"x-amzn-bedrock-input-token-count": "5"}, 5),
    ),
    ("huggingface", _TWO, {}, None),
]
_ONE = [0.5, -2e-05]
ANSWERS_OF_ONE: list[tuple[str, Any, dict[str, str], int | None]] = [
    (
        "vertex_ai",
        {"embedding": {"values": _ONE}, "usageMetadata": {"promptTokenCount": 2}},
        *({}, 2),
    ),
    (
        "bedrock",
        {"embedding": _ONE, "inputTextTokenCount": 3, "embeddingsByType": {"float": _ONE}},
        *({}, 3),
    ),
    (
        "bedrock",
        {"embeddings": [{"embedding": _ONE, "embeddingType": "TEXT"}]},
        *({"x-amzn-bedrock-input-token-count": "4"}, 4),
    ),
]


@pytest.mark.parametrize(("name", "body", "headers", "tokens"), ANSWERS + ANSWERS_OF_ONE)
def test_the_vectors_of_an_answer_arrive_as_they_were_written(
    name: str, body: Any, headers: dict[str, str], tokens: int | None
) -> None:
    wanted = _TWO if (name, body, headers, tokens) in ANSWERS else [_ONE]
    events = answered(name, request(*(["hi", "there"][: len(wanted)])), body, headers)
    assert events[0].HasField("started")
    assert vectors(events) == wanted
    usage = events[-1].completed.usage
    assert usage.estimated == (tokens is None)
    assert usage.input_tokens == (tokens or 2)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("cohere", {"message": "no"}),
        ("gemini", {"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}),
        ("vertex_ai", {"error": {"code": 400, "message": "no"}}),
        ("bedrock", {"Output": {"__type": "x#UnknownOperationException"}}),
        ("bedrock", {"embeddings": [[1]]}),
        ("huggingface", {"error": "loading"}),
        ("huggingface", [[[0.1], [0.2]], [[0.3], [0.4]]]),
        ("huggingface", [[0.1]]),
        ("gemini", {"embeddings": [{"values": [1]}]}),
    ],
)
def test_no_answer_and_half_an_answer_are_errors(name: str, body: Any) -> None:
    with pytest.raises(InferenceError):
        answered(name, request(), body)


_ODD: list[Any] = [[], {}, "x", 1, None, [1], {"a": []}, [None], [{}]]


@pytest.mark.parametrize("name", [*PROVIDERS, "openai"])
@pytest.mark.parametrize(
    "field",
    ["", "data", "embeddings", "embedding", "predictions", "meta", "usage", "usageMetadata"],
)
def test_an_answer_of_any_form_is_read_or_an_error_of_the_providers(name: str, field: str) -> None:
    whole = {
        "embeddings": {"float": _TWO} if name == "cohere" else [{"values": one} for one in _TWO],
        "predictions": [{"embeddings": {"values": one}} for one in _TWO],
        "data": [{"embedding": one} for one in _TWO],
    }
    for value in _ODD:
        with contextlib.suppress(InferenceError):
            answered(name, request(), {**whole, field: value} if field else value)


@pytest.mark.parametrize(
    ("name", "model", "inputs"),
    [
        ("openai", "text-embedding-3-small", 2048),
        ("mistral", "mistral-embed", 512),
        ("cohere", "embed-v4.0", 96),
        ("gemini", "gemini-embedding-001", 100),
        ("vertex_ai", "text-embedding-005", 250),
        ("vertex_ai", "gemini-embedding-001", 1),
        ("bedrock", "amazon.titan-embed-text-v2:0", 1),
        ("bedrock", "cohere.embed-english-v3", 96),
        ("huggingface", "a/b", 32),
    ],
)
def test_one_call_takes_what_the_provider_says(name: str, model: str, inputs: int) -> None:
    dialect = provider(name).operations[EMBED]
    assert isinstance(dialect, Embeds)
    assert dialect.most(model).inputs == inputs


@pytest.mark.parametrize("name", REGISTRY)
def test_every_dialect_of_embeddings_says_how_much_it_takes(name: str) -> None:
    dialect = registry.provider(name).operations.get(EMBED)
    assert dialect is None or isinstance(dialect, Embeds)
