"""Embeddings in OpenAI's format: the body of a request, and the whole answer.

Vectors pass through as the bytes that the provider wrote, unless the caller reads another format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.answer import Fold
from broker.translate import vectors, wire
from broker.translate.body import as_it_is, read_body, refuse_known, shaped, write_rest
from broker.translate.form import JSON
from broker.translate.refusals import invalid
from broker.translate.usage import prompt_tokens
from broker.v1 import event_pb2, generation_pb2, operations_pb2

# Whatever a provider takes in one call: the worker makes several.
_MOST_INPUTS = 10_000
# A body above this is written in pieces rather than put together.
_LARGE = 1 << 20
_FORMATS = {"float": vectors.JSON, "base64": vectors.BASE64}
_json = msgspec.json.Encoder().encode


class EmbeddingsRequest(wire.Platform):
    """An embeddings request."""

    model: wire.Model
    input: Annotated[
        str | list[Any],
        Meta(
            description="A string, an array of up to 10,000 strings, an array of tokens, or an "
            "array of up to 10,000 arrays of tokens; none of them empty."
        ),
    ]
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    encoding_format: Annotated[
        str | None, Meta(description="`float` (the default) or `base64`.")
    ] = None
    user: str | None = None
    input_type: Annotated[
        str | None,
        Meta(
            description="What the vectors are for, where a provider asks: search_document, "
            "search_query, classification, clustering."
        ),
    ] = None


_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Text = Annotated[str, Meta(min_length=1)]


class _OneText(Struct):
    input: _Text


class _Texts(Struct):
    input: Annotated[list[_Text], Meta(min_length=1, max_length=_MOST_INPUTS)]


class _Tokens(Struct):
    input: list[_Token]


class _TokenLists(Struct):
    input: Annotated[
        list[Annotated[list[_Token], Meta(min_length=1)]], Meta(max_length=_MOST_INPUTS)
    ]


def parse_embeddings(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    asked = _checked(source)
    request = generation_pb2.Request()
    embed = request.embed
    embed.model = asked.model
    embed.format = _FORMATS[asked.encoding_format or "float"]
    _write_input(embed, asked.input)
    write_rest(request, embed, source, _WRITERS, _DONE)
    return request


def check_embed(request: generation_pb2.Request, body: dict[str, Any]) -> None:
    """The same checks for typed messages; `body` has what is not the operation's own."""
    embed = request.embed
    if embed.texts and embed.tokens:
        raise invalid("input", "Give 'texts' or 'tokens', not both.")
    if embed.format not in operations_pb2.VectorFormat.values():
        raise invalid("encoding_format", f"Invalid value for 'encoding_format': {embed.format}.")
    body["input"] = list(embed.texts) or [list(tokens.ids) for tokens in embed.tokens]
    for field, value in embed.ListFields():
        if field.name in ("model", "dimensions", "user", "input_type"):
            body[field.name] = value
    _checked(body)
    refuse_known(embed.extra, EmbeddingsRequest)


def _checked(source: Any) -> EmbeddingsRequest:
    asked = shaped(source, EmbeddingsRequest)
    shaped({"input": asked.input}, _shape_of(asked.input))
    if asked.encoding_format not in (None, *_FORMATS):
        known = ", ".join(f"'{word}'" for word in _FORMATS)
        message = f"Invalid value: {asked.encoding_format!r:.60}. Supported values are: {known}."
        raise invalid("encoding_format", message)
    return asked


def _shape_of(given: str | list[Any]) -> type[Struct]:
    """What an input has to be all through, by how it begins."""
    if isinstance(given, str):
        return _OneText
    first = given[0] if given else ""
    if isinstance(first, list):
        return _TokenLists
    return _Tokens if isinstance(first, int) else _Texts


def _write_input(embed: operations_pb2.EmbedRequest, given: str | list[Any]) -> None:
    if isinstance(given, str):
        embed.texts.append(given)
    elif isinstance(given[0], str):
        embed.texts.extend(given)
    else:
        for ids in given if isinstance(given[0], list) else [given]:
            embed.tokens.add().ids.extend(ids)


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    name: as_it_is(name) for name in ("dimensions", "user", "input_type")
}
_DONE = frozenset({"model", "input", "encoding_format"})


class _Usage(Struct):
    prompt_tokens: int
    total_tokens: int
    estimated: bool | UnsetType = UNSET


class EmbeddingsAnswer:
    """Takes the events of one answer in and renders the list of embeddings."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._fold = Fold()
        self._format = request.embed.format

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes | Iterator[bytes]:
        """The body, once the answer is complete; a very large one in pieces."""
        some = sorted(self._fold.vectors, key=lambda some: some.first)
        # What is rendered on the way must not fail: texts of others may be no vectors.
        sure = all(one.format in (self._format, vectors.FLOAT32) for one in some)
        if sure and sum(one.ByteSize() for one in some) > _LARGE:
            return self._pieces(some)
        return b"".join(self._pieces(some))

    def _pieces(self, vectors_in_order: list[operations_pb2.Vectors]) -> Iterator[bytes]:
        """The body, with some of the vectors in each piece but the first and the last."""
        quote = b'"' if self._format == vectors.BASE64 else b""
        # Between the number of an embedding and its vector, and between two embeddings.
        opening = b',"embedding":' + quote
        closing = quote + b"}"
        before = b'{"object":"list","data":[{"object":"embedding","index":'
        for some in vectors_in_order:
            parts: list[bytes] = []
            for index, value in enumerate(vectors.values_as(some, self._format), some.first):
                parts += (before, b"%d" % index, opening, value, closing)
                before = b',{"object":"embedding","index":'
            yield b"".join(parts)
        if not vectors_in_order:
            yield b'{"object":"list","data":['
        used = self._fold.usage or event_pb2.Usage()
        count = prompt_tokens(used)
        usage = _Usage(count, count, used.estimated or UNSET)
        yield b'],"model":%b,"usage":%b}' % (_json(self._fold.started.model), _json(usage))
