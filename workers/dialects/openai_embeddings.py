"""Embeddings in OpenAI's format, as OpenAI and most other providers speak it."""

from __future__ import annotations

from array import array
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2, operations_pb2
from workers.counts import count
from workers.parameters import Losses
from workers.paths import segment
from workers.provider import Call, Decoder, Most, Provider
from workers.vectors import JSON, Place, Said, VectorDecoder, one_size, only_texts

_HEADERS = {"content-type": "application/json"}
_PLACE = Place.value("embedding")
# As at OpenAI.
_MOST = Most(2048, 300_000)


@dataclass(frozen=True, slots=True)
class OpenAiEmbeddings:
    """The dialect, with what a provider does differently. It has no state.

    The quirk `paths` says where calls go: `{call}` in it is the path, `{model}` the model.
    """

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]
    path: str = "/embeddings"
    # Words of `encoding_format` for numbers and for base64; without them the field is left out.
    words: tuple[str, str] | None = ("float", "base64")
    # Where `dimensions` go; "" = they cannot be chosen.
    dimensions: str = "dimensions"
    # Whether these are understood.
    user: bool = False
    tokens: bool = True
    input_type: bool = False
    # Base64 is of 8-bit integers, not of float32.
    int8: bool = False
    # What one call takes.
    at_most: Most = _MOST

    def most(self, model: str) -> Most:
        """What one call takes at most."""
        return self.at_most

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request.

        Raises `InferenceError` for tokens or dimensions where they are not understood.
        """
        embed, losses = request.embed, Losses()
        if not self.tokens:
            only_texts(request, provider.name)
        body: dict[str, Any] = {"model": model, "input": _input(embed)}
        if self.words is not None:
            body["encoding_format"] = self.words[embed.format != JSON]
        if embed.HasField("dimensions"):
            if not self.dimensions:
                raise one_size(model)
            body[self.dimensions] = embed.dimensions
        for name, understood in (("user", self.user), ("input_type", self.input_type)):
            if embed.HasField(name) and understood:  # type: ignore[arg-type]
                body[name] = getattr(embed, name)
            elif embed.HasField(name):  # type: ignore[arg-type]
                losses.drop(name)
        for name, data in embed.extra.items():
            body.setdefault(name, orjson.Fragment(data))
        losses.refuse(request.platform, model)
        path = provider.quirks.get("paths", "{call}").replace("{call}", self.path)
        path = path.replace("{model}", segment(model)) if "{" in path else path
        return Call(path, orjson.dumps(body), _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        unpack = _floats_of_int8 if self.int8 else None
        return VectorDecoder(request, headers, _PLACE, self._read, unpack)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)

    def _read(self, rest: Any, headers: Mapping[str, str]) -> Said:
        if not isinstance(rest, dict) or not isinstance(rest.get("data"), list):
            raise self.errors(_status(rest), headers, orjson.dumps(rest))
        usage = rest.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        model = rest.get("model")
        tokens = count(usage.get("prompt_tokens"))
        if tokens is None:
            tokens = count(usage.get("total_tokens"))
        return Said(tokens, model if isinstance(model, str) else "")


def _input(embed: operations_pb2.EmbedRequest) -> Any:
    if embed.tokens:
        tokens = [list(tokens.ids) for tokens in embed.tokens]
        return tokens if len(tokens) > 1 else tokens[0]
    return list(embed.texts) if len(embed.texts) > 1 else embed.texts[0]


def _status(rest: Any) -> int:
    """The status that an error in a 200 answer names; 502 where it names none."""
    error = rest.get("error") if isinstance(rest, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 502


def _floats_of_int8(text: bytes) -> bytes:
    return array("f", array("b", a2b_base64(text))).tobytes()
