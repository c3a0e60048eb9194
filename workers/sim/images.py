"""What the simulator draws: small squares of one colour, which follows from the prompt.

A partial picture is darker, and lighter with each one. The knob `bytes` makes pictures as large.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import orjson

from workers.sim.knobs import BadRequestError, knobs_of

_SIDE = 16
_CHARS_PER_TOKEN = 4
_TOKENS_PER_IMAGE = 272


def images(request: dict[str, Any]) -> bytes | list[bytes]:
    """The answer to POST /v1/images/generations or edits: a body, or the events of a stream."""
    prompt = request.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise BadRequestError("prompt must be a text", param="prompt")
    count = request.get("n") or 1
    if not isinstance(count, int) or not 1 <= count <= 10:
        raise BadRequestError("n must be a whole number from 1 to 10", param="n")
    given = request.get("images") or ()
    seeds = [zlib.crc32(f"{prompt}{number}".encode()) for number in range(count)]
    large = knobs_of(request["model"], request.get("sim")).bytes or 0
    facts = {
        "background": request.get("background") or "opaque",
        "output_format": "png",
        "quality": request.get("quality") or "medium",
        "size": request.get("size") or "1024x1024",
    }
    usage = _usage(prompt, len(given), count)
    if request.get("stream") is True:
        name = "image_edit" if given else "image_generation"
        shown = _stages(seeds, request.get("partial_images") or 0, large)
        return [_event(f"{name}.{kind}", {**fields, **facts}, usage) for kind, fields in shown]
    data = [{"b64_json": _text(png(seed, large=large))} for seed in seeds]
    return orjson.dumps({"created": 1_700_000_000, "data": data, **facts, "usage": usage})


def _stages(seeds: list[int], partial: int, large: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and fields of each event."""
    for seed in seeds:
        for index in range(partial):
            picture = png(seed, shade=(index + 1) / (partial + 1), large=large)
            yield "partial_image", {"b64_json": _text(picture), "partial_image_index": index}
        yield "completed", {"b64_json": _text(png(seed, large=large))}


def _event(kind: str, fields: dict[str, Any], usage: dict[str, Any]) -> bytes:
    shown = {"type": kind, "created_at": 1_700_000_000, **fields}
    if kind.endswith("completed"):
        shown["usage"] = usage
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(shown))


def _usage(prompt: str, given: int, count: int) -> dict[str, Any]:
    text = -(-len(prompt) // _CHARS_PER_TOKEN)
    seen, drawn = given * _TOKENS_PER_IMAGE, count * _TOKENS_PER_IMAGE
    return {
        "input_tokens": text + seen,
        "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
        "output_tokens": drawn,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
        "total_tokens": text + seen + drawn,
    }


def png(seed: int, *, shade: float = 1.0, large: int = 0) -> bytes:
    """A square of one colour, as a PNG of at least `large` bytes."""
    colour = bytes(round((seed >> shift & 0xFF) * shade) for shift in (0, 8, 16))
    rows = (b"\x00" + colour * _SIDE) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows))]
    if large:
        chunks.insert(1, (b"tEXt", b"Comment\x00" + b"x" * large))
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _text(data: bytes) -> str:
    return b64encode(data).decode()
