"""Cohere's chat format, version 2: https://docs.cohere.com/v2/reference/chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.cohere_chat.decoder import StreamDecoder, UnaryDecoder
from workers.dialects.cohere_chat.errors import error_of
from workers.dialects.cohere_chat.request import call_of
from workers.provider import Call, Decoder, Provider
from workers.sniffing import SniffingDecoder


@dataclass(frozen=True, slots=True)
class CohereChat:
    """The dialect; it has no state."""

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is the name at the provider."""
        return call_of(request, model, provider)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request; its first byte says if it is a stream."""
        return SniffingDecoder(
            lambda: UnaryDecoder(request, headers), lambda: StreamDecoder(request, headers)
        )

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


DIALECT = CohereChat()
