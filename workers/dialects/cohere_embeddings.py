"""Cohere's embeddings, version 2: https://docs.cohere.com/v2/reference/embed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.counts import count
from workers.parameters import Losses
from workers.provider import Call, Decoder, Most, Provider
from workers.vectors import Place, Said, VectorDecoder, extras_into, one_size, only_texts

_HEADERS = {"content-type": "application/json"}
_PLACE = Place.array("float")
# Fields that OpenAI's API lacks, sent on as they are.
_OWN = frozenset({"truncate", "max_tokens", "priority"})


@dataclass(frozen=True, slots=True)
class CohereEmbeddings:
    """The dialect; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def most(self, model: str) -> Most:
        """What one call takes at most."""
        return Most(96)

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. A text that is too long is an error, as at OpenAI.

        Raises `InferenceError` for tokens, and for dimensions where there is no choice.
        """
        embed, losses = request.embed, Losses()
        only_texts(request, provider.name)
        body: dict[str, Any] = {
            "model": model,
            "input_type": embed.input_type or "search_document",
            "texts": list(embed.texts),
            # What its base64 holds is not documented.
            "embedding_types": ["float"],
        }
        if embed.HasField("dimensions"):
            if "-v3" in model or "-v2" in model:
                raise one_size(model)
            body["output_dimension"] = embed.dimensions
        extras_into(body, embed, _OWN, losses)
        body.setdefault("truncate", "NONE")
        losses.refuse(request.platform, model)
        return Call("/v2/embed", orjson.dumps(body), _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return VectorDecoder(request, headers, _PLACE, self._read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)

    def _read(self, rest: Any, headers: Mapping[str, str]) -> Said:
        if not isinstance(rest, dict) or "embeddings" not in rest:
            raise self.errors(502, headers, orjson.dumps(rest))
        units = (rest.get("meta") or {}).get("billed_units") or {}
        return Said(count(units.get("input_tokens")))
