"""Rankings in Cohere's format: the body of a request, and the whole answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from broker.answer import Fold
from broker.translate import wire
from broker.translate.body import as_it_is, read_body, refuse_known, shaped, write_rest
from broker.translate.form import JSON
from broker.translate.json_bytes import read_object
from broker.translate.refusals import json_text, missing
from broker.translate.usage import prompt_tokens
from broker.v1 import event_pb2, generation_pb2, operations_pb2

_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_SCALARS = ("top_n", "return_documents", "max_chunks_per_doc", "max_tokens_per_doc")
_json = msgspec.json.Encoder().encode


class RerankRequest(wire.Platform):
    """A rerank request."""

    model: wire.Model
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[
        list[str | wire.Json], Meta(min_length=1, description="Texts, or objects with fields.")
    ]
    top_n: _Count | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: _Count | None = None
    max_tokens_per_doc: _Count | None = None
    rank_fields: list[str] | None = None


def parse_rerank(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    asked = shaped(source, RerankRequest)
    request = generation_pb2.Request()
    rerank = request.rerank
    rerank.model = asked.model
    rerank.query = asked.query
    for index, document in enumerate(asked.documents):
        if isinstance(document, str):
            rerank.documents.add().text = document
        else:
            rerank.documents.add().json = json_text(document, f"documents[{index}]")
    write_rest(request, rerank, source, _WRITERS, _DONE)
    return request


def _rank_fields(rerank: operations_pb2.RerankRequest, value: list[str]) -> None:
    rerank.rank_fields.extend(value)


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    **{name: as_it_is(name) for name in _SCALARS},
    "rank_fields": _rank_fields,
}
_DONE = frozenset({"model", "query", "documents"})


def check_rerank(request: generation_pb2.Request, body: dict[str, Any]) -> None:
    """The same checks for typed messages; `body` has what is not the operation's own."""
    rerank = request.rerank
    for field, value in rerank.ListFields():
        if field.name in ("model", "query", *_SCALARS):
            body[field.name] = value
    body["documents"] = [document.text for document in rerank.documents]
    shaped(body, RerankRequest)
    for index, document in enumerate(rerank.documents):
        if document.WhichOneof("kind") is None:
            raise missing(f"documents[{index}]")
        if document.HasField("json"):
            read_object(document.json, f"documents[{index}]")
    refuse_known(rerank.extra, RerankRequest)


class RerankAnswer:
    """Takes the events of one answer in and renders the ranking."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._fold = Fold()
        self._id = answer_id
        self._rerank = request.rerank

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes:
        """The body, once the answer is complete."""
        used = self._fold.usage or event_pb2.Usage()
        meta: dict[str, Any] = {"api_version": {"version": "2"}}
        if used.HasField("search_units"):
            units = used.search_units
            meta["billed_units"] = {"search_units": int(units) if units == int(units) else units}
        if tokens := prompt_tokens(used):
            meta["tokens"] = {"input_tokens": tokens}
        results = [self._result(place) for place in self._fold.ranked]
        return _json({"id": self._id, "results": results, "meta": meta})

    def _result(self, place: operations_pb2.Ranked) -> dict[str, Any]:
        result: dict[str, Any] = {
            "index": place.index,
            "relevance_score": place.relevance_score,
        }
        if self._rerank.return_documents:
            given = self._rerank.documents[place.index]
            result["document"] = Raw(given.json) if given.HasField("json") else {"text": given.text}
        return result
