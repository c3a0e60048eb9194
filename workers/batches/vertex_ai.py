"""Vertex AI's batch prediction jobs over Gemini: files of calls and answers in a bucket of ours.

A line is known again by a label of its call, which comes back with its answer.
Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/
batch-prediction-from-cloud-storage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import orjson

from workers.batches import Page, Row, There
from workers.batches.reading import readable
from workers.batches.status import CANCELLED, PASSING, Status, failed
from workers.paths import quoted
from workers.wire import Call

STORAGE = "https://storage.googleapis.com"
_JSON = {"content-type": "application/json"}
_PAGE = 100
_LIVE = ":generateContent"
_MODELS = "publishers/google/models/"
_LABEL = "millrace"
# What a batch does not do as a live call does: answers to schemas have come out malformed
# (github.com/googleapis/python-genai/issues/1984), so that functions are not trusted with them
# either; and objects without a field, as hosted tools are, are refused (.../issues/2123).
_NOT_THERE = re.compile(rb'"(?:response|parameters)JsonSchema":|[^\\]":\{\}')
_OVER = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
_RESULTS = ".jsonl"


class _Source(msgspec.Struct, rename="camel"):
    uris: list[str] = []


class _Input(msgspec.Struct, rename="camel"):
    gcs_source: _Source = msgspec.field(default_factory=_Source)


class _Destination(msgspec.Struct, rename="camel"):
    output_uri_prefix: str = ""


class _Output(msgspec.Struct, rename="camel"):
    gcs_destination: _Destination = msgspec.field(default_factory=_Destination)


class _Info(msgspec.Struct, rename="camel"):
    gcs_output_directory: str = ""


class _Job(msgspec.Struct, rename="camel"):
    name: str
    display_name: str = ""
    state: str = ""
    input_config: _Input = msgspec.field(default_factory=_Input)
    output_config: _Output = msgspec.field(default_factory=_Output)
    output_info: _Info = msgspec.field(default_factory=_Info)
    error: Status = msgspec.field(default_factory=Status)


class _Jobs(msgspec.Struct, rename="camel"):
    batch_prediction_jobs: list[_Job] = []
    next_page_token: str = ""


class _Object(msgspec.Struct):
    name: str


class _Objects(msgspec.Struct):
    items: list[_Object] = []


class _Labels(msgspec.Struct):
    millrace: str


class _Request(msgspec.Struct):
    labels: _Labels


class _Result(msgspec.Struct):
    request: _Request
    response: msgspec.Raw = msgspec.Raw(b"")
    # Empty, an error in words, or a google.rpc.Status.
    status: str | dict[str, Any] = ""


_decode_job = msgspec.json.Decoder(_Job).decode
_decode_jobs = msgspec.json.Decoder(_Jobs).decode
_decode_objects = msgspec.json.Decoder(_Objects).decode
_decode_result = msgspec.json.Decoder(_Result).decode


@dataclass(frozen=True, slots=True)
class VertexBatches:
    """See the module. `parent` is `projects/P/locations/L/`.

    Files are known by the names of their objects, which begin with `folder`.
    """

    parent: str
    bucket: str
    folder: str = ""
    version: str = "/v1beta1"
    storage: str = STORAGE
    headers: frozenset[str] = field(default=frozenset({"content-type"}))
    named: bool = True
    least: int = 1

    def takes(self, call: Call) -> bool:
        """Whether it takes such a call."""
        ours = call.path.startswith(self._models) and call.path.endswith(_LIVE)
        return ours and not _NOT_THERE.search(call.body)

    def line(self, custom_id: str, call: Call) -> bytes:
        """A line of the file."""
        request = orjson.loads(call.body)
        request["labels"] = {**request.get("labels", {}), _LABEL: custom_id}
        return orjson.dumps({"request": request}) + b"\n"

    def upload(self, name: str, lines: Sequence[bytes]) -> Call | None:
        """The object, which takes the place of an earlier one of the same batch."""
        at = quoted(self.uploaded(name, b""))
        path = f"/upload/storage/v1/b/{self.bucket}/o?uploadType=media&name={at}"
        headers = {"content-type": "application/jsonl"}
        return Call(path, b"".join(lines), headers, base_url=self.storage)

    def uploaded(self, name: str, answer: bytes) -> str:
        """The name of the object."""
        del answer
        return f"{self.folder}{name}/input{_RESULTS}"

    def create(self, name: str, path: str, model: str, file: str, lines: Sequence[bytes]) -> Call:
        """The call that makes the job, of the model in the path of its calls."""
        del model, lines
        job = {
            "displayName": name,
            "model": _MODELS + path.removeprefix(self._models).removesuffix(_LIVE),
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [self._uri(file)]}},
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": self._uri(f"{self.folder}{name}/output")},
            },
        }
        return Call(self._jobs, orjson.dumps(job), _JSON)

    def get(self, batch: str) -> Call:
        """The call that asks for a job."""
        return Call(f"{self.version}/{batch}", method="GET")

    def cancel(self, batch: str) -> Call:
        """The call that cancels a job."""
        return Call(f"{self.version}/{batch}:cancel", b"{}", _JSON)

    def there(self, answer: bytes) -> There:
        """The job that was made or asked for."""
        with readable():
            return self._there(_decode_job(answer))

    def list(self, name: str, after: str) -> Call:
        """A page of the list, of which jobs never go and nobody says the order."""
        ours = quoted(f'display_name="{name}"')
        token = after and f"&pageToken={quoted(after)}"
        return Call(f"{self._jobs}?pageSize={_PAGE}&filter={ours}{token}", method="GET")

    def page(self, answer: bytes) -> Page:
        """That page."""
        with readable():
            told = _decode_jobs(answer)
        return Page(tuple(map(self._there, told.batch_prediction_jobs)), told.next_page_token)

    def contents(self, folder: str) -> Call:
        """The call that asks for the objects whose names begin so."""
        return self._stored(f"?prefix={quoted(folder)}", "GET")

    def filled(self, there: There, answer: bytes) -> There:
        """The job with its results, and all objects beside them."""
        with readable():
            names = [item.name for item in _decode_objects(answer).items]
        results = (name for name in names if name.endswith(_RESULTS))
        return replace(there, results=tuple(results), files=(*there.files, *names))

    def results(self, path: str) -> Call:
        """The call that asks for an object."""
        return self._stored(f"/{quoted(path)}?alt=media", "GET")

    def row(self, line: bytes) -> Row:
        """A line of the results; one whose error is told in words alone counts as never run."""
        with readable():
            read = _decode_result(line)
        custom_id = read.request.labels.millrace
        if not read.status:
            return Row(custom_id, 200, bytes(read.response), _JSON)
        told = read.status if isinstance(read.status, dict) else _status_in(read.status)
        if told is None or told.get("code") == CANCELLED:
            return Row(custom_id)
        return Row(custom_id, *failed(told), _JSON)

    def discard(self, file: str) -> Call:
        """The call that deletes an object."""
        return self._stored(f"/{quoted(file)}", "DELETE")

    @property
    def _models(self) -> str:
        return f"{self.version}/{self.parent}{_MODELS}"

    @property
    def _jobs(self) -> str:
        return f"{self.version}/{self.parent}batchPredictionJobs"

    def _stored(self, path: str, method: str) -> Call:
        return Call(f"/storage/v1/b/{self.bucket}/o{path}", method=method, base_url=self.storage)

    def _uri(self, name: str) -> str:
        return f"gs://{self.bucket}/{name}"

    def _there(self, told: _Job) -> There:
        if not told.name:
            raise ValueError("no name")
        state = told.state.rpartition("STATE_")[2]
        over = state in _OVER
        folder = told.output_info.gcs_output_directory
        why = ""
        if state == "FAILED" and not folder:
            why = told.error.message or state
        folder = folder or told.output_config.gcs_destination.output_uri_prefix
        place = self._uri("")
        return There(
            id=told.name,
            over=over,
            refused=why,
            later=bool(why) and told.error.code in PASSING,
            name=told.display_name,
            files=tuple(
                uri.removeprefix(place)
                for uri in told.input_config.gcs_source.uris
                if uri.startswith(place)
            ),
            folder=folder.removeprefix(place) if over and folder.startswith(place) else "",
        )


def _status_in(text: str) -> dict[str, Any] | None:
    """The error that words such as `Bad Request: {"error": ...}` hold."""
    try:
        read = orjson.loads(text[text.find("{") :])
    except orjson.JSONDecodeError:
        return None
    told = read.get("error", read) if isinstance(read, dict) else None
    return told if isinstance(told, dict) and isinstance(told.get("code"), int) else None
