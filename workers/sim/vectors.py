"""What the simulator answers when it is asked for vectors, judgements and rankings.

All of it is a function of the request. A vector begins with three numbers of its own, and goes on
with those that all vectors share: so that 2,048 of them cost nearly nothing.
"""

from __future__ import annotations

import math
import zlib
from array import array
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from workers.sim.images import images
from workers.sim.knobs import BadRequestError

_DIMENSIONS = 1536
_OWN = 3  # numbers: 12 bytes, which are 16 characters of base64
_CHARS_PER_TOKEN = 4


def embeddings(request: dict[str, Any]) -> bytes:
    """The body of the answer to POST /v1/embeddings. Raises `BadRequestError`."""
    inputs = request.get("input")
    if isinstance(inputs, str) or (
        isinstance(inputs, list) and inputs and isinstance(inputs[0], int)
    ):
        inputs = [inputs]
    if not isinstance(inputs, list) or not inputs:
        raise BadRequestError("input must be a text, tokens, or a list of them", param="input")
    size = request.get("dimensions") or _DIMENSIONS
    if not isinstance(size, int) or not _OWN < size <= 1 << 16:
        raise BadRequestError("dimensions must be a whole number above 3", param="dimensions")
    write = _in_base64 if request.get("encoding_format") == "base64" else _as_numbers
    shared = _shared(size)
    data = b",".join(
        [
            b'{"object":"embedding","index":%d,"embedding":%b}'
            % (index, write(_seed(given), shared))
            for index, given in enumerate(inputs)
        ]
    )
    tokens = sum(_tokens(given) for given in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    ending = {"model": request["model"], "usage": usage}
    return b'{"object":"list","data":[%b],%b' % (data, orjson.dumps(ending)[1:])


def _seed(given: object) -> int:
    return zlib.crc32(given.encode() if isinstance(given, str) else orjson.dumps(given))


def _tokens(given: str | list[int]) -> int:
    return -(-len(given) // _CHARS_PER_TOKEN) if isinstance(given, str) else len(given)


@lru_cache(maxsize=16)
def _shared(size: int) -> tuple[bytes, bytes]:
    """The numbers that all vectors end with: JSON with its comma and bracket, and base64."""
    numbers = array("f", [math.sin(place) / 32 for place in range(size - _OWN)])
    return b"," + orjson.dumps(numbers.tolist())[1:], b64encode(numbers.tobytes())


def _own(seed: int) -> array[float]:
    return array("f", [(seed >> shift & 0x3FF) / 1024 for shift in (0, 10, 20)])


def _as_numbers(seed: int, shared: tuple[bytes, bytes]) -> bytes:
    return orjson.dumps(_own(seed).tolist())[:-1] + shared[0]


def _in_base64(seed: int, shared: tuple[bytes, bytes]) -> bytes:
    return b'"%b%b"' % (b64encode(_own(seed).tobytes()), shared[1])


def moderations(request: dict[str, Any]) -> bytes:
    """The body of the answer to POST /v1/moderations: a text is what it says it is."""
    given = request.get("input")
    if not given or not isinstance(given, str | list):
        raise BadRequestError("input must be a text or a list", param="input")
    parts: list[Any] = given if isinstance(given, list) else [given]
    if isinstance(parts[0], dict):
        parts = [" ".join(part.get("text") or "" for part in parts)]
    results = [
        {
            "flagged": any(name in text for name in _CATEGORIES),
            "categories": {name: name in text for name in _CATEGORIES},
            "category_scores": {name: 0.9 if name in text else 0.01 for name in _CATEGORIES},
            "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
        }
        for text in parts
    ]
    return orjson.dumps({"id": "modr-sim", "model": request["model"], "results": results})


def rerank(request: dict[str, Any]) -> bytes:
    """The body of the answer to POST /v1/rerank: best is who shares most words with the query."""
    documents = request.get("documents")
    if not isinstance(documents, list) or not documents:
        raise BadRequestError("documents must be a list", param="documents")
    words = set(str(request.get("query")).lower().split())
    shared = [len(words & set(str(text).lower().split())) for text in documents]
    best = sorted(range(len(documents)), key=lambda place: (-shared[place], place))
    results = [
        {"index": place, "relevance_score": shared[place] / max(1, len(words))}
        for place in best[: request.get("top_n") or len(best)]
    ]
    meta = {"billed_units": {"search_units": -(-len(documents) // 100)}}
    return orjson.dumps({"id": "sim", "results": results, "meta": meta})


_CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")
# What each path answers.
ANSWERS: Mapping[bytes, Callable[[dict[str, Any]], bytes | list[bytes]]] = {
    b"/v1/embeddings": embeddings,
    b"/v1/images/edits": images,
    b"/v1/images/generations": images,
    b"/v1/moderations": moderations,
    b"/v1/rerank": rerank,
}
