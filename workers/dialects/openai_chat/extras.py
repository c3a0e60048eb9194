"""What single servers put beside an answer, in the terms that all share.

OpenRouter's `reasoning_details` go back verbatim on the next turn, so its pieces are put together;
Perplexity's list of sources becomes annotations; Together's log probabilities become OpenAI's.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from broker.v1 import event_pb2
from workers.dialects.openai_chat.parts import ISSUER

_MARK = re.compile(r"\[(\d{1,3})\]")
# What grows from piece to piece; all else is said once, and the last word counts.
_GROWING = ("text", "summary")


class Details:
    """The `reasoning_details` of one choice, piece by piece."""

    def __init__(self) -> None:
        self._whole: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, pieces: Any) -> None:
        """The list of one chunk; what is no list of objects is nothing."""
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                self._add(piece)

    def events(self, choice: int, item: int) -> list[event_pb2.Event]:
        """One blob for each detail, for the reasoning that is output item `item`."""
        events = []
        for detail in self._whole.values():
            event = event_pb2.Event()
            event.blob.choice = choice
            event.blob.item = item
            event.blob.blob.issuer = ISSUER
            event.blob.blob.kind = "reasoning_details"
            event.blob.blob.data = orjson.dumps(detail)
            events.append(event)
        return events

    def __bool__(self) -> bool:
        return bool(self._whole)

    def _add(self, piece: dict[str, Any]) -> None:
        whole = self._whole.setdefault((str(piece.get("type")), str(piece.get("index"))), {})
        for name, value in piece.items():
            before = whole.get(name)
            if name in _GROWING and isinstance(before, str) and isinstance(value, str):
                whole[name] = before + value
            elif value is not None or name not in whole:
                whole[name] = value


def citations(sources: Any, text: str) -> list[bytes]:
    """JSON of an annotation for every mark such as [2] in the text, and for sources without one.

    `sources` is a list of addresses, or of objects with url and title; [1] is the first.
    """
    found = [_source(source) for source in sources] if isinstance(sources, list) else []
    places: list[list[tuple[int, int]]] = [[] for _ in found]
    for mark in _MARK.finditer(text):
        number = int(mark[1])
        if 1 <= number <= len(places):
            places[number - 1].append(mark.span())
    written = []
    for (url, title), spans in zip(found, places, strict=True):
        for start, end in spans or [(0, 0)] if url else ():
            citation = {"url": url, "title": title, "start_index": start, "end_index": end}
            written.append(orjson.dumps({"type": "url_citation", "url_citation": citation}))
    return written


def token_logprobs(raw: bytes) -> bytes:
    """OpenAI's array for {"tokens": [...], "token_logprobs": [...]}; empty for any other form."""
    found = orjson.loads(raw)
    tokens, values = (found.get("tokens"), found.get("token_logprobs")) if found else (None, None)
    if not (isinstance(tokens, list) and isinstance(values, list)):
        return b""
    others = found.get("top_logprobs")
    tops = others if isinstance(others, list) else []
    content = []
    for index, (token, value) in enumerate(zip(tokens, values, strict=False)):
        top = tops[index] if index < len(tops) and isinstance(tops[index], dict) else {}
        content.append(
            {**_token(token, value), "top_logprobs": [_token(t, v) for t, v in top.items()]}
        )
    return orjson.dumps(content) if content else b""


def _token(token: Any, value: Any) -> dict[str, Any]:
    text = str(token)
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def _source(source: Any) -> tuple[str, str]:
    if isinstance(source, dict):
        url, title = source.get("url"), source.get("title")
        url = url if isinstance(url, str) else ""
        return url, title if isinstance(title, str) and title else url
    return (source, source) if isinstance(source, str) else ("", "")
