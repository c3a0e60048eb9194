"""Batches of Amazon Bedrock: model invocation jobs, over files in a bucket of the operator's.

Source: the service model of bedrock, and
https://docs.aws.amazon.com/bedrock/latest/userguide/batch-inference.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import orjson

from workers.batches import Page, Row, There
from workers.batches.reading import readable
from workers.paths import segment
from workers.wire import Call

_JOB = "/model-invocation-job"
_JSON = {"content-type": "application/json"}
_LINES = {"content-type": "application/jsonl"}
_PAGE = 100
_HOURS = 24
_CONVERSE = re.compile(r"/model/[^/]+/converse")
# Of other formats those whose answers count their tokens by themselves: headers are not kept.
_INVOKE = re.compile(r"/model/[^/]*titan-embed-(text-v2|image)[^/]*/invoke")
# Fields of Converse that jobs refuse or do not keep to; within a text their quotes are escaped.
_NOT_THERE = tuple(
    b'"%b":' % name
    for name in (
        b"toolConfig",
        b"cachePoint",
        b"guardrailConfig",
        b"serviceTier",
        b"performanceConfig",
    )
)
_OVER = frozenset({"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"})
_FAILED = "Failed"
_SERVER_ERROR = 500
_ERRORS = range(400, 600)
# Names of jobs have no underscores, ids of records nothing but letters and digits; ours have
# small letters, digits and these.
_TO_RECORD = str.maketrans("_-", "XY")
_FROM_RECORD = str.maketrans("XY", "_-")


class _Job(msgspec.Struct, rename="camel"):
    job_arn: str
    job_name: str = ""
    # Nothing but the ARN is told of a job that was just made.
    status: str = "Submitted"
    message: str | None = None
    success_record_count: int | None = None


class _List(msgspec.Struct, rename="camel"):
    invocation_job_summaries: list[_Job]
    next_token: str | None = None


class _Error(msgspec.Struct, rename="camel"):
    error_code: int | str | None = None
    error_message: str | None = None


class _Record(msgspec.Struct, rename="camel"):
    record_id: str
    model_output: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


_decode_job = msgspec.json.Decoder(_Job).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_record = msgspec.json.Decoder(_Record).decode


@dataclass(frozen=True, slots=True)
class InvocationJobs:
    """See the module."""

    # Addresses of the service's control plane and of the bucket.
    control: str
    bucket: str
    # Where in the bucket its files are, as a URI and, with a slash in front, within the bucket.
    uri: str
    folder: str
    # The ARN of the role that reads and writes them.
    role: str
    headers: frozenset[str] = field(default=frozenset({"content-type", "accept"}))
    named: bool = True
    # Source: AWS's quotas for batch inference.
    least: int = 100

    def takes(self, call: Call) -> bool:
        """Whether a call is one of Converse, or of a format whose answers say what they cost."""
        known = _CONVERSE.fullmatch(call.path) or _INVOKE.fullmatch(call.path)
        return known is not None and not any(name in call.body for name in _NOT_THERE)

    def line(self, custom_id: str, call: Call) -> bytes:
        """A line of the file."""
        return b'{"recordId":%b,"modelInput":%b}\n' % (
            orjson.dumps(custom_id.translate(_TO_RECORD)),
            call.body,
        )

    def upload(self, name: str, lines: Sequence[bytes]) -> Call | None:
        """The file as an object of the bucket."""
        return self._object("PUT", self.uploaded(name, b""), b"".join(lines))

    def uploaded(self, name: str, answer: bytes) -> str:
        """Its path: S3 answers nothing."""
        del answer
        return f"{self.folder}/{_job_name(name)}.jsonl"

    def create(self, name: str, path: str, model: str, file: str, lines: Sequence[bytes]) -> Call:
        """The call that makes the job; made again, it is the same job."""
        del file, lines
        job = _job_name(name)
        body = {
            "jobName": job,
            "clientRequestToken": job,
            "modelId": model,
            "modelInvocationType": "Converse" if _CONVERSE.fullmatch(path) else "InvokeModel",
            "roleArn": self.role,
            "inputDataConfig": {
                "s3InputDataConfig": {
                    "s3Uri": f"{self.uri}/{job}.jsonl",
                    "s3InputFormat": "JSONL",
                }
            },
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"{self.uri}/"}},
            "timeoutDurationInHours": _HOURS,
        }
        return Call(_JOB, orjson.dumps(body), _JSON, base_url=self.control)

    def get(self, batch: str) -> Call:
        """The call that asks for a job."""
        return Call(f"{_JOB}/{batch}", method="GET", base_url=self.control)

    def cancel(self, batch: str) -> Call:
        """The call that stops a job."""
        return Call(f"{_JOB}/{batch}/stop", base_url=self.control)

    def there(self, answer: bytes) -> There:
        """The job that was made or asked for."""
        with readable():
            return self._there(_decode_job(answer))

    def list(self, name: str, after: str) -> Call:
        """A page of the jobs whose names hold this one."""
        query = f"maxResults={_PAGE}&nameContains={_job_name(name)}"
        query += "&sortBy=CreationTime&sortOrder=Descending"
        if after:
            query += f"&nextToken={segment(after)}"
        return Call(f"{_JOB}s?{query}", method="GET", base_url=self.control)

    def page(self, answer: bytes) -> Page:
        """That page."""
        with readable():
            told = _decode_list(answer)
        return Page(tuple(map(self._there, told.invocation_job_summaries)), told.next_token or "")

    def results(self, path: str) -> Call:
        """The call that asks for the results."""
        return self._object("GET", path)

    def row(self, line: bytes) -> Row:
        """A line of the results; one with neither answer nor error was never run."""
        with readable():
            read = _decode_record(line)
        name = read.record_id.translate(_FROM_RECORD)
        if read.error is not None:
            said = {"message": read.error.error_message or ""}
            return Row(name, _status(read.error.error_code), orjson.dumps(said), _JSON)
        body = bytes(read.model_output)
        return Row(name) if body == b"null" else Row(name, 200, body, _JSON)

    def discard(self, file: str) -> Call:
        """The call that deletes an object."""
        return self._object("DELETE", file)

    def _object(self, method: str, path: str, body: bytes = b"") -> Call:
        return Call(path, body, _LINES, method=method, base_url=self.bucket, service="s3")

    def _there(self, told: _Job) -> There:
        batch = told.job_arn.rpartition("/")[2]
        if not batch:
            raise ValueError("no jobArn")
        file = f"{told.job_name}.jsonl"
        output = f"{self.folder}/{batch}/{file}.out"
        over = told.status in _OVER
        # What it did before it failed has to be paid for.
        failed = told.status == _FAILED and not told.success_record_count
        return There(
            id=batch,
            over=over,
            results=(output,) if over and not failed else (),
            refused=(told.message or told.status) if failed else "",
            name=told.job_name.replace("-", "_"),
            files=(f"{self.folder}/{file}", output, f"{self.folder}/{batch}/manifest.json.out")
            if over
            else (),
        )


def _job_name(name: str) -> str:
    return name.replace("_", "-")


def _status(code: int | str | None) -> int:
    """The status that the call would have had."""
    digits = str(code)
    status = int(digits) if digits.isdecimal() else _SERVER_ERROR
    return status if status in _ERRORS else _SERVER_ERROR
