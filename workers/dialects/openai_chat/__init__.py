"""The OpenAI chat completions format, as OpenAI and most other providers speak it.

What becomes of parameters is said by the provider's table, which is `parameters.CHAT` with rows of
its own. Quirks are facts beside parameters that the dialect obeys (`Provider.quirks`):

| name | value | without it |
|---|---|---|
| path | what is called, behind the base URL | /chat/completions |
| cache_control | "send": prompt cache marks go out | they are left out |
| allowed_tools | "send": a choice of some tools goes out | the other tools are left out |
| reasoning_field | where earlier reasoning goes back; "content": as parts of it | it is left out |
| assistant_fields | "plain": none that OpenAI alone has, no null | all of OpenAI's fields |
| tool_type | "as given": left out where the caller did | every tool has one |
| call_ids | "nine characters": ids of calls are made to fit that | they go out as they came |
| system_messages | "one": joined into one at the beginning | they stay where they are |
| top_k | "send": a Messages request's goes out | it is left out |
| files | "document_url", "file_url": the type of part that a file is | "file" |
| audio | "bare": the bytes alone | with their format |
| turns | "alternate": neighbours of one speaker are joined | they stay apart |
| prefix | what is called, in place of `path`, where the last message is to be continued | refused |
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
