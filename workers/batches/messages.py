"""Anthropic's Message Batches: calls within the batch itself, which has no name of ours.

Source: https://platform.claude.com/docs/en/api/creating-message-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import orjson

from workers.batches import Page, Row, There
from workers.batches.reading import readable
from workers.wire import Call

_LINES = "/v1/messages"
_PATH = f"{_LINES}/batches"
_VERSION = {"anthropic-version": "2023-06-01"}
_PAGE = 100
# error.type of a line -> the status that the call would have had.
_STATUS = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_SERVER_ERROR = 500


class _Kind(msgspec.Struct):
    type: str = ""


class _Error(msgspec.Struct):
    error: _Kind = msgspec.field(default_factory=_Kind)


class _Outcome(msgspec.Struct):
    # succeeded, errored, canceled or expired.
    type: str
    message: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"{}")


class _Result(msgspec.Struct):
    custom_id: str
    result: _Outcome


class _Batch(msgspec.Struct):
    id: str
    # in_progress, canceling or ended.
    processing_status: str
    request_counts: dict[str, int]


class _List(msgspec.Struct):
    data: list[_Batch]
    has_more: bool = False
    last_id: str | None = None


_decode_row = msgspec.json.Decoder(_Result).decode
_decode_error = msgspec.json.Decoder(_Error).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_list = msgspec.json.Decoder(_List).decode


@dataclass(frozen=True, slots=True)
class MessageBatches:
    """See the module."""

    headers: frozenset[str] = field(default=frozenset({"content-type", "anthropic-version"}))
    named: bool = False
    least: int = 1

    def takes(self, call: Call) -> bool:
        """Whether it takes such a call."""
        return call.path == _LINES

    def line(self, custom_id: str, call: Call) -> bytes:
        """A line as it stands in the batch."""
        return b'{"custom_id":%b,"params":%b}' % (orjson.dumps(custom_id), call.body)

    def upload(self, name: str, lines: Sequence[bytes]) -> Call | None:
        """They go with the batch."""
        del name, lines
        return None

    def uploaded(self, name: str, answer: bytes) -> str:
        """There is no file."""
        del name
        raise ValueError(answer)

    def create(self, name: str, path: str, model: str, file: str, lines: Sequence[bytes]) -> Call:
        """The call that makes the batch."""
        del name, path, model, file
        body = b'{"requests":[%b]}' % b",".join(lines)
        return Call(_PATH, body, {"content-type": "application/json", **_VERSION})

    def get(self, batch: str) -> Call:
        """The call that asks for a batch."""
        return Call(f"{_PATH}/{batch}", headers=_VERSION, method="GET")

    def cancel(self, batch: str) -> Call:
        """The call that cancels a batch."""
        return Call(f"{_PATH}/{batch}/cancel", headers=_VERSION)

    def there(self, answer: bytes) -> There:
        """The batch that was made or asked for."""
        with readable():
            return _there(_decode_batch(answer))

    def list(self, name: str, after: str) -> Call:
        """A page of the list."""
        query = f"?limit={_PAGE}{after and f'&after_id={after}'}"
        return Call(_PATH + query, headers=_VERSION, method="GET")

    def page(self, answer: bytes) -> Page:
        """That page."""
        with readable():
            told = _decode_list(answer)
        found = tuple(map(_there, told.data))
        return Page(found, told.last_id or "" if told.has_more else "")

    def results(self, path: str) -> Call:
        """The call that asks for the results."""
        return Call(path, headers=_VERSION, method="GET")

    def row(self, line: bytes) -> Row:
        """A line of the results; one that was cancelled or expired was never run."""
        with readable():
            read = _decode_row(line)
            if read.result.type == "succeeded":
                return Row(read.custom_id, 200, bytes(read.result.message))
            if read.result.type == "errored":
                kind = _decode_error(read.result.error).error.type
                status = _STATUS.get(kind, _SERVER_ERROR)
                return Row(read.custom_id, status, bytes(read.result.error))
        return Row(read.custom_id)

    def discard(self, file: str) -> Call:
        """There are no files."""
        raise ValueError(file)


def _there(told: _Batch) -> There:
    over = told.processing_status == "ended"
    results = (f"{_PATH}/{told.id}/results",) if over else ()
    return There(told.id, over, results, lines=sum(told.request_counts.values()))
