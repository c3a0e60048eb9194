"""Turns Claude's citations into annotations."""

from __future__ import annotations

from typing import Any


def annotation(citation: Any, start: int, end: int) -> Any:
    """A citation of a web page as OpenAI writes it; any other, which OpenAI lacks, as it came.

    `start` and `end` are where the citing text stands in the answer, in characters.
    """
    if not isinstance(citation, dict) or not citation.get("url"):
        return citation
    return {
        "type": "url_citation",
        "url_citation": {
            "url": citation["url"],
            "title": citation.get("title") or "",
            "start_index": start,
            "end_index": end,
        },
    }
