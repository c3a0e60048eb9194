"""Reranking by Bedrock's InvokeModel: Cohere's and Amazon's models.

Its other API for this takes no API keys. See https://docs.aws.amazon.com/bedrock/latest/userguide/rerank-use.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.parameters import Losses
from workers.paths import segment
from workers.provider import Call, Decoder, Provider
from workers.ranking import limits_into, place, texts_of
from workers.regions import base_url_for
from workers.whole import WholeDecoder

_HEADERS = {"content-type": "application/json", "accept": "application/json"}
# Up to so many documents are billed as one search.
_SEARCH = 100


@dataclass(frozen=True, slots=True)
class BedrockRerank:
    """The dialect; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. Documents themselves are never asked back."""
        rerank, losses = request.rerank, Losses()
        cohere = "cohere." in model
        body: dict[str, Any] = {"query": rerank.query, "documents": texts_of(rerank)}
        if cohere:
            body["api_version"] = 2
        if rerank.HasField("top_n"):
            # More than there are need not be asked for.
            body["top_n"] = min(rerank.top_n, len(rerank.documents))
        limits_into(body, rerank, ("max_tokens_per_doc",) if cohere else (), losses)
        for name in rerank.extra:
            losses.drop(name)
        losses.refuse(request.platform, model)
        return Call(
            f"/model/{segment(model)}/invoke",
            orjson.dumps(body),
            _HEADERS,
            dropped=losses.names,
            base_url=base_url_for(model, request.platform.region, provider.base_url),
        )

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""

        def read(
            answer: Any,
        ) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
            if not isinstance(answer.get("results"), list):
                raise self.errors(502, headers, orjson.dumps(answer))
            places = [
                place(one["index"], one["relevance_score"], request) for one in answer["results"]
            ]
            searches = -(-len(request.rerank.documents) // _SEARCH)
            return event_pb2.Started(), places, event_pb2.Usage(search_units=searches)

        return WholeDecoder(headers, read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)
