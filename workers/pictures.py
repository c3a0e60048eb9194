"""Pictures on their way to a provider and back: addresses, base64, sizes; pure."""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any

from broker.errors import InferenceError
from broker.v1 import event_pb2, operations_pb2
from workers.mediatypes import sniff
from workers.parameters import Losses
from workers.provider import Unreadable, data_of

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,")
_PIXELS = re.compile(r"(\d+)x(\d+)")
_FALLBACK = "image/png"


def media_type(attachment: operations_pb2.Attachment) -> str:
    """What a picture that was sent along is: by its first bytes, else as its sender said."""
    said = attachment.media_type.lower()
    return sniff(attachment.data) or (said if said.startswith("image/") else _FALLBACK)


def is_sent(attachment: operations_pb2.Attachment) -> bool:
    """Whether a picture's bytes came along, rather than where it is."""
    return attachment.HasField("data") or attachment.HasField("reference")


def base64_of(attachment: operations_pb2.Attachment, param: str) -> str:
    """A picture's bytes in base64.

    Raises `Detached` where they are still at the edge, `Unreadable` for one given by its address.
    """
    if not is_sent(attachment):
        raise unreadable(attachment, param)
    return b64encode(data_of(attachment)).decode()


def address_of(attachment: operations_pb2.Attachment, param: str) -> str:
    """An address that a provider can read: the picture's own, or its bytes as a data URL."""
    if attachment.HasField("url"):
        return attachment.url
    text = base64_of(attachment, param)
    return f"data:{media_type(attachment)};base64,{text}"


def unreadable(attachment: operations_pb2.Attachment, param: str) -> InferenceError:
    """The refusal of a picture that is not there as bytes."""
    if attachment.HasField("url"):
        return Unreadable("the provider takes the bytes of an image, not its address", param=param)
    message = "the provider knows no uploads: send the image itself"
    return InferenceError("invalid_request", message, param=param)


def leave_out(image: operations_pb2.ImageRequest, names: Iterable[str], losses: Losses) -> None:
    """Drop the fields that a format lacks which answers with the pictures themselves."""
    for name in names:
        if image.HasField(name):  # type: ignore[arg-type]
            losses.drop(name)
    if image.response_format == "url":
        losses.drop("response_format")


def drawn(item: int, text: str) -> event_pb2.Event:
    """A finished picture of base64 text or a data URL."""
    return event_pb2.Event(image=event_pb2.ImageDelta(item=item, image=inline(text)))


def inline(text: Any) -> Any:
    """The bytes of base64 text or a data URL. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("a picture is no text")  # noqa: TRY004  what readers of answers raise
    head = _DATA_URL.match(text, 0, 200)
    try:
        data = binascii.a2b_base64(text[head.end() :] if head else text)
    except binascii.Error as exc:
        raise ValueError(f"a picture is no base64: {exc}") from exc
    if not data:
        raise ValueError("a picture is empty")
    delta = event_pb2.ImageDelta()
    delta.image.data = data
    delta.image.media_type = sniff(data) or (head[1] if head else "") or _FALLBACK
    return delta.image


def pixels(size: str) -> tuple[int, int] | None:
    """Width and height; None for `auto`."""
    found = _PIXELS.fullmatch(size)
    return (int(found[1]), int(found[2])) if found else None


def nearest_ratio(size: str, ratios: Sequence[str]) -> str | None:
    """The one of `ratios`, such as 16:9, that comes nearest to a size; None for `auto`."""
    wanted = pixels(size)
    if wanted is None:
        return None

    def distance(ratio: str) -> float:
        width, height = map(float, ratio.split(":"))
        found = width / height * wanted[1] / wanted[0]
        return max(found, 1 / found)

    return min(ratios, key=distance)
