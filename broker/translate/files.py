"""The Files API in OpenAI's words: what callers say of files, and how files are shown; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from broker.errors import InferenceError
from broker.files import LONGEST_S, MOST_FILENAME, PURPOSES, SHORTEST_S, UPLOADED, WORDS, Purpose
from broker.translate.multipart import Fields, form_shaped
from broker.translate.pages import read_limit
from broker.translate.refusals import invalid
from broker.v1 import file_pb2

_STATUSES = {
    file_pb2.FILE_STATUS_UPLOADED: "uploaded",
    file_pb2.FILE_STATUS_PROCESSED: "processed",
    file_pb2.FILE_STATUS_ERROR: "error",
}
MOST_LISTED = 10_000
_ANCHOR = "created_at"


class ExpiresAfter(msgspec.Struct):
    """How long a file is kept."""

    anchor: str
    seconds: Annotated[int, msgspec.Meta(ge=SHORTEST_S, le=LONGEST_S)]


class FileForm(msgspec.Struct):
    """The fields of an uploaded file beside the file."""

    purpose: str
    expires_after: ExpiresAfter | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a file is to be: its purpose, and the seconds it is kept, 0 where nothing is said."""

    purpose: Purpose
    keeps_s: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Which files of a list are wanted."""

    purpose: Purpose
    after: str
    limit: int
    order: str


def read_form(form: Fields) -> Wanted:
    """What a form says of its file. Raises `InferenceError` naming the field at fault."""
    return wanted(form_shaped(form.source(FileForm), FileForm))


def wanted(asked: FileForm) -> Wanted:
    """What a body says of its file. Raises `InferenceError` naming the field at fault."""
    expires = asked.expires_after
    if expires is not None and expires.anchor != _ANCHOR:
        raise invalid(
            "expires_after.anchor",
            f"Invalid value: '{expires.anchor[:60]}'. Supported values are: '{_ANCHOR}'.",
        )
    return Wanted(read_purpose(asked.purpose, UPLOADED), expires.seconds if expires else 0)


def read_purpose(word: str, among: Iterable[str] = tuple(PURPOSES)) -> Purpose:
    """The purpose of a word. Raises `InferenceError` naming those there are."""
    if word not in among:
        known = ", ".join(f"'{one}'" for one in among)
        message = f"Invalid value: '{word[:60]}'. Supported values are: {known}."
        raise invalid("purpose", message)
    return PURPOSES[word]


def check_filename(name: str, purpose: Purpose, param: str = "file") -> None:
    """Raises `InferenceError` for a name that no file of this purpose may have."""
    if not name:
        raise invalid(param, f"Invalid '{param}': the file has no name.")
    if len(name) > MOST_FILENAME:
        message = f"Invalid '{param}': its name has more than {MOST_FILENAME} characters."
        raise invalid(param, message, "string_above_max_length")
    if purpose == file_pb2.FILE_PURPOSE_BATCH and not name.lower().endswith(".jsonl"):
        raise invalid(param, "Invalid file format for Batch API. Must be .jsonl")


def read_listing(query: Mapping[str, str]) -> Listing:
    """What the query of a list asks for. Raises `InferenceError` naming what is wrong."""
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        message = f"Invalid value: '{order[:60]}'. Supported values are: 'asc', 'desc'."
        raise invalid("order", message)
    limit = read_limit(query, MOST_LISTED, MOST_LISTED)
    purpose = query.get("purpose", "")
    number = read_purpose(purpose) if purpose else file_pb2.FILE_PURPOSE_UNSPECIFIED
    return Listing(number, query.get("after", ""), limit, order)


def file_shown(record: file_pb2.StoredFile) -> dict[str, Any]:
    """A file object."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at or None,
        "filename": record.filename,
        "purpose": WORDS.get(record.purpose, ""),
        "status": _STATUSES.get(record.status, "error"),
        "status_details": None,
    }


def files_shown(records: Iterable[file_pb2.StoredFile], *, has_more: bool) -> dict[str, Any]:
    """A list of file objects."""
    data = [file_shown(record) for record in records]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def no_file(name: str) -> InferenceError:
    """No file of this caller has the id."""
    return InferenceError("not_found", f"No such File object: {name[:100]}", param="file_id")
