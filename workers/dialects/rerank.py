"""Reranking in the format that Cohere began and others took over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.counts import count
from workers.parameters import Losses
from workers.provider import Call, Decoder, Provider
from workers.ranking import limits_into, place, text_of
from workers.whole import WholeDecoder

_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Rerank:
    """The dialect, with what a provider does differently. It has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]
    path: str = "/rerank"
    # Whether documents may be objects, of which `rank_fields` are looked at.
    objects: bool = False
    # The limits that are understood.
    limits: tuple[str, ...] = ()

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. Documents themselves are never asked back."""
        rerank, losses = request.rerank, Losses()
        fields = list(rerank.rank_fields)
        body: dict[str, Any] = {
            "model": model,
            "query": rerank.query,
            "documents": [
                orjson.Fragment(document.json)
                if self.objects and document.HasField("json")
                else text_of(document, fields)
                for document in rerank.documents
            ],
        }
        if fields and self.objects:
            body["rank_fields"] = fields
        if rerank.HasField("top_n"):
            body["top_n"] = rerank.top_n
        limits_into(body, rerank, self.limits, losses)
        for name, data in rerank.extra.items():
            body.setdefault(name, orjson.Fragment(data))
        losses.refuse(request.platform, model)
        return Call(self.path, orjson.dumps(body), _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""

        def read(
            answer: Any,
        ) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
            results = answer.get("results", answer.get("data"))
            if not isinstance(results, list):
                raise self.errors(502, headers, orjson.dumps(answer))
            started = event_pb2.Started(
                model=str(answer.get("model") or ""), upstream_id=str(answer.get("id") or "")
            )
            places = [place(one["index"], one["relevance_score"], request) for one in results]
            return started, places, _usage(answer)

        return WholeDecoder(headers, read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)


def _usage(answer: dict[str, Any]) -> event_pb2.Usage:
    meta = answer.get("meta") or {}
    units = meta.get("billed_units") or {}
    reported = answer.get("usage") or {}
    tokens = [
        count(source.get(name))
        for source, name in (
            (meta.get("tokens") or {}, "input_tokens"),
            (units, "input_tokens"),
            (reported, "prompt_tokens"),
            (reported, "total_tokens"),
        )
    ]
    usage = event_pb2.Usage(input_tokens=next((n for n in tokens if n is not None), 0))
    searches = units.get("search_units", reported.get("search_units"))
    if isinstance(searches, int | float):
        usage.search_units = searches
    return usage
