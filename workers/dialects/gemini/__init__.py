"""Google's generateContent, as AI Studio and Vertex AI speak it.

See https://ai.google.dev/api/generate-content. A dialect is made for one of the two, since each
refuses the other's thought signatures. It obeys the quirk `parent`: the resource that the models
belong to, such as `projects/P/locations/L/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.gemini.audio import GeminiSpeech, GeminiTranscriptions
from workers.dialects.gemini.decoder import GeminiDecoder
from workers.dialects.gemini.errors import error_of
from workers.dialects.gemini.images import GeminiImages
from workers.dialects.gemini.parameters import AI_STUDIO_TABLE, VERTEX_AI_TABLE
from workers.dialects.gemini.request import write
from workers.dialects.gemini.surroundings import AI_STUDIO, VERTEX_AI, Surroundings
from workers.provider import Call, Decoder, Provider

__all__ = [
    "AI_STUDIO",
    "AI_STUDIO_TABLE",
    "VERTEX_AI",
    "VERTEX_AI_TABLE",
    "Gemini",
    "GeminiImages",
    "GeminiSpeech",
    "GeminiTranscriptions",
]


@dataclass(frozen=True, slots=True)
class Gemini:
    """The dialect in one of its homes."""

    home: Surroundings

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is the name at the provider."""
        return write(request, model, provider, self.home)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request, however it is framed."""
        return GeminiDecoder(request, headers, self.home.issuer)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)
