"""What Bedrock's batch jobs and their bucket are asked, how they answer, and what turns them on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.session
import pytest

from broker.batch import lines
from broker.batch.chunks import Raw
from broker.subjects import group_id
from workers import registry
from workers.batches import Page, Row, There
from workers.batches.invocations import InvocationJobs
from workers.handover import Handed, call_of
from workers.provider import Provider
from workers.registry import ProviderError
from workers.wire import Call

ROLE = "arn:aws:iam::123456789012:role/service/batches"
OPTIONS = {"region": "eu-west-1", "batch_bucket": "s3://lines/of/ours/", "batch_role": ROLE}
NAME = group_id("batch_" + "0123456789abcdef" * 2, 1_000_000)
JOB = NAME.replace("_", "-")
MODEL = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
ARN = "arn:aws:bedrock:eu-west-1:123456789012:model-invocation-job/a1b2c3d4e5f6"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class _Settings:
    options: dict[str, str]
    base_url: str | None = None
    name: str = "bedrock"
    kind: str = "bedrock"
    models: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


def load(base_url: str | None = None, **options: str) -> Provider:
    return registry.load(_Settings(options, base_url))


def api(**options: str) -> InvocationJobs:
    found = load(**{**OPTIONS, **options}).batches
    assert isinstance(found, InvocationJobs)
    return found


BEDROCK = load(**OPTIONS)


def call_for(body: dict[str, Any], model: str = MODEL, endpoint: str = CHAT) -> Call | None:
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "m", **body}}
    data = json.dumps(line).encode()
    return call_of(Handed(Raw(1, 0, data), lines.read(data)[0]), endpoint, model, BEDROCK)


HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
CACHED = {"type": "text", "text": "hello" * 2000, "cache_control": {"type": "ephemeral"}}
TITAN = "amazon.titan-embed-text-v2:0"


SCHEMA = {"name": "a", "schema": {"type": "object", "properties": {"b": {"type": "string"}}}}
TAKEN = [
    HELLO,
    HELLO | {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    HELLO | {"messages": [{"role": "system", "content": '{"toolConfig": 1}'}, *HELLO["messages"]]},
]


@pytest.mark.parametrize("body", TAKEN)
def test_a_chat_is_a_record_of_converse(body: dict[str, Any]) -> None:
    call = call_for(body)
    assert call is not None
    record = json.loads(api().line(f"{NAME}-17", call))
    assert record["modelInput"]["messages"] == [{"role": "user", "content": [{"text": "hello"}]}]
    assert record["recordId"].isalnum()


LIVE = [
    (MODEL, CHAT, HELLO | {"stream": True}),
    (MODEL, CHAT, HELLO | {"service_tier": "flex"}),
    (MODEL, CHAT, HELLO | {"performanceConfig": {"latency": "optimized"}}),
    (MODEL, CHAT, HELLO | {"guardrailConfig": {"guardrailIdentifier": "g"}}),
    (MODEL, CHAT, HELLO | {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    (MODEL, CHAT, {"messages": [{"role": "user", "content": [CACHED]}]}),
    (MODEL, CHAT, HELLO | {"region": "us-west-2"}),
    (MODEL.replace("eu.", "arn:aws:bedrock:us-east-1::foundation-model/"), CHAT, HELLO),
    # Their answers count tokens in a header.
    ("cohere.embed-v4:0", "/v1/embeddings", {"input": "hello"}),
    (TITAN, "/v1/embeddings", {"input": ["hello", "world"]}),
    ("amazon.nova-canvas-v1:0", "/v1/images/generations", {"prompt": "a cat"}),
]


@pytest.mark.parametrize(("model", "endpoint", "body"), LIVE)
def test_what_a_job_would_not_do_justice_to_runs_live(
    model: str, endpoint: str, body: dict[str, Any]
) -> None:
    assert call_for(body, model, endpoint) is None


@pytest.mark.parametrize(
    ("model", "endpoint", "body", "kind"),
    [
        (MODEL, CHAT, HELLO, "Converse"),
        (MODEL, "/v1/responses", {"input": "hello"}, "Converse"),
        (TITAN, "/v1/embeddings", {"input": "hello"}, "InvokeModel"),
    ],
)
def test_a_job_reads_its_file_and_writes_beside_it(
    model: str, endpoint: str, body: dict[str, Any], kind: str
) -> None:
    line = call_for(body, model, endpoint)
    assert line is not None
    upload = api().upload(NAME, [b"1\n", b"2\n"])
    assert upload is not None
    path = f"/of/ours/{JOB}.jsonl"
    assert (upload.method, upload.base_url + upload.path, upload.body, upload.service) == (
        "PUT",
        f"https://lines.s3.eu-west-1.amazonaws.com{path}",
        b"1\n2\n",
        "s3",
    )
    assert api().uploaded(NAME, b"") == path
    call = api().create(NAME, line.path, model, path, [])
    assert (call.method, call.base_url + call.path, call.service) == (
        "POST",
        "https://bedrock.eu-west-1.amazonaws.com/model-invocation-job",
        "",
    )
    assert json.loads(call.body) == {
        "jobName": JOB,
        "clientRequestToken": JOB,
        "modelId": model,
        "modelInvocationType": kind,
        "roleArn": ROLE,
        "inputDataConfig": {
            "s3InputDataConfig": {
                "s3Uri": f"s3://lines/of/ours/{JOB}.jsonl",
                "s3InputFormat": "JSONL",
            }
        },
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://lines/of/ours/"}},
        "timeoutDurationInHours": 24,
    }


def test_jobs_are_asked_for_as_awss_own_library_would() -> None:
    """Paths, queries and fields against the service's model, with the patterns it has for them."""
    service = botocore.session.get_session().get_service_model("bedrock")
    calls = {
        "CreateModelInvocationJob": api().create(NAME, "/model/m/converse", MODEL, "f", []),
        "GetModelInvocationJob": api().get("a1b2c3d4e5f6"),
        "StopModelInvocationJob": api().cancel("a1b2c3d4e5f6"),
        "ListModelInvocationJobs": api().list(NAME, "more=/+"),
    }
    for name, call in calls.items():
        operation = service.operation_model(name)
        parts = urlsplit(call.path)
        template = operation.http["requestUri"].replace("{jobIdentifier}", "a1b2c3d4e5f6")
        assert (call.method, parts.path) == (operation.http["method"], template)
        sent = {key: values[0] for key, values in parse_qs(parts.query).items()}
        sent |= json.loads(call.body or b"{}")
        for key, value in sent.items():
            shape = operation.input_shape.members[key]
            if pattern := shape.metadata.get("pattern"):
                assert re.fullmatch(pattern, value), key
                assert len(value) <= shape.metadata["max"]
            if options := shape.metadata.get("enum"):
                assert value in options
        assert {*operation.input_shape.required_members} <= {*sent, "jobIdentifier"}
    assert parse_qs(urlsplit(calls["ListModelInvocationJobs"].path).query)["nextToken"] == [
        "more=/+"
    ]


def _job(status: str, **fields: object) -> dict[str, object]:
    return {"jobArn": ARN, "jobName": JOB, "status": status, "modelId": MODEL, **fields}


_INPUT, _FOLDER = f"/of/ours/{JOB}.jsonl", "/of/ours/a1b2c3d4e5f6"
_OUTPUT = f"{_FOLDER}/{JOB}.jsonl.out"
_FILES = (_INPUT, _OUTPUT, f"{_FOLDER}/manifest.json.out")
_DONE = There("a1b2c3d4e5f6", over=True, results=(_OUTPUT,), name=NAME, files=_FILES)
_OPEN = There("a1b2c3d4e5f6", over=False, name=NAME)
STATES: list[tuple[dict[str, object], There]] = [
    *(
        (_job(status), _OPEN)
        for status in ("Submitted", "Validating", "Scheduled", "InProgress", "Stopping", "New")
    ),
    *(
        (_job(status, message="m"), _DONE)
        for status in ("Completed", "PartiallyCompleted", "Stopped", "Expired")
    ),
    (
        _job("Failed", message="no role"),
        There("a1b2c3d4e5f6", True, refused="no role", name=NAME, files=_FILES),
    ),
    (
        _job("Failed", successRecordCount=0),
        There("a1b2c3d4e5f6", True, refused="Failed", name=NAME, files=_FILES),
    ),
    (_job("Failed", message="no role", successRecordCount=7), _DONE),
]


@pytest.mark.parametrize(("told", "there"), STATES)
def test_what_is_told_of_a_job(told: dict[str, object], there: There) -> None:
    assert api().there(json.dumps(told).encode()) == there
    page = {"invocationJobSummaries": [told], "nextToken": "t"}
    assert api().page(json.dumps(page).encode()) == Page((there,), "t")


def test_of_a_job_that_was_made_the_arn_is_told() -> None:
    assert api().there(json.dumps({"jobArn": ARN}).encode()) == There("a1b2c3d4e5f6", over=False)


_ID = f"{NAME}-17"
_JSON = {"content-type": "application/json"}
ROWS: list[tuple[dict[str, object], Row]] = [
    ({"modelOutput": {"a": 1}}, Row(_ID, 200, b'{"a":1}', _JSON)),
    (
        {"error": {"errorCode": 400, "errorMessage": "bad request"}},
        Row(_ID, 400, b'{"message":"bad request"}', _JSON),
    ),
    (
        {"modelOutput": None, "error": {"errorCode": "429", "errorMessage": None}},
        Row(_ID, 429, b'{"message":""}', _JSON),
    ),
    ({"error": {"errorCode": "Throttled"}}, Row(_ID, 500, b'{"message":""}', _JSON)),
    ({"error": {"errorCode": 200}}, Row(_ID, 500, b'{"message":""}', _JSON)),
    ({"error": {}}, Row(_ID, 500, b'{"message":""}', _JSON)),
    ({"modelOutput": None, "error": None}, Row(_ID)),
    ({}, Row(_ID)),
]


@pytest.mark.parametrize(("fields", "row"), ROWS)
def test_what_became_of_a_record(fields: dict[str, object], row: Row) -> None:
    record = json.loads(api().line(_ID, Call("/", b'{"in":1}')))
    line = json.dumps({**record, **fields}, separators=(",", ":")).encode()
    assert api().row(line) == row


@pytest.mark.parametrize(
    "answer", [b"", b"<Error/>", b"[]", b"{}", b'{"jobArn":null}', b"1", b"null"]
)
def test_garbage_is_no_job_and_no_record(answer: bytes) -> None:
    for read in (api().there, api().row, api().page):
        with pytest.raises(ValueError):
            read(answer)
    with pytest.raises(ValueError):
        api().there(b'{"jobArn":""}')


def test_without_a_bucket_there_are_no_jobs() -> None:
    assert load(region="eu-west-1").batches is None


HOSTS = [
    (
        None,
        {},
        "https://bedrock.eu-west-1.amazonaws.com",
        "https://lines.s3.eu-west-1.amazonaws.com",
    ),
    (
        "https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com/",
        {},
        "https://bedrock-fips.us-gov-west-1.amazonaws.com",
        "https://lines.s3-fips.us-gov-west-1.amazonaws.com",
    ),
    (
        None,
        {"region": "cn-north-1"},
        "https://bedrock.cn-north-1.amazonaws.com.cn",
        "https://lines.s3.cn-north-1.amazonaws.com.cn",
    ),
    (
        None,
        {"batch_bucket": "s3://lines.of.ours"},
        "https://bedrock.eu-west-1.amazonaws.com",
        "https://s3.eu-west-1.amazonaws.com/lines.of.ours",
    ),
    (
        "http://127.0.0.1:9/bedrock",
        {"control_url": "http://127.0.0.1:9/control/", "s3_url": "http://127.0.0.1:9/s3/"},
        "http://127.0.0.1:9/control",
        "http://127.0.0.1:9/s3/lines",
    ),
]


@pytest.mark.parametrize(("base_url", "options", "control", "bucket"), HOSTS)
def test_the_services_are_in_the_region_of_the_models(
    base_url: str | None, options: dict[str, str], control: str, bucket: str
) -> None:
    found = load(base_url, **{**OPTIONS, **options}).batches
    assert isinstance(found, InvocationJobs)
    assert (found.control, found.bucket) == (control, bucket)


@pytest.mark.parametrize(
    ("base_url", "options", "named"),
    [
        (None, {"batch_bucket": ""}, "batch_bucket"),
        (None, {"batch_bucket": "lines"}, "batch_bucket"),
        (None, {"batch_bucket": "s3://lines/../others"}, "batch_bucket"),
        (None, {"batch_bucket": "s3://lines/a?b"}, "batch_bucket"),
        (None, {"batch_bucket": "s3://evil.example.com:80/"}, "batch_bucket"),
        (None, {"batch_role": ""}, "batch_role"),
        (None, {"batch_role": "admin"}, "batch_role"),
        (None, {"s3_url": "s3.example.com"}, "s3_url"),
        ("https://bedrock.example.com", {}, "control_url"),
        ("https://bedrock.example.com", {"s3_url": "https://s3.example.com"}, "control_url"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    base_url: str | None, options: dict[str, str], named: str
) -> None:
    with pytest.raises(ProviderError, match=named):
        load(base_url, **{**OPTIONS, **options})
