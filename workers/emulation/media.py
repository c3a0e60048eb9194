"""Finds the images and files that a provider does not read by their address, and puts bytes there.

What they are is told by their first bytes, never by what the server says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)

_TAIL = re.compile(r"[?#].*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """An image or file that is given by its address, and where in the request."""

    url: str
    path: str
    part: content_pb2.Part

    @property
    def is_image(self) -> bool:
        """Whether it has to be an image."""
        return self.part.HasField("image")


def unread(
    request: generation_pb2.Request, reads: Callable[[content_pb2.Part], bool]
) -> list[Address]:
    """The http(s) addresses that have to be fetched, as the provider does not read them."""
    return [
        found
        for number, message in enumerate(_asked(request).messages)
        for found in _addresses(message.parts, f"messages[{number}].content")
        if found.url.lower().startswith(("http://", "https://")) and not reads(found.part)
    ]


def _asked(request: generation_pb2.Request) -> generation_pb2.GenerateRequest:
    counts = request.HasField("count_tokens")
    return request.count_tokens if counts else request.generate


def _addresses(parts: Iterable[content_pb2.Part], path: str) -> Iterator[Address]:
    for number, part in enumerate(parts):
        where = f"{path}[{number}]"
        kind = part.WhichOneof("kind")
        if kind == "tool_result":
            # A tool's message is one result: its parts are the message's content.
            yield from _addresses(part.tool_result.parts, path)
        elif kind == "image" and part.image.HasField("url"):
            yield Address(part.image.url, f"{where}.image_url", part)
        elif kind == "file" and part.file.HasField("url"):
            yield Address(part.file.url, f"{where}.file", part)


def put(address: Address, data: bytes) -> None:
    """Writes the bytes in place of the address. Raises `InferenceError` for no known image."""
    media_type = sniff(data)
    if address.is_image:
        if not media_type.startswith("image/"):
            raise InferenceError(
                "invalid_request",
                "there is no image at this address: PNG, JPEG, WebP and GIF are known",
                param=address.path,
            )
        address.part.image.inline.media_type = media_type
        address.part.image.inline.data = data
        return
    file = address.part.file
    name = _TAIL.sub("", address.url).rpartition("/")[2]
    if not file.filename and name:
        file.filename = name
    file.inline.media_type = media_type
    file.inline.data = data


def sniff(data: bytes) -> str:
    """The media type of an image or PDF by its first bytes; empty for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), "")


def copied(request: generation_pb2.Request) -> generation_pb2.Request:
    """A copy that bytes can be put into: the job's own request stays as it came."""
    copy: Any = generation_pb2.Request()
    copy.CopyFrom(request)
    return copy  # type: ignore[no-any-return]
