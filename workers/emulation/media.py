"""Finds the images and files that a provider does not read by their address, and puts bytes there.

What they are is told by their first bytes, never by what the server says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2, operations_pb2
from workers.mediatypes import sniff

_TAIL = re.compile(r"[?#].*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """An image or file that is given by its address, and where in the request."""

    url: str
    path: str
    # A `Part`, or an `Attachment`, which is an image.
    part: Any

    @property
    def is_image(self) -> bool:
        """Whether it has to be an image."""
        return isinstance(self.part, operations_pb2.Attachment) or bool(self.part.image.url)


def unread(
    request: generation_pb2.Request, reads: Callable[[content_pb2.Part], bool]
) -> list[Address]:
    """The http(s) addresses that have to be fetched, as the provider does not read them."""
    if request.HasField("image"):
        return list(_pictures(request.image))
    return [
        found
        for number, message in enumerate(_asked(request).messages)
        for found in _addresses(message.parts, f"messages[{number}].content")
        if found.url.lower().startswith(("http://", "https://")) and not reads(found.part)
    ]


def _asked(request: generation_pb2.Request) -> generation_pb2.GenerateRequest:
    counts = request.HasField("count_tokens")
    return request.count_tokens if counts else request.generate


def _pictures(asked: operations_pb2.ImageRequest) -> Iterator[Address]:
    """The pictures of an image request that are given by address."""
    given = [(f"images[{index}]", one) for index, one in enumerate(asked.images)]
    if asked.HasField("mask"):
        given.append(("mask", asked.mask))
    for path, one in given:
        if one.url.lower().startswith(("http://", "https://")):
            yield Address(one.url, f"{path}.image_url", one)


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
        if isinstance(address.part, operations_pb2.Attachment):
            address.part.media_type = media_type
            address.part.data = data
            return
        address.part.image.inline.media_type = media_type
        address.part.image.inline.data = data
        return
    file = address.part.file
    name = _TAIL.sub("", address.url).rpartition("/")[2]
    if not file.filename and name:
        file.filename = name
    file.inline.media_type = media_type
    file.inline.data = data


def copied(request: generation_pb2.Request) -> generation_pb2.Request:
    """A copy that bytes can be put into: the job's own request stays as it came."""
    copy: Any = generation_pb2.Request()
    copy.CopyFrom(request)
    return copy  # type: ignore[no-any-return]
