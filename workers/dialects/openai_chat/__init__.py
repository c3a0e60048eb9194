"""The OpenAI chat completions format, as OpenAI and most other providers speak it.

Quirks of a provider that it obeys (`Provider.quirks`):

| name | value | without it |
|---|---|---|
| model_families | a table of `families.FAMILIES` to judge parameters by | parameters pass |
| max_tokens_field | the field that both limits go out as | each goes out as it came |
| developer_role | the role that stands for developer | developer |
| reasoning_field | where earlier reasoning text goes back | it is left out |
| cache_control | "send": prompt cache marks go out | they are left out |
| stream_usage | "always": usage comes unasked, and asking is an error | it is asked for |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.openai_chat.decoder import StreamDecoder, UnaryDecoder
from workers.dialects.openai_chat.errors import error_of
from workers.dialects.openai_chat.request import call_of
from workers.provider import Call, Decoder, Provider


@dataclass(frozen=True, slots=True)
class OpenAiChat:
    """The dialect; it has no state."""

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is the name at the provider."""
        return call_of(request, model, provider)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request, streamed if the request asks for that."""
        kind = StreamDecoder if request.generate.stream else UnaryDecoder
        return kind(request, headers)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


DIALECT = OpenAiChat()
