"""Reranking as Hugging Face's Text Embeddings Inference has it.

See https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.parameters import Losses
from workers.provider import Call, Decoder, Provider
from workers.ranking import limits_into, place, texts_of
from workers.whole import WholeDecoder

_HEADERS = {"content-type": "application/json"}
_OWN = ("raw_scores", "truncate", "truncation_direction")


@dataclass(frozen=True, slots=True)
class TeiRerank:
    """The dialect; it has no state. A server has one model, so that none is named."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `top_n` is left to the decoder."""
        rerank, losses = request.rerank, Losses()
        body: dict[str, Any] = {"query": rerank.query, "texts": texts_of(rerank)}
        limits_into(body, rerank, (), losses)
        for name, data in rerank.extra.items():
            if name in _OWN:
                body[name] = orjson.Fragment(data)
            else:
                losses.drop(name)
        losses.refuse(request.platform, model)
        return Call(
            "/rerank",
            orjson.dumps(body),
            _HEADERS,
            dropped=losses.names,
            # Beside the part that speaks OpenAI's format.
            base_url=provider.base_url.removesuffix("/v1"),
        )

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request: an array."""

        def read(
            answer: Any,
        ) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
            if not isinstance(answer, list):
                raise self.errors(502, headers, orjson.dumps(answer))
            best = sorted(answer, key=lambda one: -one["score"])
            wanted = best[: request.rerank.top_n or None]
            places = [place(one["index"], one["score"], request) for one in wanted]
            return event_pb2.Started(), places, event_pb2.Usage()

        return WholeDecoder(headers, read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)
