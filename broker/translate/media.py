"""Reads inline media: `data:` URLs and base64 in the spellings that clients use."""

from __future__ import annotations

import binascii
import re

from broker.translate.refusals import invalid
from broker.v1 import content_pb2

# RFC 2397: data:[<media type>][;parameter...][;base64],<data>
_HEAD = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>(?:;[^;,]*)*),", re.IGNORECASE)
_PERCENT = re.compile(rb"%([0-9a-fA-F]{2})")
_BLANK = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")
_LONGEST_HEAD = 256


def is_data_url(text: str) -> bool:
    """Whether an address carries its content itself."""
    return text[:5].lower() == "data:"


def is_address(text: str) -> bool:
    """Whether a text is an address to fetch rather than content."""
    return text[:8].lower().startswith(("http://", "https://"))


def read_data_url(inline: content_pb2.InlineData, url: str, param: str) -> None:
    """Fill `inline` from a `data:` URL."""
    head = _HEAD.match(url, 0, _LONGEST_HEAD)
    if head is None:
        raise invalid(
            param, f"Invalid '{param}': not a data URL of the form data:<type>;base64,<data>."
        )
    parameters = head["parameters"].split(";")
    inline.media_type = head["type"].lower()
    if any(word.strip().lower() == "base64" for word in parameters):
        inline.data = read_base64(url[head.end() :], param)
        return
    plain = url[head.end() :].encode()
    inline.data = _PERCENT.sub(lambda found: bytes((int(found[1], 16),)), plain)


def read_base64(text: str, param: str) -> bytes:
    """The bytes that base64 text stands for; line breaks, URL-safe letters, no padding pass."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, or a letter outside ASCII
        pass
    tidy = _BLANK.sub("", text).translate(_URL_SAFE).rstrip("=")
    try:
        return binascii.a2b_base64(tidy + "=" * (-len(tidy) % 4), strict_mode=True)
    except ValueError as exc:
        message = f"Invalid '{param}': not base64-encoded data."
        raise invalid(param, message, "invalid_base64") from exc
