"""Turns the sources of an answer into OpenAI's url_citation annotations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Annotation = dict[str, Any]


def citations(candidate: dict[str, Any], text: str) -> list[Annotation]:
    """The annotations of a candidate's `groundingMetadata` and `citationMetadata`.

    Google counts bytes, OpenAI characters. A source that supports no passage stands at the end.
    """
    found = [
        {"type": "url_citation", "url_citation": citation}
        for citation in (*_grounded(candidate, text), *_cited(candidate, text))
    ]
    return [*{str(entry): entry for entry in found}.values()]


def searches(candidate: dict[str, Any]) -> int:
    """How many searches were made for the candidate."""
    return len(_list(_object(candidate, "groundingMetadata"), "webSearchQueries"))


def _grounded(candidate: dict[str, Any], text: str) -> Iterator[Annotation]:
    metadata = _object(candidate, "groundingMetadata")
    sources = [_source(chunk) for chunk in _list(metadata, "groundingChunks")]
    used = set()
    for support in _list(metadata, "groundingSupports"):
        segment = _object(support, "segment")
        start, end = _place(text, segment.get("startIndex"), segment.get("endIndex"))
        for number in _list(support, "groundingChunkIndices"):
            if isinstance(number, int) and 0 <= number < len(sources) and sources[number]:
                used.add(number)
                yield {"start_index": start, "end_index": end} | sources[number]
    for number, source in enumerate(sources):
        if source and number not in used:
            yield {"start_index": len(text), "end_index": len(text)} | source


def _cited(candidate: dict[str, Any], text: str) -> Iterator[Annotation]:
    metadata = _object(candidate, "citationMetadata")
    for citation in _list(metadata, "citations") + _list(metadata, "citationSources"):
        if isinstance(citation, dict) and citation.get("uri"):
            start, end = _place(text, citation.get("startIndex"), citation.get("endIndex"))
            yield {
                "start_index": start,
                "end_index": end,
                "title": citation.get("title") or "",
                "url": citation["uri"],
            }


def _source(chunk: Any) -> Annotation:
    if not isinstance(chunk, dict):
        return {}
    for kind in ("web", "maps", "retrievedContext"):
        source = _object(chunk, kind)
        if source.get("uri"):
            return {"title": source.get("title") or "", "url": source["uri"]}
    return {}


def _place(text: str, start: Any, end: Any) -> tuple[int, int]:
    """Offsets in bytes as offsets in characters."""
    data = text.encode()
    first = start if isinstance(start, int) else 0
    last = end if isinstance(end, int) else len(data)
    before, within = data[:first].decode(errors="ignore"), data[:last].decode(errors="ignore")
    return len(before), len(within)


def _object(owner: Any, name: str) -> dict[str, Any]:
    value = owner.get(name) if isinstance(owner, dict) else None
    return value if isinstance(value, dict) else {}


def _list(owner: dict[str, Any], name: str) -> list[Any]:
    value = owner.get(name) if isinstance(owner, dict) else None
    return value if isinstance(value, list) else []
