"""Hugging Face's feature extraction, behind its router.

See https://huggingface.co/docs/inference-providers/tasks/feature-extraction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.parameters import Losses
from workers.paths import resource
from workers.provider import Call, Decoder, Most, Provider
from workers.vectors import Place, Said, VectorDecoder, extras_into, one_size, only_texts

_HEADERS = {"content-type": "application/json"}
_PLACE = Place.whole()
_OWN = frozenset({"normalize", "prompt_name", "truncate", "truncation_direction"})
# The one of the router's providers that takes this task by the names of models.
_SERVES = "hf-inference"


@dataclass(frozen=True, slots=True)
class FeatureExtraction:
    """The dialect; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def most(self, model: str) -> Most:
        """What one call takes at most: what its servers do unless told otherwise."""
        return Most(32)

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request.

        Raises `InferenceError` for tokens, dimensions, and models of other providers.
        """
        embed, losses = request.embed, Losses()
        only_texts(request, provider.name)
        if embed.HasField("dimensions"):
            raise one_size(model)
        model, _, serves = model.partition(":")
        if serves not in ("", _SERVES):
            raise InferenceError(
                "unsupported_operation",
                f"Hugging Face's router has embeddings of {_SERVES} alone: leave out ':{serves}'",
                param="model",
            )
        if embed.HasField("input_type"):
            losses.drop("input_type")
        body: dict[str, Any] = {"inputs": list(embed.texts)}
        extras_into(body, embed, _OWN, losses)
        losses.refuse(request.platform, model)
        return Call(
            f"/{_SERVES}/models/{resource(model)}/pipeline/feature-extraction",
            orjson.dumps(body),
            _HEADERS,
            dropped=losses.names,
            base_url=provider.base_url.removesuffix("/v1"),
        )

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return VectorDecoder(request, headers, _PLACE, self._read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)

    def _read(self, rest: Any, headers: Mapping[str, str]) -> Said:
        if not isinstance(rest, list):
            raise self.errors(502, headers, orjson.dumps(rest))
        return Said()
