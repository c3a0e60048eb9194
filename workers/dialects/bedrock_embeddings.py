"""Embeddings of Bedrock's InvokeModel: each maker's models have a format of their own.

See https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html.
"""

from __future__ import annotations

import re
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
from workers.regions import base_url_for
from workers.standins import read_json
from workers.vectors import Place, Said, VectorDecoder, extras_into, one_size, only_texts

_HEADERS = {"content-type": "application/json", "accept": "application/json"}
# Where Titan and Nova have a vector, and where Cohere's models have theirs.
_PLACE = Place.value("embedding") | Place.array("embeddings", "float")
# Bodies count tokens for some models alone.
_TOKENS = "x-amzn-bedrock-input-token-count"
_ONE = Most(1)

_Embed = operations_pb2.EmbedRequest
_Body = dict[str, Any]


def _titan_1(embed: _Embed, model: str) -> _Body:
    if embed.HasField("dimensions"):
        raise one_size(model)
    return {"inputText": embed.texts[0]}


def _titan_2(embed: _Embed, _model: str) -> _Body:
    body: _Body = {"inputText": embed.texts[0]}
    if embed.HasField("dimensions"):
        body["dimensions"] = embed.dimensions
    return body


def _titan_image(embed: _Embed, _model: str) -> _Body:
    body: _Body = {"inputText": embed.texts[0]}
    if embed.HasField("dimensions"):
        body["embeddingConfig"] = {"outputEmbeddingLength": embed.dimensions}
    return body


# What vectors are for -> Nova's word.
_PURPOSES = {
    "search_document": "GENERIC_INDEX",
    "search_query": "GENERIC_RETRIEVAL",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}


def _nova(embed: _Embed, _model: str) -> _Body:
    purpose = _PURPOSES.get(embed.input_type, embed.input_type.upper()) or "GENERIC_INDEX"
    truncate = read_json(embed.extra["truncate"], "truncate") if "truncate" in embed.extra else None
    text = {"value": embed.texts[0], "truncationMode": truncate or "NONE"}
    params: _Body = {"embeddingPurpose": purpose, "text": text}
    if embed.HasField("dimensions"):
        params["embeddingDimension"] = embed.dimensions
    return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": params}


def _cohere_3(embed: _Embed, model: str) -> _Body:
    if embed.HasField("dimensions"):
        raise one_size(model)
    return _cohere(embed)


def _cohere_4(embed: _Embed, _model: str) -> _Body:
    body = {**_cohere(embed), "embedding_types": ["float"]}
    if embed.HasField("dimensions"):
        body["output_dimension"] = embed.dimensions
    return body


def _cohere(embed: _Embed) -> _Body:
    return {
        "texts": list(embed.texts),
        "input_type": embed.input_type or "search_document",
        "truncate": "NONE",
    }


@dataclass(frozen=True, slots=True)
class _Format:
    """One maker's; `own` are its fields that OpenAI's API lacks."""

    write: Callable[[_Embed, str], _Body]
    most: Most = _ONE
    purpose: bool = False
    own: frozenset[str] = frozenset()
    # Written by `write` already.
    read: frozenset[str] = frozenset()


_TEXTS = Most(96)
_TRUNCATE = frozenset({"truncate"})

# Words of a model's id or ARN -> its format; the first that is in it counts.
_FORMATS: tuple[tuple[re.Pattern[str], _Format], ...] = tuple(
    (re.compile(words), form)
    for words, form in (
        (r"titan-embed-text-v2", _Format(_titan_2, own=frozenset({"normalize"}))),
        (r"titan-embed-image", _Format(_titan_image)),
        (r"titan-embed", _Format(_titan_1)),
        (r"nova-.*embed", _Format(_nova, purpose=True, read=_TRUNCATE)),
        (
            r"cohere\.embed-(english|multilingual)-v3",
            _Format(_cohere_3, _TEXTS, purpose=True, own=_TRUNCATE),
        ),
        (
            r"cohere\.embed-",
            _Format(_cohere_4, _TEXTS, purpose=True, own=_TRUNCATE | {"max_tokens", "priority"}),
        ),
    )
)


def _format_of(model: str) -> _Format:
    for words, form in _FORMATS:
        if words.search(model):
            return form
    raise InferenceError(
        "unsupported_operation",
        f"{model} is none of Bedrock's embedding models that are known here: Titan, Nova and "
        "Cohere's; an inference profile has to be named by the model's own id",
        param="model",
    )


@dataclass(frozen=True, slots=True)
class BedrockEmbeddings:
    """The dialect; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def most(self, model: str) -> Most:
        """What one call takes at most. Raises `InferenceError` for a model of no known format."""
        return _format_of(model).most

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. A text that is too long is an error, as at OpenAI.

        Raises `InferenceError` for tokens, and for dimensions where there is no choice.
        """
        embed, losses = request.embed, Losses()
        only_texts(request, provider.name)
        form = _format_of(model)
        body = form.write(embed, model)
        if embed.HasField("input_type") and not form.purpose:
            losses.drop("input_type")
        given: _Body = {}
        extras_into(given, embed, form.own | form.read, losses)
        body |= {name: value for name, value in given.items() if name not in form.read}
        losses.refuse(request.platform, model)
        return Call(
            f"/model/{segment(model)}/invoke",
            orjson.dumps(body),
            _HEADERS,
            dropped=losses.names,
            base_url=base_url_for(model, request.platform.region, provider.base_url),
        )

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return VectorDecoder(request, headers, _PLACE, self._read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)

    def _read(self, rest: Any, headers: Mapping[str, str]) -> Said:
        if not isinstance(rest, dict) or not {"embedding", "embeddings"} & rest.keys():
            raise self.errors(502, headers, orjson.dumps(rest))
        tokens = count(headers.get(_TOKENS))
        return Said(count(rest.get("inputTextTokenCount")) if tokens is None else tokens)
