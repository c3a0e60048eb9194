"""Gemini's batches at AI Studio: long-running operations over a file of calls.

Files go after 48 hours by themselves; those of answers have names that its Files API takes for too
long, and may not be deleted before.
Source: https://ai.google.dev/gemini-api/docs/batch-api.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from workers.batches import Page, Row, There
from workers.batches.reading import readable
from workers.batches.status import CANCELLED, PASSING, Status, failed
from workers.paths import quoted
from workers.wire import Call

_JSON = {"content-type": "application/json"}
_PAGE = 100
_LIVE = ":generateContent"
_PATH = re.compile(rf"/models/[^/]+{_LIVE}$")
# Fields of a call that no batch keeps to: answers to this form of a schema have come out malformed
# (github.com/crmne/ruby_llm/issues/894), so that functions are not trusted with it either; and
# tiers are those of live calls.
_NOT_THERE = (b'"responseJsonSchema":', b'"parametersJsonSchema":', b'"serviceTier":')
# No line of JSON holds a line break, before which alone it would end a part.
_BOUNDARY = "millrace"
# Of states such as BATCH_STATE_FAILED; other paths say JOB_STATE_FAILED.
_OVER = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})


class _Input(msgspec.Struct, rename="camel"):
    file_name: str = ""


class _Output(msgspec.Struct, rename="camel"):
    responses_file: str = ""


class _Batch(msgspec.Struct, rename="camel"):
    display_name: str = ""
    state: str = ""
    input_config: _Input = msgspec.field(default_factory=_Input)
    output: _Output = msgspec.field(default_factory=_Output)


class _Operation(msgspec.Struct):
    name: str
    metadata: _Batch = msgspec.field(default_factory=_Batch)
    done: bool = False
    response: _Output = msgspec.field(default_factory=_Output)
    error: Status = msgspec.field(default_factory=Status)


class _List(msgspec.Struct, rename="camel"):
    operations: list[_Operation] = []
    next_page_token: str = ""


class _Named(msgspec.Struct):
    name: str


class _Uploaded(msgspec.Struct):
    file: _Named


class _Result(msgspec.Struct):
    key: str
    response: msgspec.Raw = msgspec.Raw(b"")
    # A google.rpc.Status, by either name.
    error: dict[str, Any] | None = None
    status: dict[str, Any] | None = None


_decode_operation = msgspec.json.Decoder(_Operation).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_uploaded = msgspec.json.Decoder(_Uploaded).decode
_decode_result = msgspec.json.Decoder(_Result).decode


@dataclass(frozen=True, slots=True)
class GeminiBatches:
    """See the module. `site` stands in for a base URL that ends with the version."""

    site: str = ""
    version: str = "/v1beta"
    headers: frozenset[str] = field(default=frozenset({"content-type"}))
    named: bool = True
    least: int = 1

    def takes(self, call: Call) -> bool:
        """Whether it takes such a call."""
        return bool(_PATH.search(call.path)) and not any(name in call.body for name in _NOT_THERE)

    def line(self, custom_id: str, call: Call) -> bytes:
        """A line of the file."""
        return b'{"key":%b,"request":%b}\n' % (orjson.dumps(custom_id), call.body)

    def upload(self, name: str, lines: Sequence[bytes]) -> Call | None:
        """The file and what it is called, in one call."""
        told = orjson.dumps({"file": {"displayName": name, "mimeType": "application/jsonl"}})
        mark = b"--" + _BOUNDARY.encode()
        body = (
            mark + b"\r\ncontent-type: application/json; charset=utf-8\r\n\r\n" + told,
            b"\r\n" + mark + b"\r\ncontent-type: application/jsonl\r\n\r\n",
            *lines,
            b"\r\n" + mark + b"--\r\n",
        )
        headers = {
            "content-type": f"multipart/related; boundary={_BOUNDARY}",
            "x-goog-upload-protocol": "multipart",
        }
        return Call(f"/upload{self.version}/files", b"".join(body), headers, base_url=self.site)

    def uploaded(self, name: str, answer: bytes) -> str:
        """The name of the file."""
        del name  # they give it one
        with readable():
            return _decode_uploaded(answer).file.name

    def create(self, name: str, path: str, model: str, file: str, lines: Sequence[bytes]) -> Call:
        """The call that makes the batch, of the model in the path of its calls."""
        del model, lines
        batch = {"displayName": name, "inputConfig": {"fileName": file}}
        made = path.removesuffix(_LIVE) + ":batchGenerateContent"
        return Call(made, orjson.dumps({"batch": batch}), _JSON)

    def get(self, batch: str) -> Call:
        """The call that asks for a batch."""
        return self._call(f"/{batch}", "GET")

    def cancel(self, batch: str) -> Call:
        """The call that cancels a batch."""
        return self._call(f"/{batch}:cancel", "POST")

    def there(self, answer: bytes) -> There:
        """The batch that was made or asked for."""
        with readable():
            return _there(_decode_operation(answer), self.version)

    def list(self, name: str, after: str) -> Call:
        """A page of the list."""
        del name  # all are told
        return self._call(
            f"/batches?pageSize={_PAGE}{after and f'&pageToken={quoted(after)}'}", "GET"
        )

    def page(self, answer: bytes) -> Page:
        """That page."""
        with readable():
            told = _decode_list(answer)
        found = tuple(_there(operation, self.version) for operation in told.operations)
        return Page(found, told.next_page_token)

    def results(self, path: str) -> Call:
        """The call that asks for the file of results."""
        return Call(path, method="GET", base_url=self.site)

    def row(self, line: bytes) -> Row:
        """A line of that file; one without an answer was never run."""
        with readable():
            read = _decode_result(line)
        if read.response:
            return Row(read.key, 200, bytes(read.response), _JSON)
        told = read.error or read.status
        if told is None or told.get("code") == CANCELLED:
            return Row(read.key)
        return Row(read.key, *failed(told), _JSON)

    def discard(self, file: str) -> Call:
        """The call that deletes a file."""
        return self._call(f"/{file}", "DELETE")

    def _call(self, path: str, method: str) -> Call:
        return Call(self.version + path, method=method, base_url=self.site)


def _there(told: _Operation, version: str) -> There:
    if not told.name:
        raise ValueError("no name")
    batch = told.metadata
    state = batch.state.rpartition("STATE_")[2]
    output = told.response.responses_file or batch.output.responses_file
    why = ""
    if state == "FAILED" and not output:
        why = told.error.message or state
    return There(
        id=told.name,
        over=told.done or state in _OVER,
        results=(f"/download{version}/{output}:download?alt=media",) if output else (),
        refused=why,
        later=bool(why) and told.error.code in PASSING,
        name=batch.display_name,
        files=tuple(name for name in (output, batch.input_config.file_name) if name),
    )
