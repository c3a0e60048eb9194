"""Rows of a batch's files, made of what became of its lines: the same bytes every time; pure."""

from __future__ import annotations

import msgspec

from broker import subjects
from broker.batch.states import STOPPED
from broker.v1 import batch_pb2

_json = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Row(msgspec.Struct):
    """Of a row of a file what says whose it is."""

    id: str
    custom_id: str


decode_row = msgspec.json.Decoder(Row).decode


def number_of(row: bytes) -> int:
    """The number of the line that a row of a file belongs to."""
    return int(decode_row(row).id.rpartition("_")[2])


def answered(result: batch_pb2.LineResult) -> bool:
    """Whether it belongs into the output file; the error file has all others."""
    return 200 <= result.status < 300


def row(batch_id: str, result: batch_pb2.LineResult, body: bytes | None = None) -> bytes:
    """The line of a file for a result; `body` where the result only refers to it."""
    response = b"null"
    if result.status:
        response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (
            result.status,
            _json(result.request_id),
            _one_line(result.json if body is None else body),
        )
    error = b"null"
    if not result.status:
        failure = result.error
        error = b'{"code":%b,"message":%b}' % (_json(failure.code), _json(failure.message))
    return b'{"id":"%b","custom_id":%b,"response":%b,"error":%b}\n' % (
        subjects.line_id(batch_id, result.number).encode(),
        _json(result.custom_id),
        response,
        error,
    )


def ended(number: int, custom_id: str, code: str) -> batch_pb2.LineResult:
    """The result of a line that ended with its batch; `code` as in `STOPPED`."""
    return batch_pb2.LineResult(
        number=number,
        custom_id=custom_id,
        error=batch_pb2.BatchError(code=code, message=STOPPED[code]),
    )


def copy(result: batch_pb2.LineResult, number: int, custom_id: str) -> batch_pb2.LineResult:
    """The result of a line that asked what another one had asked: nothing was used for it."""
    made = batch_pb2.LineResult()
    made.CopyFrom(result)
    made.number = number
    made.custom_id = custom_id
    made.ClearField("usage")
    made.ClearField("cost")
    made.attempt = 0
    return made


def lost(result: batch_pb2.LineResult) -> batch_pb2.LineResult:
    """The result of a line whose answer is stored nowhere any more."""
    return batch_pb2.LineResult(
        number=result.number,
        custom_id=result.custom_id,
        error=batch_pb2.BatchError(
            code="answer_lost",
            message="This line was answered and is charged, but its answer was lost.",
        ),
    )


def stopped(result: batch_pb2.LineResult) -> bool:
    """Whether the line ended only because its batch did."""
    return not result.status and result.error.code in STOPPED


def _one_line(body: bytes) -> bytes:
    if b"\n" in body or b"\r" in body:
        return _json(_decode(body))
    return body or b"null"
