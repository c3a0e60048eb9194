"""Uploads in OpenAI's words: what callers say of them, and how they are shown; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from broker.errors import InferenceError
from broker.files import MOST_FILENAME, MOST_PARTS, MOST_UPLOAD_BYTES
from broker.translate.body import read_body, shaped
from broker.translate.files import FileForm, check_filename, file_shown, wanted
from broker.translate.refusals import invalid
from broker.v1 import file_pb2

_STATUSES = {
    file_pb2.UPLOAD_STATUS_PENDING: "pending",
    file_pb2.UPLOAD_STATUS_COMPLETING: "pending",
    file_pb2.UPLOAD_STATUS_COMPLETED: "completed",
    file_pb2.UPLOAD_STATUS_CANCELLED: "cancelled",
}
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class UploadBody(FileForm, kw_only=True):
    """What creates an upload."""

    bytes: Annotated[int, msgspec.Meta(ge=0, le=MOST_UPLOAD_BYTES)]
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_FILENAME)]
    mime_type: _Text


class CompleteBody(msgspec.Struct):
    """What completes an upload."""

    part_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_PARTS)]
    md5: str | None = None


def read_upload(data: bytes) -> file_pb2.StoredUpload:
    """An upload as it is asked for, without owner and times. Raises `InferenceError`."""
    body = shaped(read_body(data), UploadBody)
    described = wanted(body)
    check_filename(body.filename, described.purpose, "filename")
    return file_pb2.StoredUpload(
        mime_type=body.mime_type,
        file_expires_after=described.keeps_s,
        file=file_pb2.StoredFile(
            purpose=described.purpose, filename=body.filename, bytes=body.bytes
        ),
    )


def read_complete(data: bytes) -> CompleteBody:
    """What completes an upload. Raises `InferenceError`."""
    body = shaped(read_body(data), CompleteBody)
    if body.md5 is not None and not _MD5.fullmatch(body.md5):
        raise invalid("md5", "Invalid 'md5': expected 32 hexadecimal digits.")
    if len(set(body.part_ids)) != len(body.part_ids):
        raise invalid("part_ids", "Invalid 'part_ids': a part is there twice.")
    return body


def parts_found(
    names: Sequence[str], parts: Sequence[file_pb2.StoredPart | None], size: int
) -> list[file_pb2.StoredPart]:
    """The parts, if all are there and make up `size` bytes. Raises `InferenceError`."""
    found = []
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        if part is None:
            message = f"No such Part object: {name[:100]}"
            raise invalid(f"part_ids[{number}]", message)
        found.append(part)
    total = sum(part.piece.size for part in found)
    if total != size:
        message = f"The parts have {total} bytes, but the upload was created for {size} bytes."
        raise invalid("part_ids", message)
    return found


def upload_shown(record: file_pb2.StoredUpload, now: int) -> dict[str, Any]:
    """An upload object."""
    file = record.file
    status = _STATUSES.get(record.status, "pending")
    if status == "pending" and record.expires_at <= now:
        status = "expired"
    shown = file_shown(file)
    return {
        "id": record.id,
        "object": "upload",
        "bytes": file.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": file.filename,
        "purpose": shown["purpose"],
        "status": status,
        "file": shown if record.status == file_pb2.UPLOAD_STATUS_COMPLETED else None,
    }


def part_shown(part: file_pb2.StoredPart) -> dict[str, Any]:
    """A part object."""
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": part.created_at,
        "upload_id": part.upload_id,
    }


def no_upload(name: str) -> InferenceError:
    """No upload of this caller has the id."""
    return InferenceError("not_found", f"No such Upload object: {name[:100]}", param="upload_id")


def not_pending(record: file_pb2.StoredUpload, now: int) -> InferenceError:
    """The upload takes nothing any more."""
    status = upload_shown(record, now)["status"]
    return invalid("upload_id", f"The upload {record.id} is {status}.", "invalid_upload_status")
