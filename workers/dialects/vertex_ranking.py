"""Google Cloud's ranking API, which is Discovery Engine's.

See https://cloud.google.com/generative-ai-app-builder/docs/ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.locations import is_service
from workers.parameters import Losses
from workers.provider import Call, Decoder, Provider
from workers.ranking import limits_into, place, texts_of
from workers.whole import WholeDecoder

_HEADERS = {"content-type": "application/json"}
# In place of Vertex AI's own hosts; another one is the operator's, and stands before this API too.
_HOST = "https://discoveryengine.googleapis.com"
# Up to so many documents are billed as one query.
_QUERY = 100


@dataclass(frozen=True, slots=True)
class VertexRanking:
    """The dialect; it has no state. Its models are known in the location `global` alone."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. Documents themselves are never asked back.

        Raises `InferenceError` where the operator has named no project.
        """
        rerank, losses = request.rerank, Losses()
        project = provider.quirks.get("project")
        if not project:
            raise InferenceError(
                "unsupported_operation",
                f"ranking belongs to a project of Google Cloud's: set {provider.name.upper()}"
                "_PROJECT",
                param="model",
                provider=provider.name,
            )
        records = [
            {"id": str(number), "content": text} for number, text in enumerate(texts_of(rerank))
        ]
        body: dict[str, Any] = {
            "model": model,
            "query": rerank.query,
            "records": records,
            "ignoreRecordDetailsInResponse": True,
        }
        if rerank.HasField("top_n"):
            body["topN"] = rerank.top_n
        limits_into(body, rerank, (), losses)
        for name in rerank.extra:
            losses.drop(name)
        losses.refuse(request.platform, model)
        place_of = f"projects/{project}/locations/global/rankingConfigs/default_ranking_config"
        return Call(
            f"/v1/{place_of}:rank",
            orjson.dumps(body),
            _HEADERS,
            dropped=losses.names,
            base_url=_HOST if is_service(provider.base_url) else "",
        )

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""

        def read(
            answer: Any,
        ) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
            if not isinstance(answer.get("records"), list):
                raise self.errors(502, headers, orjson.dumps(answer))
            places = [place(one["id"], one.get("score", 0), request) for one in answer["records"]]
            queries = -(-len(request.rerank.documents) // _QUERY)
            return event_pb2.Started(), places, event_pb2.Usage(search_units=queries)

        return WholeDecoder(headers, read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)
