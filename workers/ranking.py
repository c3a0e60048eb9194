"""What formats of reranking share: documents as texts, and places of a ranking; pure."""

from __future__ import annotations

import json
from typing import Any

import orjson

from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.parameters import Losses

# Of which one says how long a document may be, each in its own unit.
LIMITS = ("max_tokens_per_doc", "max_chunks_per_doc")


def texts_of(rerank: operations_pb2.RerankRequest) -> list[str]:
    """The documents as texts: of objects the fields to rank by, as YAML."""
    fields = list(rerank.rank_fields)
    return [text_of(document, fields) for document in rerank.documents]


def text_of(given: operations_pb2.RerankDocument, fields: list[str]) -> str:
    """One document as text."""
    if not given.HasField("json"):
        return given.text
    shown = orjson.loads(given.json)
    if fields:
        shown = {name: shown[name] for name in fields if name in shown}
    return "\n".join(f"{name}: {_plain(value)}" for name, value in shown.items())


def _plain(value: Any) -> str:
    """A value as YAML has it; texts without quotes, as a model reads them best."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def limits_into(
    body: dict[str, Any],
    rerank: operations_pb2.RerankRequest,
    known: tuple[str, ...],
    losses: Losses,
) -> None:
    """Write the limits that a provider knows; note the others as left out."""
    for name in LIMITS:
        if rerank.HasField(name) and name in known:  # type: ignore[arg-type]
            body[name] = getattr(rerank, name)
        elif rerank.HasField(name):  # type: ignore[arg-type]
            losses.drop(name)


def place(index: Any, score: Any, request: generation_pb2.Request) -> event_pb2.Event:
    """One place of a ranking. Raises ValueError for a document that was not given."""
    number = int(index)
    if not 0 <= number < len(request.rerank.documents):
        raise ValueError(f"there is no document {number}")
    return event_pb2.Event(ranked=operations_pb2.Ranked(index=number, relevance_score=float(score)))
