"""The Responses format of OpenAI, as OpenAI and the servers that followed it speak it.

Nothing is kept at the provider and nothing is looked up there: `store` is false and
`previous_response_id` is never sent, since the broker keeps responses itself. What a model's
reasoning needs to go on travels as encrypted content instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.openai_responses.decoder import StreamDecoder, UnaryDecoder
from workers.dialects.openai_responses.request import call_of
from workers.provider import Call, Decoder, Provider
from workers.sniffing import SniffingDecoder

Errors = Callable[[int, Mapping[str, str], bytes], InferenceError]


@dataclass(frozen=True, slots=True)
class OpenAiResponses:
    """The dialect, with what a provider does differently. It has no state.

    The quirk `responses_path` says what is called behind the base URL.
    """

    # Reads an error answer: status, headers, body.
    errors: Errors
    # Earlier reasoning goes back as text too, where there is no encrypted content.
    plain_reasoning: bool = False

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is the name at the provider."""
        path = provider.quirks.get("responses_path", "/responses")
        return call_of(
            request, model, provider.parameters, path, plain_reasoning=self.plain_reasoning
        )

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer, which is read as what it turns out to be."""
        return SniffingDecoder(
            lambda: UnaryDecoder(request, headers, self.errors),
            lambda: StreamDecoder(request, headers, self.errors),
        )

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)
