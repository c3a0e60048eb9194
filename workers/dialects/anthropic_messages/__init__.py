"""Anthropic's Messages format: https://platform.claude.com/docs/en/api/messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.anthropic_messages.decoder import StreamDecoder, UnaryDecoder
from workers.dialects.anthropic_messages.envelope import DIRECT, VERTEX_AI, Envelope
from workers.dialects.anthropic_messages.errors import error_of
from workers.dialects.anthropic_messages.request import write
from workers.locations import base_url_for, located
from workers.provider import Call, Decoder, Provider
from workers.sniffing import SniffingDecoder

__all__ = ["DIALECT", "ON_VERTEX_AI", "AnthropicMessages"]


@dataclass(frozen=True, slots=True)
class AnthropicMessages:
    """The dialect, as one platform wraps its calls."""

    envelope: Envelope = DIRECT

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is the name at the provider.

        Base URLs name the host alone, as the official SDK wants them; one that ends in /v1, as
        those of other providers do, is understood too.
        """
        written = write(request, model, self.envelope)
        there = located(provider, model, request.platform.region)
        path = self.envelope.path(model, there, streams=request.generate.stream)
        base_url = base_url_for(there, provider)
        return Call(path, written.body, written.headers, dropped=written.dropped, base_url=base_url)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request; its first byte says if it is a stream."""
        return SniffingDecoder(
            lambda: UnaryDecoder(request, headers), lambda: StreamDecoder(request, headers)
        )

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


DIALECT = AnthropicMessages()
ON_VERTEX_AI = AnthropicMessages(VERTEX_AI)
