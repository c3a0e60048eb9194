"""Batches made of a file of calls, and read from files of answers: OpenAI's format, and others'.

Source: https://platform.openai.com/docs/api-reference/batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from broker.v1.operations_pb2 import Attachment
from workers.batches import Page, Row, There
from workers.batches.reading import readable
from workers.wire import Call

# The key in the metadata of a batch that says whose it is.
_NAME = "millrace"
_HEADERS = {"content-type": "application/json"}
_PAGE = 100
# Errors of a whole batch that pass.
_PASSING = frozenset({"token_limit_exceeded", "rate_limit_exceeded", "server_error"})
# Files that nobody deletes: longer than any batch runs.
_KEPT_S = 15 * 86_400

Order = Callable[[str, str, str], Mapping[str, Any]]


def _of_openai(path: str, _model: str, file: str) -> Mapping[str, Any]:
    return {"input_file_id": file, "endpoint": f"/v1{path}", "completion_window": "24h"}


class _Response(msgspec.Struct):
    status_code: int = 0
    request_id: str | None = None
    body: msgspec.Raw = msgspec.Raw(b"")


class _Result(msgspec.Struct):
    custom_id: str
    response: _Response | None = None


_decode = msgspec.json.Decoder(_Result).decode


@dataclass(frozen=True, slots=True)
class FileBatches:
    """See the module. `paths` as they stand behind the provider's base URL."""

    paths: frozenset[str]
    jobs: str = "/batches"
    # What makes a batch, of path, model and file; its metadata is added.
    order: Order = _of_openai
    # Words for what nothing becomes of any more, and those of them that mean nothing was run.
    over: frozenset[str] = frozenset({"completed", "failed", "expired", "cancelled"})
    failed: str = "failed"
    # Where a batch names its files: answers, errors and input.
    outputs: tuple[str, ...] = ("output_file_id", "error_file_id")
    inputs: tuple[str, ...] = ("input_file_id",)
    # Whether files can be told to expire.
    expiring: bool = False
    # How pages are asked for: by the last id, or by their number.
    numbered: bool = False
    headers: frozenset[str] = field(default=frozenset({"content-type"}))
    named: bool = True
    least: int = 1

    def takes(self, call: Call) -> bool:
        """Whether it takes such a call."""
        return call.path in self.paths

    def line(self, custom_id: str, call: Call) -> bytes:
        """A line of the file."""
        return b'{"custom_id":%b,"method":"POST","url":"/v1%b","body":%b}\n' % (
            orjson.dumps(custom_id),
            call.path.encode(),
            call.body,
        )

    def upload(self, name: str, lines: Sequence[bytes]) -> Call | None:
        """A form with the file."""
        form: list[tuple[str, str | Attachment]] = [("purpose", "batch")]
        if self.expiring:
            form += [
                ("expires_after[anchor]", "created_at"),
                ("expires_after[seconds]", str(_KEPT_S)),
            ]
        file = Attachment(
            filename=f"{name}.jsonl", media_type="application/jsonl", data=b"".join(lines)
        )
        return Call("/files", form=(*form, ("file", file)))

    def uploaded(self, name: str, answer: bytes) -> str:
        """The id of the file."""
        del name  # they give it one
        return _text(_object(answer), "id")

    def create(self, name: str, path: str, model: str, file: str, lines: Sequence[bytes]) -> Call:
        """The call that makes the batch."""
        del lines  # they are in the file
        body = {**self.order(path, model, file), "metadata": {_NAME: name}}
        return Call(self.jobs, orjson.dumps(body), _HEADERS)

    def get(self, batch: str) -> Call:
        """The call that asks for a batch."""
        return Call(f"{self.jobs}/{batch}", method="GET")

    def cancel(self, batch: str) -> Call:
        """The call that cancels a batch."""
        return Call(f"{self.jobs}/{batch}/cancel")

    def there(self, answer: bytes) -> There:
        """The batch that was made or asked for."""
        return self._there(_object(answer))

    def list(self, name: str, after: str) -> Call:
        """A page of the list."""
        del name  # all are told
        if self.numbered:
            return Call(f"{self.jobs}?page_size={_PAGE}&page={after or 0}", method="GET")
        return Call(f"{self.jobs}?limit={_PAGE}{after and f'&after={after}'}", method="GET")

    def page(self, answer: bytes) -> Page:
        """That page; those that are numbered are one."""
        told = _object(answer)
        found = tuple(self._there(batch) for batch in told.get("data") or () if batch)
        more = bool(told.get("has_more")) and bool(found)
        return Page(found, found[-1].id if more else "")

    def results(self, path: str) -> Call:
        """The call that asks for a file of results."""
        return Call(path, method="GET")

    def row(self, line: bytes) -> Row:
        """A line of one of the files; one without an answer was never run."""
        with readable():
            read = _decode(line)
        if read.response is None:
            return Row(read.custom_id)
        headers = {"content-type": "application/json"}
        if read.response.request_id:
            headers["x-request-id"] = read.response.request_id
        return Row(read.custom_id, read.response.status_code, bytes(read.response.body), headers)

    def discard(self, file: str) -> Call:
        """The call that deletes a file."""
        return Call(f"/files/{file}", method="DELETE")

    def _there(self, told: Mapping[str, Any]) -> There:
        outputs = [told[name] for name in self.outputs if told.get(name)]
        status = _text(told, "status")
        why = ""
        if status == self.failed and not outputs:
            why = _why(told) or status
        given = (told.get(name) for name in self.inputs)
        inputs = [
            name for value in given for name in (value if isinstance(value, list) else [value])
        ]
        return There(
            id=_text(told, "id"),
            over=status in self.over,
            results=tuple(f"/files/{name}/content" for name in outputs),
            refused=why,
            later=why in _PASSING,
            name=str((told.get("metadata") or {}).get(_NAME, "")),
            files=tuple(name for name in (*outputs, *inputs) if name),
        )


def _why(told: Mapping[str, Any]) -> str:
    """The first error's code."""
    errors = told.get("errors")
    errors = errors.get("data") if isinstance(errors, dict) else errors
    first = errors[0] if isinstance(errors, list) and errors else None
    return str(first.get("code") or first.get("message") or "") if isinstance(first, dict) else ""


def _object(answer: bytes) -> dict[str, Any]:
    read = orjson.loads(answer)
    if not isinstance(read, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  # of what was read, not of a call
    return read


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"no {name}")
    return value
