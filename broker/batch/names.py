"""Names of batches and of the files that they write; pure."""

from __future__ import annotations

import re

PREFIX = "batch_"
_ID = re.compile(r"batch_[0-9a-f]{32}")
_RANDOM_BYTES = 10


def new_id(now_ms: int, entropy: bytes) -> str:
    """A batch's id from Unix milliseconds and 10 random bytes: a later one sorts behind."""
    if len(entropy) != _RANDOM_BYTES:
        raise ValueError(f"{_RANDOM_BYTES} random bytes are needed")
    return f"{PREFIX}{now_ms:012x}{entropy.hex()}"


def is_id(text: str) -> bool:
    """Whether this can be a batch's id."""
    return _ID.fullmatch(text) is not None


def output_file(batch_id: str) -> str:
    """The id of the file with its answers: the same whoever writes it, however often."""
    return _file(batch_id, "a")


def error_file(batch_id: str) -> str:
    """The id of the file with the lines that have no answer."""
    return _file(batch_id, "b")


def retry_file(batch_id: str) -> str:
    """The id of the input of a batch that runs another one's lines again."""
    return _file(batch_id, "c")


def _file(batch_id: str, last: str) -> str:
    return f"file-{batch_id.removeprefix(PREFIX)[:-1]}{last}"
