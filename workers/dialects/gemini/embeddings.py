"""Google's embeddings: AI Studio's batches, and the two forms that Vertex AI has for its models.

See https://ai.google.dev/api/embeddings and, for Vertex AI,
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2, operations_pb2
from workers.counts import count
from workers.dialects.gemini.errors import error_of
from workers.dialects.gemini.surroundings import AI_STUDIO, VERTEX_AI
from workers.locations import base_url_for, located
from workers.parameters import Losses
from workers.provider import Call, Decoder, Most, Provider
from workers.standins import read_json
from workers.vectors import Place, Said, VectorDecoder, extras_into, only_texts

_HEADERS = {"content-type": "application/json"}
_PLACE = Place.value("values")
# Other API's words for what vectors are for -> Google's.
_TASKS = {
    "search_document": "RETRIEVAL_DOCUMENT",
    "document": "RETRIEVAL_DOCUMENT",
    "search_query": "RETRIEVAL_QUERY",
    "query": "RETRIEVAL_QUERY",
}
# Google's word -> what `gemini-embedding-2` and later read in the text itself.
_PREFIXES = {
    "RETRIEVAL_QUERY": "task: search result | query: ",
    "RETRIEVAL_DOCUMENT": "title: none | text: ",
    "SEMANTIC_SIMILARITY": "task: sentence similarity | query: ",
    "CLASSIFICATION": "task: classification | query: ",
    "CLUSTERING": "task: clustering | query: ",
    "QUESTION_ANSWERING": "task: question answering | query: ",
    "FACT_VERIFICATION": "task: fact checking | query: ",
    "CODE_RETRIEVAL_QUERY": "task: code retrieval | query: ",
}
_FIRST = "gemini-embedding-001"


def _task(embed: operations_pb2.EmbedRequest) -> str:
    """Google's word for what the vectors are for; "" where nothing is asked for."""
    if not embed.HasField("input_type"):
        return ""
    task = _TASKS.get(embed.input_type, embed.input_type.upper())
    if task not in _PREFIXES:
        known = ", ".join([*_TASKS, *(word.lower() for word in _PREFIXES)])
        message = f"Invalid value: {embed.input_type!r:.60}. Supported values are: {known}."
        raise InferenceError("invalid_request", message, param="input_type")
    return task


def _is_told_in_text(model: str) -> bool:
    """Whether the model reads what its vectors are for in the text."""
    return "gemini-embedding-" in model and _FIRST not in model


def _fields(model: str, task: str) -> dict[str, Any]:
    return {"taskType": task} if task and not _is_told_in_text(model) else {}


def _texts(embed: operations_pb2.EmbedRequest, model: str, task: str) -> list[str]:
    prefix = _PREFIXES.get(task, "") if _is_told_in_text(model) else ""
    return [prefix + text for text in embed.texts]


def _usage(rest: dict[str, Any]) -> int | None:
    return count((rest.get("usageMetadata") or {}).get("promptTokenCount"))


@dataclass(frozen=True, slots=True)
class AiStudioEmbeddings:
    """`batchEmbedContents`; it has no state."""

    def most(self, model: str) -> Most:
        """What one call takes at most."""
        return Most(100)

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. Raises `InferenceError` for tokens."""
        embed, losses = request.embed, Losses()
        only_texts(request, provider.name)
        task = _task(embed)
        path = AI_STUDIO.path(model, "batchEmbedContents", provider)
        shared: dict[str, Any] = {"model": f"models/{model.removeprefix('models/')}"}
        shared |= _fields(model, task)
        if embed.HasField("dimensions"):
            shared["outputDimensionality"] = embed.dimensions
        extras_into(shared, embed, frozenset({"title", "taskType"}), losses)
        requests = [
            {**shared, "content": {"parts": [{"text": text}]}}
            for text in _texts(embed, model, task)
        ]
        losses.refuse(request.platform, model)
        body = orjson.dumps({"requests": requests})
        return Call(path, body, _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return VectorDecoder(request, headers, _PLACE, _batch)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


def _batch(rest: Any, headers: Mapping[str, str]) -> Said:
    if not isinstance(rest, dict) or not isinstance(rest.get("embeddings"), list):
        raise error_of(502, headers, orjson.dumps(rest))
    return Said(_usage(rest))


@dataclass(frozen=True, slots=True)
class VertexAiEmbeddings:
    """`predict`, and `embedContent` for the models that came after; it has no state."""

    def most(self, model: str) -> Most:
        """What one call takes at most."""
        return Most(1) if "gemini-embedding-" in model else Most(250, 20_000)

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. A text that is too long is an error, as at OpenAI.

        Raises `InferenceError` for tokens.
        """
        embed, losses = request.embed, Losses()
        only_texts(request, provider.name)
        task = _task(embed)
        write = _content if _is_told_in_text(model) else _instances
        method, body = write(embed, model, task, losses)
        losses.refuse(request.platform, model)
        there = located(provider, model, request.platform.region)
        path, base_url = VERTEX_AI.path(model, method, there), base_url_for(there, provider)
        return Call(path, orjson.dumps(body), _HEADERS, dropped=losses.names, base_url=base_url)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return VectorDecoder(request, headers, _PLACE, _prediction)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


def _content(
    embed: operations_pb2.EmbedRequest, model: str, task: str, losses: Losses
) -> tuple[str, dict[str, Any]]:
    [text] = _texts(embed, model, task)
    body: dict[str, Any] = {"content": {"parts": [{"text": text}]}}
    if embed.HasField("dimensions"):
        body["outputDimensionality"] = embed.dimensions
    extras_into(body, embed, frozenset({"autoTruncate", "title"}), losses)
    return "embedContent", body


def _instances(
    embed: operations_pb2.EmbedRequest, _model: str, task: str, losses: Losses
) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {"autoTruncate": False}
    if "autoTruncate" in embed.extra:
        parameters["autoTruncate"] = read_json(embed.extra["autoTruncate"], "autoTruncate")
    if embed.HasField("dimensions"):
        parameters["outputDimensionality"] = embed.dimensions
    shared = {"task_type": task} if task else {}
    known = frozenset({"title", "task_type", "autoTruncate"})
    extras_into(shared, embed, known, losses)
    shared.pop("autoTruncate", None)
    instances = [{**shared, "content": text} for text in embed.texts]
    return "predict", {"instances": instances, "parameters": parameters}


def _prediction(rest: Any, headers: Mapping[str, str]) -> Said:
    if not isinstance(rest, dict) or not {"predictions", "embedding"} & rest.keys():
        raise error_of(502, headers, orjson.dumps(rest))
    if "embedding" in rest:
        return Said(_usage(rest))
    counts = [
        count(((one.get("embeddings") or {}).get("statistics") or {}).get("token_count"))
        for one in rest["predictions"]
        if isinstance(one, dict)
    ]
    known = [tokens for tokens in counts if tokens is not None]
    return Said(sum(known) if known and len(known) == len(counts) else None)
