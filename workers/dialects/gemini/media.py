"""Turns images, audio and files of the hub into Gemini's parts: bytes inline, or by address."""

from __future__ import annotations

import base64
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2
from workers.dialects.gemini.surroundings import Surroundings
from workers.provider import Unreadable

Part = dict[str, Any]

_SPELLINGS = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "audio/x-wav": "audio/wav"}
_UNNAMED = frozenset({"", "application/octet-stream", "image/*"})
# First bytes, for what was sent without a type.
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mp3"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
)
# The type of a file, by the end of its name, and of audio, by its format.
_ENDINGS = {
    "aac": "audio/aac",
    "aiff": "audio/aiff",
    "csv": "text/csv",
    "flac": "audio/flac",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "html": "text/html",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "m4a": "audio/m4a",
    "md": "text/md",
    "mov": "video/mov",
    "mp3": "audio/mp3",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "pcm16": "audio/pcm",
    "pdf": "application/pdf",
    "png": "image/png",
    "py": "text/x-python",
    "txt": "text/plain",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webp": "image/webp",
    "xml": "text/xml",
}
_FILES_API = "https://generativelanguage.googleapis.com/v1beta/"


def takes_address(url: str, home: Surroundings) -> bool:
    """Whether the provider reads this address by itself: anything else has to be sent along."""
    return home.addresses.search(url) is not None


def image(source: content_pb2.Image, path: str, home: Surroundings) -> Part:
    """The part of an image, at `path` of the request."""
    match source.WhichOneof("source"):
        case "url":
            return _address(source.url, path, home, "image/jpeg")
        case "file_id":
            return _address(source.file_id, path, home)
        case "inline":
            return inline(source.inline, "image/png")
    raise InferenceError("invalid_request", "The image has no source.", param=path)


def audio(source: content_pb2.Audio) -> Part:
    """The part of audio that was sent along."""
    return inline(source.inline, _ENDINGS.get(source.format.lower(), "audio/wav"))


def file(source: content_pb2.File, path: str, home: Surroundings) -> Part:
    """The part of a file, whatever its kind."""
    named = _ENDINGS.get(source.filename.rpartition(".")[2].lower(), "")
    match source.WhichOneof("source"):
        case "url":
            return _address(source.url, path, home, named)
        case "file_id":
            return _address(source.file_id, path, home, named)
        case "inline":
            return inline(source.inline, named or "text/plain")
    raise InferenceError("invalid_request", "The file has no source.", param=path)


def inline(data: content_pb2.InlineData, otherwise: str) -> Part:
    """Bytes; their type is as they say, as they begin, or `otherwise`."""
    kind = data.media_type.partition(";")[0].strip().lower()
    if kind in _UNNAMED:
        kind = next((kind for magic, kind in _MAGIC if data.data.startswith(magic)), otherwise)
        if data.data[:4] == b"RIFF":
            kind = "image/webp" if data.data[8:12] == b"WEBP" else "audio/wav"
    kind = _SPELLINGS.get(kind, kind)
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data.data).decode()}}


def _address(url: str, path: str, home: Surroundings, otherwise: str = "") -> Part:
    if not takes_address(url, home):
        raise Unreadable(
            f"This provider reads only {home.readable} by itself: send other media as data.",
            param=path,
            reads=lambda part: takes_address(part.image.url or part.file.url, home),
        )
    found: Part = {"fileUri": _FILES_API + url if url.startswith("files/") else url}
    ending = url.partition("?")[0].rpartition(".")[2].lower()
    if "youtu" in url[:24]:
        found["mimeType"] = "video/mp4"
    elif kind := _ENDINGS.get(ending, otherwise):
        found["mimeType"] = kind
    return {"fileData": found}
