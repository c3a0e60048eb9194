"""Claude on Bedrock in Claude's own format: InvokeModel, whole and streamed.

Source: the client for Bedrock in the official SDK (anthropic 2.11), and the service model of
bedrock-runtime. AWS's messages hold the events of the stream; its errors are AWS's own.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.anthropic_messages.answer import Event
from workers.dialects.anthropic_messages.decoder import StreamDecoder, UnaryDecoder
from workers.dialects.anthropic_messages.envelope import BEDROCK
from workers.dialects.anthropic_messages.request import write
from workers.dialects.anthropic_messages.table import TABLE
from workers.eventstream import EventStreamFramer, Message
from workers.parameters import drop, mapped
from workers.paths import segment
from workers.provider import Call, Decoder, Provider
from workers.regions import base_url_for

PARAMETERS = TABLE.but(
    mapped("stream", "(url)"), drop("service_tier", "web_search_options", note="not there")
)

Errors = Callable[[int, Mapping[str, str], bytes], InferenceError]
# What AWS's name of an exception within a stream, and its body, mean.
Exceptions = Callable[[str, bytes, Mapping[str, str]], InferenceError]


def in_its_own_format(request: generation_pb2.Request, model: str) -> bool:
    """Whether a request came in Claude's format, for a Claude."""
    return request.generate.surface == generation_pb2.SURFACE_MESSAGES and "claude" in model.lower()


@dataclass(frozen=True, slots=True)
class AnthropicOnBedrock:
    """The dialect; AWS's errors are read by who knows them."""

    errors: Errors
    exceptions: Exceptions

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is an id, an inference profile or an ARN."""
        written = write(request, model, BEDROCK, provider.parameters)
        verb = "invoke-with-response-stream" if request.generate.stream else "invoke"
        return Call(
            f"/model/{segment(model)}/{verb}",
            written.body,
            written.headers,
            dropped=written.dropped,
            base_url=base_url_for(model, request.platform.region, provider.base_url),
        )

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request; its content type says if it is a stream."""
        kind = headers.get("content-type", "").lower()
        if "eventstream" in kind or (request.generate.stream and "json" not in kind):
            return _FramedDecoder(request, headers, self.exceptions)
        return UnaryDecoder(request, headers)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)


class _FramedDecoder:
    """For a stream of AWS's messages, each with one event of Claude's in it."""

    def __init__(
        self,
        request: generation_pb2.Request,
        headers: Mapping[str, str],
        exceptions: Exceptions,
    ) -> None:
        self._framer = EventStreamFramer()
        self._inner = StreamDecoder(request, headers)
        self._headers = headers
        self._exceptions = exceptions

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events that became whole; those before a failure come before it is raised."""
        for message in self._framer.feed(data):
            if message.kind == "event":
                if message.name == "chunk":
                    yield from self._inner.event(_inside(message))
            elif not self._inner.is_done:
                raise self._exceptions(message.name, _body(message), self._headers)

    def close(self) -> Iterator[Event]:
        """The last events. The reason to stop makes an answer whole."""
        yield from self._inner.close()


def _inside(message: Message) -> bytes:
    try:
        return base64.b64decode(orjson.loads(message.payload)["bytes"])
    except (orjson.JSONDecodeError, KeyError, TypeError, binascii.Error) as exc:
        raise InferenceError(
            "upstream_error", f"The provider sent a message without an event: {exc!r}"
        ) from exc


def _body(message: Message) -> bytes:
    if message.kind == "error":
        return orjson.dumps({"message": message.headers.get(":error-message")})
    return message.payload
