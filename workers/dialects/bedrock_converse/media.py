"""Turns images, files and audio of the hub into Converse's blocks, which take bytes alone."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2
from workers.provider import Unreadable

Block = dict[str, Any]

_IMAGES = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/pjpeg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
# First bytes, for images whose sender named no type.
_IMAGE_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
)
_OFFICE = "application/vnd.openxmlformats-officedocument"
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/csv": "csv",
    "application/msword": "doc",
    f"{_OFFICE}.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    f"{_OFFICE}.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/markdown": "md",
    "text/x-markdown": "md",
    "text/plain": "txt",
    "application/json": "txt",
    "application/xml": "txt",
    "application/yaml": "txt",
    "application/x-yaml": "txt",
}
_FORMATS = frozenset(_DOCUMENTS.values())
_AUDIO = frozenset(
    {
        *("mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "mka", "x-aac", "m4a"),
        *("mpeg", "mpga", "pcm", "webm"),
    }
)
# What the name of a document may not hold.
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9\s\-()\[\]]|\s(?=\s)")
_LONGEST_NAME = 150
_S3 = "s3://"


@dataclass(slots=True)
class DocumentNames:
    """Names that Converse accepts, each once in a request."""

    _given: set[str] = field(default_factory=set)

    def name(self, filename: str) -> str:
        """The name of a document; a neutral one where the caller gave none."""
        stem = filename.rpartition(".")[0] or filename
        wanted = _NOT_IN_A_NAME.sub(" ", stem)[:_LONGEST_NAME].strip()
        wanted = " ".join(wanted.split()) or "Document"
        name, copies = wanted, 1
        while name in self._given:
            copies += 1
            name = f"{wanted} {copies}"
        self._given.add(name)
        return name


def image(part: content_pb2.Image, path: str) -> Block:
    """The image block; `InferenceError` for what is not there as bytes."""
    match part.WhichOneof("source"):
        case "inline":
            return _image(part.inline, path)
        case "url" if part.url.startswith(_S3):
            ending = part.url.rpartition(".")[2].lower()
            return {
                "image": {
                    "format": "jpeg" if ending == "jpg" else ending,
                    "source": {"s3Location": {"uri": part.url}},
                }
            }
        case _:
            raise Unreadable(
                "Bedrock takes images inline, as a data URL, or from S3.", param=path, reads=_on_s3
            )


def document(part: content_pb2.File, names: DocumentNames, path: str) -> Block:
    """The document block of a file, or the image block of one that is an image."""
    if part.url.startswith(_S3):
        source: Block = {"s3Location": {"uri": part.url}}
        kind = _format("", part.filename or part.url, b"")
    elif part.HasField("inline"):
        media_type = _plain(part.inline.media_type)
        if media_type.startswith("image/"):
            return _image(part.inline, path)
        source = {"bytes": base64.b64encode(part.inline.data).decode()}
        kind = _format(media_type, part.filename, part.inline.data)
    else:
        raise Unreadable(
            "Bedrock takes files inline, as a data URL, or from S3.", param=path, reads=_on_s3
        )
    if kind is None:
        known = ", ".join(sorted(_FORMATS))
        raise InferenceError(
            "invalid_request", f"Bedrock takes documents of these formats: {known}.", param=path
        )
    return {"document": {"format": kind, "name": names.name(part.filename), "source": source}}


def audio(part: content_pb2.Audio, path: str) -> Block:
    """The audio block, which few models take."""
    if part.format not in _AUDIO:
        raise InferenceError(
            "invalid_request", f"Bedrock has no audio format {part.format!r}.", param=path
        )
    data = base64.b64encode(part.inline.data).decode()
    return {"audio": {"format": part.format, "source": {"bytes": data}}}


def _on_s3(part: content_pb2.Part) -> bool:
    return (part.image.url or part.file.url).startswith(_S3)


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


def _image(inline: content_pb2.InlineData, path: str) -> Block:
    media_type = _plain(inline.media_type)
    kind = _IMAGES.get(media_type)
    if media_type in ("", "application/octet-stream", "image/*"):
        found = (kind for magic, kind in _IMAGE_MAGIC if inline.data.startswith(magic))
        kind = next(found, None)
    if kind is None:
        raise InferenceError(
            "invalid_request",
            f"Bedrock takes PNG, JPEG, GIF and WebP images, not {media_type or 'an unnamed type'}.",
            param=path,
        )
    data = base64.b64encode(inline.data).decode()
    return {"image": {"format": kind, "source": {"bytes": data}}}


def _format(media_type: str, filename: str, data: bytes) -> str | None:
    ending = filename.rpartition(".")[2].lower()
    if kind := _DOCUMENTS.get(media_type) or (ending if ending in _FORMATS else None):
        return kind
    if data.startswith(b"%PDF-"):
        return "pdf"
    if media_type.startswith("text/"):
        return "txt"
    if media_type not in ("", "application/octet-stream"):
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return "txt"
