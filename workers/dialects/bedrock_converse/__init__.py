"""Bedrock's Converse format, whole and streamed.

Source: the service model of bedrock-runtime, and
https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.bedrock_converse.decoder import StreamDecoder, UnaryDecoder, is_streamed
from workers.dialects.bedrock_converse.errors import error_of
from workers.dialects.bedrock_converse.request import call_of
from workers.provider import Call, Decoder, Provider


@dataclass(frozen=True, slots=True)
class BedrockConverse:
    """The dialect; it has no state."""

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is an id, an inference profile or an ARN."""
        return call_of(request, model, provider)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request; its content type says if it is a stream."""
        kind = StreamDecoder if is_streamed(request, headers) else UnaryDecoder
        return kind(request, headers)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


DIALECT = BedrockConverse()
