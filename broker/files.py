"""Files: their purposes, ids, how long they are kept and how large they may be; pure."""

from __future__ import annotations

import re
from typing import TypeAlias

from broker import subjects
from broker.v1 import file_pb2

Purpose: TypeAlias = "file_pb2.FilePurpose.ValueType"

# In the words of the API.
PURPOSES: dict[str, Purpose] = {
    "assistants": file_pb2.FILE_PURPOSE_ASSISTANTS,
    "assistants_output": file_pb2.FILE_PURPOSE_ASSISTANTS_OUTPUT,
    "batch": file_pb2.FILE_PURPOSE_BATCH,
    "batch_output": file_pb2.FILE_PURPOSE_BATCH_OUTPUT,
    "fine-tune": file_pb2.FILE_PURPOSE_FINE_TUNE,
    "fine-tune-results": file_pb2.FILE_PURPOSE_FINE_TUNE_RESULTS,
    "vision": file_pb2.FILE_PURPOSE_VISION,
    "user_data": file_pb2.FILE_PURPOSE_USER_DATA,
    "evals": file_pb2.FILE_PURPOSE_EVALS,
}
WORDS = {purpose: word for word, purpose in PURPOSES.items()}
# What callers may upload files for; the others are made here.
UPLOADED = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")

# Bytes of a file that comes in one request, of one part of an upload, and of a whole upload.
MOST_BYTES = 512 << 20
MOST_PART_BYTES = 64 << 20
MOST_UPLOAD_BYTES = 8 << 30
# Parts of an upload: its record has to fit into one message.
MOST_PARTS = 8_000
# Seconds that a file may be kept for; for ever is what is not said.
SHORTEST_S = 3600
LONGEST_S = 30 * 86_400
# How long a caller has to complete an upload.
UPLOAD_S = 3600
MOST_FILENAME = 512

_DEFAULT_S = {
    file_pb2.FILE_PURPOSE_BATCH: LONGEST_S,
    file_pb2.FILE_PURPOSE_BATCH_OUTPUT: LONGEST_S,
}
_STORES = {
    file_pb2.FILE_PURPOSE_BATCH: subjects.BATCH_IN,
    file_pb2.FILE_PURPOSE_BATCH_OUTPUT: subjects.BATCH_OUT,
}
_HEX = r"[0-9a-f]{32}"
_FILE = re.compile(f"file-{_HEX}")
_UPLOAD = re.compile(f"upload_{_HEX}")
_PART = re.compile(f"part_{_HEX}")


def store_of(purpose: Purpose) -> str:
    """The object store of a purpose; where there is no purpose yet, one that keeps everything."""
    return _STORES.get(purpose, subjects.FILES)


def keeps_s(purpose: Purpose) -> int:
    """How long files of a purpose are kept unless the caller says, in seconds; 0 is for ever."""
    return _DEFAULT_S.get(purpose, 0)


def file_id(now_ms: int, random: bytes) -> str:
    """The id of a file made at this time; `random` are 16 bytes. Later ids sort after it."""
    return f"file-{now_ms:012x}{random.hex()[:20]}"


def is_file_id(name: str) -> bool:
    """Whether a file may have this id."""
    return _FILE.fullmatch(name) is not None


def is_upload_id(name: str) -> bool:
    """Whether an upload may have this id."""
    return _UPLOAD.fullmatch(name) is not None


def is_part_id(name: str) -> bool:
    """Whether a part may have this id."""
    return _PART.fullmatch(name) is not None
