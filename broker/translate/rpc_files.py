"""Files as typed messages of the public gRPC API."""

from __future__ import annotations

from broker.files import LONGEST_S, PURPOSES, SHORTEST_S, UPLOADED
from broker.translate.files import MOST_LISTED, Listing, Wanted, check_filename
from broker.translate.refusals import invalid
from broker.v1 import file_pb2
from broker.v1 import file_service_pb2 as pb

_UPLOADED = frozenset(PURPOSES[word] for word in UPLOADED)


def file(record: file_pb2.StoredFile) -> pb.FileInfo:
    """A file as its caller may see it."""
    return pb.FileInfo(
        id=record.id,
        purpose=record.purpose,
        filename=record.filename,
        bytes=record.bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        status=record.status,
        sha256=record.sha256,
    )


def wanted(asked: pb.NewFile) -> Wanted:
    """What a file is to be. Raises `InferenceError` naming the field at fault."""
    if asked.purpose not in _UPLOADED:
        known = ", ".join(file_pb2.FilePurpose.Name(purpose) for purpose in sorted(_UPLOADED))
        raise invalid("file.purpose", f"Invalid 'file.purpose'. Supported values are: {known}.")
    check_filename(asked.filename, asked.purpose, "file.filename")
    if not asked.HasField("expires_after"):
        return Wanted(asked.purpose, 0)
    if not SHORTEST_S <= asked.expires_after <= LONGEST_S:
        message = f"Invalid 'file.expires_after': expected {SHORTEST_S} to {LONGEST_S} seconds."
        raise invalid("file.expires_after", message)
    return Wanted(asked.purpose, asked.expires_after)


def listing(asked: pb.ListFilesRequest) -> Listing:
    """Which files are wanted. Raises `InferenceError` naming the field at fault."""
    if not 0 <= asked.limit <= MOST_LISTED:
        raise invalid("limit", f"Invalid 'limit': expected a number from 1 to {MOST_LISTED}.")
    order = "asc" if asked.oldest_first else "desc"
    return Listing(asked.purpose, asked.after, asked.limit or MOST_LISTED, order)


def part(asked: pb.DownloadFileRequest, size: int) -> tuple[int, int]:
    """The bytes asked for, from the first to behind the last. Raises `InferenceError`."""
    if not 0 <= asked.offset <= size:
        raise invalid("offset", f"Invalid 'offset': the file has {size} bytes.")
    if asked.length < 0:
        raise invalid("length", "Invalid 'length': expected a number of bytes, or 0 for all.")
    return asked.offset, min(asked.offset + (asked.length or size), size)
