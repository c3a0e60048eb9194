"""Counts the tokens of a request at a provider: what would be sent for an answer, sent elsewhere.

Sources: Anthropic's and Google's API references, and the service model of bedrock-runtime.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.counts import count
from workers.provider import Call, Decoder, Provider
from workers.whole import WholeDecoder

Body = dict[str, Any]
# Path and body of the call that counts, from those of the call that answers, and the model's name.
Rewrite = Callable[[str, Body, str], tuple[str, Body]]

# Where an answer has the number.
_FIELDS = ("input_tokens", "inputTokens", "totalTokens")


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """The dialect of a provider that counts; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]
    rewrite: Rewrite

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request."""
        asked = generation_pb2.Request(generate=request.count_tokens, platform=request.platform)
        call = provider.dialect_for(model).call(asked, model, provider)
        path, body = self.rewrite(call.path, orjson.loads(call.body), model)
        return replace(call, path=path, body=orjson.dumps(body))

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return WholeDecoder(headers, _read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)


def _read(
    answer: Any,
) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
    found = next((answer[name] for name in _FIELDS if name in answer), None)
    number = count(found)
    if number is None:
        raise ValueError("it has no number of tokens")
    counted = event_pb2.TokenCount(input_tokens=number)
    return event_pb2.Started(), [event_pb2.Event(token_count=counted)], event_pb2.Usage()


def _only(body: Body, names: tuple[str, ...]) -> Body:
    return {name: body[name] for name in names if name in body}


_MESSAGES = (
    *("anthropic_version", "model", "messages", "system", "tools", "tool_choice"),
    *("thinking", "output_config", "cache_control", "context_management", "speed"),
)
_DATE = re.compile(r"-(\d{8})$")


def of_messages(path: str, body: Body, _model: str) -> tuple[str, Body]:
    """Anthropic's own API."""
    return f"{path}/count_tokens", _only(body, _MESSAGES)


def of_publishers(path: str, body: Body, model: str) -> tuple[str, Body]:
    """Vertex AI: Claude has a path for all models, Gemini one for each."""
    parent, claude, _ = path.partition("publishers/anthropic/models/")
    if claude:
        name = _DATE.sub(r"@\1", model.rpartition("/")[2])
        counted = {**_only(body, _MESSAGES), "model": name}
        return f"{parent}{claude}count-tokens:rawPredict", counted
    return _method(path), _only(body, ("contents", "systemInstruction", "tools"))


def of_contents(path: str, body: Body, model: str) -> tuple[str, Body]:
    """AI Studio: a whole request inside another."""
    name = model if "/" in model else f"models/{model}"
    return _method(path), {"generateContentRequest": {"model": name, **body}}


def _method(path: str) -> str:
    return f"{path.rpartition(':')[0]}:countTokens"


# What names a group of regions, in which nobody counts.
_GROUP = re.compile(r"/model/(us|eu|apac|jp|au|ca|in|global|us-gov)\.")


def of_converse(path: str, body: Body, _model: str) -> tuple[str, Body]:
    """Bedrock: a Converse request inside another."""
    names = ("messages", "system", "toolConfig", "additionalModelRequestFields")
    path = _GROUP.sub("/model/", path.rpartition("/")[0])
    return f"{path}/count-tokens", {"input": {"converse": _only(body, names)}}
