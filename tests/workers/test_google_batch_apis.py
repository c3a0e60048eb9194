"""What Google's batch APIs are asked and how their answers are read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from broker.errors import InferenceError
from workers import registry
from workers.batches import Row, There
from workers.batches.gemini import GeminiBatches
from workers.batches.status import failed
from workers.batches.vertex_ai import VertexBatches
from workers.dialects.gemini import AI_STUDIO, VERTEX_AI, Gemini
from workers.wire import Call

API = GeminiBatches()
PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
CALL = Call(PATH, b'{"contents":[]}', {"content-type": "application/json"})


@dataclass
class Settings:
    """What an operator says."""

    kind: str
    base_url: str | None = None
    name: str = "google"
    models: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


def test_lines_are_a_file_of_keys_and_calls_that_goes_up_in_one_call() -> None:
    line = API.line("g-1", CALL)
    assert json.loads(line) == {"key": "g-1", "request": {"contents": []}}
    call = API.upload("g", [line, line])
    assert call is not None
    assert (call.method, call.path) == ("POST", "/upload/v1beta/files")
    assert call.headers["x-goog-upload-protocol"] == "multipart"
    boundary = call.headers["content-type"].partition("boundary=")[2]
    _, told, file, end = call.body.split(b"--" + boundary.encode())
    assert json.loads(told.partition(b"\r\n\r\n")[2])["file"]["displayName"] == "g"
    assert file.partition(b"\r\n\r\n")[2] == line + line + b"\r\n"
    assert end == b"--\r\n"
    assert API.uploaded("g", b'{"file":{"name":"files/a","state":"ACTIVE"}}') == "files/a"


def test_a_batch_is_made_at_the_model_of_its_calls_and_says_whose_it_is() -> None:
    call = API.create("g", PATH, "gemini-2.5-flash", "files/a", [])
    assert call.path == "/v1beta/models/gemini-2.5-flash:batchGenerateContent"
    batch = {"displayName": "g", "inputConfig": {"fileName": "files/a"}}
    assert json.loads(call.body) == {"batch": batch}


TAKEN = [
    (PATH, b'{"contents":[]}', True),
    ("/models/x:generateContent", b"{}", True),
    ("/v1beta/models/x:streamGenerateContent?alt=sse", b"{}", False),
    ("/v1beta/models/x:batchEmbedContents", b"{}", False),
    # Only models have batches.
    ("/v1beta/tunedModels/x:generateContent", b"{}", False),
    (PATH, b'{"generationConfig":{"responseJsonSchema":{}}}', False),
    (PATH, b'{"tools":[{"functionDeclarations":[{"parametersJsonSchema":{}}]}]}', False),
    (PATH, b'{"serviceTier":"flex"}', False),
    (PATH, json.dumps({"text": '{"serviceTier":"flex"}'}).encode(), True),
]


@pytest.mark.parametrize(("path", "body", "taken"), TAKEN)
def test_what_a_batch_does_as_a_live_call_does_it_is_taken(
    path: str, body: bytes, taken: bool
) -> None:
    assert API.takes(Call(path, body)) is taken


def _told(state: str, **fields: object) -> dict[str, object]:
    batch = {"displayName": "g", "state": state, "inputConfig": {"fileName": "files/i"}}
    return {"name": "batches/b", "metadata": batch, **fields}


_DONE = "/download/v1beta/files/batch-o:download?alt=media"
_OUTPUT = {"response": {"responsesFile": "files/batch-o"}, "done": True}
_LIMIT = {"error": {"code": 8, "message": "quota"}, "done": True}
STATES: list[tuple[dict[str, object], There]] = [
    (_told("BATCH_STATE_PENDING"), There("batches/b", False, name="g", files=("files/i",))),
    (_told("JOB_STATE_RUNNING"), There("batches/b", False, name="g", files=("files/i",))),
    (
        _told("BATCH_STATE_SUCCEEDED", **_OUTPUT),
        There("batches/b", True, (_DONE,), name="g", files=("files/batch-o", "files/i")),
    ),
    (
        _told("JOB_STATE_SUCCEEDED", **_OUTPUT),
        There("batches/b", True, (_DONE,), name="g", files=("files/batch-o", "files/i")),
    ),
    (
        {
            "name": "batches/b",
            "metadata": {"state": "BATCH_STATE_SUCCEEDED", "output": _OUTPUT["response"]},
        },
        There("batches/b", True, (_DONE,), files=("files/batch-o",)),
    ),
    (_told("BATCH_STATE_EXPIRED"), There("batches/b", True, name="g", files=("files/i",))),
    (
        _told("BATCH_STATE_CANCELLED", error={"code": 1, "message": "cancelled"}, done=True),
        There("batches/b", True, name="g", files=("files/i",)),
    ),
    (
        _told("BATCH_STATE_FAILED", **_LIMIT),
        There("batches/b", True, refused="quota", later=True, name="g", files=("files/i",)),
    ),
    (
        _told("BATCH_STATE_FAILED"),
        There("batches/b", True, refused="FAILED", name="g", files=("files/i",)),
    ),
]


@pytest.mark.parametrize(("told", "there"), STATES)
def test_what_is_told_of_a_batch(told: dict[str, object], there: There) -> None:
    assert API.there(json.dumps(told).encode()) == there
    page = API.page(json.dumps({"operations": [told], "nextPageToken": "t="}).encode())
    assert (page.batches, page.after) == ((there,), "t=")
    assert API.list("g", page.after).path == "/v1beta/batches?pageSize=100&pageToken=t%3D"


def test_an_empty_list_is_a_page() -> None:
    assert API.page(b"{}").batches == ()


_JSON = {"content-type": "application/json"}
ROWS = [
    (b'{"response":{"a":1},"key":"g-1"}', Row("g-1", 200, b'{"a":1}', _JSON)),
    (b'{"key":"g-1","error":{"code":1,"message":"cancelled"}}', Row("g-1")),
    (b'{"key":"g-1"}', Row("g-1")),
]


@pytest.mark.parametrize(("line", "row"), ROWS)
def test_what_became_of_a_line(line: bytes, row: Row) -> None:
    assert API.row(line) == row


REASONS = [
    ({"code": 3, "message": "temperature is bad"}, 400, "invalid_request"),
    ({"code": 8, "message": "quota"}, 429, "upstream_rate_limit"),
    ({"code": 14, "message": "overloaded"}, 503, "upstream_overloaded"),
    ({"code": 13, "message": "internal"}, 500, "upstream_error"),
    ({"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}, 429, "upstream_rate_limit"),
    ({"message": "what?"}, 500, "upstream_error"),
]


@pytest.mark.parametrize("place", ["error", "status"])
@pytest.mark.parametrize(("told", "status", "reason"), REASONS)
def test_an_error_of_a_line_is_what_a_live_call_would_have_said(
    told: dict[str, object], status: int, reason: str, place: str
) -> None:
    row = API.row(json.dumps({"key": "g-1", place: told}).encode())
    error = Gemini(AI_STUDIO).error(row.status, row.headers, row.body)
    assert isinstance(error, InferenceError)
    assert (row.status, error.reason, error.message) == (status, reason, told["message"])
    assert failed(told)[0] == status


@pytest.mark.parametrize(
    ("base_url", "host", "version"),
    [(None, "", "/v1beta"), ("http://h/g", "", "/v1beta"), ("http://h/g/v1", "http://h/g", "/v1")],
)
def test_a_version_in_the_base_url_is_where_google_wants_it(
    base_url: str | None, host: str, version: str
) -> None:
    api = registry.load(Settings("gemini", base_url)).batches
    assert api is not None
    upload = api.upload("g", [])
    assert upload is not None
    assert (upload.base_url, upload.path) == (host, f"/upload{version}/files")
    assert api.get("batches/b") == Call(f"{version}/batches/b", method="GET", base_url=host)
    told = json.dumps(_told("BATCH_STATE_SUCCEEDED", **_OUTPUT)).encode()
    [results] = api.there(told).results
    assert api.results(results).path == f"/download{version}/files/batch-o:download?alt=media"
    assert api.results(results).base_url == host


# Vertex AI.

JOBS = VertexBatches("projects/p/locations/l/", "b1", "in/")
PARENT = "/v1beta1/projects/p/locations/l"
MODEL = PARENT + "/publishers/google/models/gemini-2.5-flash:generateContent"
STORE = "https://storage.googleapis.com"
JOB = "projects/17/locations/l/batchPredictionJobs/3"


def test_lines_are_an_object_of_calls_with_labels() -> None:
    body = b'{"contents":[],"labels":{"team":"a"}}'
    line = JOBS.line("g-1", Call(MODEL, body))
    labels = {"team": "a", "millrace": "g-1"}
    assert json.loads(line) == {"request": {"contents": [], "labels": labels}}
    call = JOBS.upload("g", [line, line])
    assert call is not None
    where = "/upload/storage/v1/b/b1/o?uploadType=media&name=in%2Fg%2Finput.jsonl"
    assert (call.base_url, call.path, call.body) == (STORE, where, line + line)
    assert JOBS.uploaded("g", b'{"kind":"storage#object","name":"in/g/input.jsonl"}') == (
        "in/g/input.jsonl"
    )


def test_a_job_is_made_of_the_object_and_answers_beside_it() -> None:
    call = JOBS.create("g", MODEL, "gemini-2.5-flash", "in/g/input.jsonl", [])
    assert (call.path, call.base_url) == (f"{PARENT}/batchPredictionJobs", "")
    assert json.loads(call.body) == {
        "displayName": "g",
        "model": "publishers/google/models/gemini-2.5-flash",
        "inputConfig": {
            "instancesFormat": "jsonl",
            "gcsSource": {"uris": ["gs://b1/in/g/input.jsonl"]},
        },
        "outputConfig": {
            "predictionsFormat": "jsonl",
            "gcsDestination": {"outputUriPrefix": "gs://b1/in/g/output"},
        },
    }


TAKEN_BY_JOBS = [
    (MODEL, b'{"contents":[]}', True),
    (f"{PARENT}/publishers/anthropic/models/claude:rawPredict", b"{}", False),
    (f"{PARENT}/publishers/google/models/e:predict", b'{"instances":[]}', False),
    ("/v1beta1/projects/q/locations/l/publishers/google/models/m:generateContent", b"[]", False),
    (MODEL, b'{"generationConfig":{"responseJsonSchema":{"type":"object"}}}', False),
    (MODEL, b'{"tools":[{"functionDeclarations":[{"parametersJsonSchema":{"a":1}}]}]}', False),
    (MODEL, b'{"tools":[{"googleSearch":{}}]}', False),
    (MODEL, json.dumps({"text": '{"a":{}}'}, separators=(",", ":")).encode(), True),
]


@pytest.mark.parametrize(("path", "body", "taken"), TAKEN_BY_JOBS)
def test_what_a_job_does_as_a_live_call_does_it_is_taken(
    path: str, body: bytes, taken: bool
) -> None:
    assert JOBS.takes(Call(path, body)) is taken


def _job(state: str, **fields: object) -> dict[str, object]:
    source = {"gcsSource": {"uris": ["gs://b1/in/g/input.jsonl"]}}
    target = {"gcsDestination": {"outputUriPrefix": "gs://b1/in/g/output"}}
    return {
        "name": JOB,
        "displayName": "g",
        "state": f"JOB_STATE_{state}",
        "inputConfig": source,
        "outputConfig": target,
        **fields,
    }


_INPUT = ("in/g/input.jsonl",)
_INFO = {"outputInfo": {"gcsOutputDirectory": "gs://b1/in/g/output/prediction-1"}}
JOB_STATES: list[tuple[dict[str, object], There]] = [
    (_job("QUEUED"), There(JOB, False, name="g", files=_INPUT)),
    (_job("CANCELLING"), There(JOB, False, name="g", files=_INPUT)),
    (
        _job("SUCCEEDED", **_INFO),
        There(JOB, True, name="g", files=_INPUT, folder="in/g/output/prediction-1"),
    ),
    (
        _job("PARTIALLY_SUCCEEDED", **_INFO),
        There(JOB, True, name="g", files=_INPUT, folder="in/g/output/prediction-1"),
    ),
    # What it had done by then may be there.
    (_job("CANCELLED"), There(JOB, True, name="g", files=_INPUT, folder="in/g/output")),
    (_job("EXPIRED"), There(JOB, True, name="g", files=_INPUT, folder="in/g/output")),
    (
        _job("FAILED", error={"code": 8, "message": "quota"}),
        There(JOB, True, refused="quota", later=True, name="g", files=_INPUT, folder="in/g/output"),
    ),
    (
        _job("FAILED", error={"code": 3, "message": "bad"}, **_INFO),
        There(JOB, True, name="g", files=_INPUT, folder="in/g/output/prediction-1"),
    ),
    # Of another bucket's nothing is ours.
    (
        _job("SUCCEEDED", outputInfo={"gcsOutputDirectory": "gs://b2/x"}),
        There(JOB, True, name="g", files=_INPUT),
    ),
]


@pytest.mark.parametrize(("told", "there"), JOB_STATES)
def test_what_is_told_of_a_job(told: dict[str, object], there: There) -> None:
    assert JOBS.there(json.dumps(told).encode()) == there
    page = JOBS.page(json.dumps({"batchPredictionJobs": [told], "nextPageToken": "t="}).encode())
    assert (page.batches, page.after) == ((there,), "t=")
    assert JOBS.list("g", page.after).path == (
        f"{PARENT}/batchPredictionJobs?pageSize=100&filter=display_name%3D%22g%22&pageToken=t%3D"
    )


def test_results_are_the_files_of_lines_in_the_folder_of_a_job() -> None:
    there = There(JOB, True, files=_INPUT, folder="in/g/output")
    call = JOBS.contents(there.folder)
    assert (call.base_url, call.path) == (STORE, "/storage/v1/b/b1/o?prefix=in%2Fg%2Foutput")
    names = ("in/g/output/p/predictions.jsonl", "in/g/output/p/incremental")
    listed = json.dumps({"items": [{"name": name} for name in names]}).encode()
    filled = JOBS.filled(there, listed)
    assert (filled.results, filled.files) == (names[:1], (*_INPUT, *names))
    assert not JOBS.filled(there, b"{}").results
    path = "/storage/v1/b/b1/o/in%2Fg%2Foutput%2Fp%2Fpredictions.jsonl"
    assert JOBS.results(names[0]).path == path + "?alt=media"
    assert JOBS.discard(names[0]) == Call(path, method="DELETE", base_url=STORE)


def _row(**fields: object) -> bytes:
    request = {"contents": [], "labels": {"team": "a", "millrace": "g-1"}}
    return json.dumps({"request": request, **fields}).encode()


_REFUSED = {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}
JOB_ROWS = [
    ({"status": "", "response": {"a": 1}}, Row("g-1", 200, b'{"a": 1}', _JSON)),
    ({"status": "Internal error occurred.", "response": {}}, Row("g-1")),
    ({"status": "It ended after 5", "response": {}}, Row("g-1")),
    ({"status": {"code": 1, "message": "cancelled"}}, Row("g-1")),
]


@pytest.mark.parametrize(("fields", "row"), JOB_ROWS)
def test_what_became_of_a_line_of_a_job(fields: dict[str, object], row: Row) -> None:
    assert JOBS.row(_row(**fields)) == row


@pytest.mark.parametrize(
    "status",
    [f"Bad Request: {json.dumps({'error': _REFUSED})}", json.dumps(_REFUSED), _REFUSED],
    ids=["words", "text", "object"],
)
def test_an_error_of_a_line_of_a_job_is_what_a_live_call_would_have_said(status: object) -> None:
    row = JOBS.row(_row(status=status, response={}))
    error = Gemini(VERTEX_AI).error(row.status, row.headers, row.body)
    assert (row.status, error.reason, error.message) == (400, "invalid_request", "no")


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"request":{}}', b'{"request":{"labels":{"team":"a"}}}']
)
def test_what_is_no_row_of_a_job_is_an_error(line: bytes) -> None:
    for read in (JOBS.row, JOBS.there):
        with pytest.raises(ValueError):
            read(line)


BUCKETS = [
    ({"batch_bucket": "b1"}, VertexBatches("projects/p/locations/global/", "b1")),
    (
        {"batch_bucket": "gs://b1/a/b/", "location": "eu", "storage_url": "https://s.example/"},
        VertexBatches("projects/p/locations/eu/", "b1", "a/b/", storage="https://s.example"),
    ),
    ({}, None),
]


@pytest.mark.parametrize(("options", "api"), BUCKETS)
def test_vertex_ai_has_batches_with_a_bucket(
    options: dict[str, str], api: VertexBatches | None
) -> None:
    settings = Settings("vertex_ai", options={"project": "p", **options})
    assert registry.load(settings).batches == api


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_bucket": "b1"}, "project"),
        ({"project": "p", "batch_bucket": "s3://b1"}, "batch_bucket"),
        ({"project": "p", "batch_bucket": "b1?x"}, "batch_bucket"),
        ({"project": "p", "batch_bucket": "b1", "storage_url": "s.example"}, "storage_url"),
    ],
)
def test_a_bucket_that_cannot_be_is_told(options: dict[str, str], named: str) -> None:
    with pytest.raises(registry.ProviderError, match=named):
        registry.load(Settings("vertex_ai", options=options))
