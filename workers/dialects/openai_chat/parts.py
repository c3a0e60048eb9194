"""Writes the hub's content parts as the parts of a chat message."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2
from workers.fragments import fragment, merge
from workers.provider import Unreadable

# What this dialect calls itself on content that only it may get back.
ISSUER = "openai_chat"


def written_parts(
    parts: Iterable[content_pb2.Part], where: str, quirks: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The parts; those of other dialects are left out."""
    cache_control = quirks.get("cache_control") == "send"
    written: list[dict[str, Any]] = []
    for index, part in enumerate(parts):
        one = _part(part, f"{where}.content[{index}]", quirks)
        if one is None:
            continue
        if part.extra:
            merge(one, part.extra, f"{where}.content[{index}].")
        if part.cache_control and cache_control:
            one["cache_control"] = fragment(part.cache_control, f"{where}.cache_control")
        written.append(one)
    return written


def as_content(written: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Parts as a message's content; a single plain text is a string, which every server knows."""
    if len(written) == 1 and written[0].keys() == {"type", "text"}:
        text: str = written[0]["text"]
        return text
    return written or ""


def as_parts(content: Any) -> list[dict[str, Any]]:
    """A message's content as parts."""
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _part(part: content_pb2.Part, where: str, quirks: Mapping[str, str]) -> dict[str, Any] | None:
    """One content part; None for what belongs to another dialect."""
    kind = part.WhichOneof("kind")
    if kind == "text":
        return {"type": "text", "text": part.text.text}
    if kind == "image":
        return _image(part.image, where, quirks)
    if kind == "audio":
        data = base64.b64encode(part.audio.inline.data).decode()
        audio = {"data": data, "format": part.audio.format}
        bare = quirks.get("audio") == "bare"
        return {"type": "input_audio", "input_audio": data if bare else audio}
    if kind == "file":
        return _file(part.file, where, quirks)
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.refusal.text}
    if kind == "opaque" and part.opaque.issuer == ISSUER:
        return _opaque(part.opaque, where)
    return None


def _opaque(opaque: content_pb2.Opaque, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(opaque.json)
    except orjson.JSONDecodeError as exc:
        raise InferenceError("invalid_request", f"{where} is not JSON: {exc}", param=where) from exc
    return value if isinstance(value, dict) else {"type": opaque.type}


def _image(image: content_pb2.Image, where: str, quirks: Mapping[str, str]) -> dict[str, Any]:
    source = image.WhichOneof("source")
    if source == "url" and quirks.get("image_addresses") == "fetch":
        raise Unreadable("Images have to be sent inline here, as a data URL.", param=where)
    if source == "file_id":
        return {"type": "file", "file": {"file_id": image.file_id}}
    url = image.url if source == "url" else _data_url(image.inline, "image/png")
    written = {"url": url}
    if image.HasField("detail"):
        written["detail"] = image.detail
    return {"type": "image_url", "image_url": written}


def _file(file: content_pb2.File, where: str, quirks: Mapping[str, str]) -> dict[str, Any]:
    if (own := _FILES.get(quirks.get("files", ""))) is not None:
        return own(file)
    source = file.WhichOneof("source")
    fetches_images = quirks.get("image_addresses") == "fetch"
    if source == "url" and quirks.get("file_addresses") != "send":
        raise Unreadable(
            "Files have to be sent inline here, as a data URL.",
            param=where,
            reads=lambda other: other.HasField("image") and not fetches_images,
        )
    if source == "file_id":
        written = {"file_id": file.file_id}
    else:
        written = {"file_data": file.url if source == "url" else _data_url(file.inline, "")}
    if file.HasField("filename"):
        written["filename"] = file.filename
    return {"type": "file", "file": written}


def _document_url(file: content_pb2.File) -> dict[str, Any]:
    if file.HasField("file_id"):
        return {"type": "file", "file_id": file.file_id}
    url = file.url or _data_url(file.inline, "application/pdf")
    written = {"type": "document_url", "document_url": url}
    return written | ({"document_name": file.filename} if file.HasField("filename") else {})


def _file_url(file: content_pb2.File) -> dict[str, Any]:
    # An address, or the bytes themselves.
    url = file.url or base64.b64encode(file.inline.data).decode()
    written: dict[str, Any] = {"type": "file_url", "file_url": {"url": url}}
    return written | ({"file_name": file.filename} if file.HasField("filename") else {})


# Other forms of a file, by the quirk `files`; their servers read addresses.
_FILES: Mapping[str, Callable[[content_pb2.File], dict[str, Any]]] = {
    "document_url": _document_url,
    "file_url": _file_url,
}


def _data_url(inline: content_pb2.InlineData, fallback: str) -> str:
    data = base64.b64encode(inline.data).decode()
    media_type = inline.media_type or fallback
    return f"data:{media_type};base64,{data}" if media_type else data
