"""Bedrock on a real socket: its jobs, the bucket that they read and write, and live calls."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.system.provider import FakeProvider, Received, Said

REGION, ROLE = "eu-west-1", "arn:aws:iam::123456789012:role/batches"
BUCKET = "s3://lines/of/ours"
KEY = "AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
LEAST = 100
_SCOPES = {"bedrock": "bedrock", "control": "bedrock", "s3": "s3"}
_NAME = re.compile(r"[a-zA-Z0-9]{1,63}(-*[a-zA-Z0-9+.-]){0,63}")
_OPEN = frozenset({"Submitted", "InProgress", "Stopping"})
# What becomes of a record: None is an answer, 0 that it was not run, else the code of an error.
Becomes = Callable[[str], int | None]


def row(fake: FakeProvider) -> dict[str, Any]:
    """The provider in the settings."""
    return {
        "base_url": fake.url("bedrock"),
        "api_key": KEY,
        "options": {
            "region": REGION,
            "batch_bucket": BUCKET,
            "batch_role": ROLE,
            "control_url": fake.url("control"),
            "s3_url": fake.url("s3"),
        },
    }


def said_of(body: dict[str, Any]) -> str:
    """What a call asks, such as `say 5`."""
    return str(body["messages"][-1]["content"][0]["text"])


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of Converse."""
    content = [{"text": f"native {said_of(body)}"}]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 10, "outputTokens": 7, "totalTokens": 17},
        "metrics": {"latencyMs": 1},
    }


@dataclass
class Job:
    """A job and its records as they came."""

    id: str
    asked: dict[str, Any]
    records: list[dict[str, Any]]
    status: str = "InProgress"
    message: str = ""
    counts: dict[str, int] = field(default_factory=dict)


class BedrockBatches:
    """The script of a `FakeProvider`; `finish` lets jobs end."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As if nothing had happened."""
        self.jobs: dict[str, Job] = {}
        self.objects: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.live: list[str] = []
        self.becomes: Becomes = lambda _said: None
        # Jobs end at once; else when they are told to, or stopped.
        self.quick = True
        # They have written nothing when they are stopped.
        self.slow = False
        self.slow_create_s = 0.0
        # The list does not tell of them yet.
        self.blind = False
        # Codes that calls to make a job are refused with, and messages that jobs fail with.
        self.refuse: list[str] = []
        self.fail: list[str] = []
        # What goes wrong with calls that are not live, one after the other: a status instead of an
        # answer, "late" for one behind what was asked for, or "cut" for half an answer.
        self.trouble: list[int | str] = []

    def finish(self, *, as_: str = "Completed") -> None:
        """Every job ends."""
        for job in self.jobs.values():
            if job.status in _OPEN:
                self._end(job, as_)

    def __call__(self, received: Received) -> Said:
        """The answer to a call."""
        if why := _unsigned(received):
            return _error(403, "InvalidSignatureException", why)
        if received.provider == "bedrock":
            self.live.append(said_of(received.json))
            return Said(body=answer(received.json))
        wrong = self.trouble.pop(0) if self.trouble else None
        if isinstance(wrong, int) and wrong:
            return _error(wrong, "", "no")
        said = self._object(received) if received.provider == "s3" else self._control(received)
        if wrong == "late":
            return _error(500, "InternalServerException", "but it was done")
        if wrong == "cut":
            whole = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            return Said(said.status, whole[: len(whole) // 2], cut=True)
        return said

    # The bucket.

    def _object(self, received: Received) -> Said:
        path = received.path
        if not path.startswith("/lines/of/ours/"):
            return Said(403, b"<Error><Code>AccessDenied</Code></Error>")
        if received.method == "PUT":
            self.objects[path] = received.body
            return Said(200, b"")
        if received.method == "DELETE":
            if self.objects.pop(path, None) is not None:
                self.deleted.append(path)
            return Said(204, b"")
        if path not in self.objects:
            return Said(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return Said(body=self.objects[path], headers={"content-type": "binary/octet-stream"})

    def _at(self, uri: str) -> str:
        return uri.removeprefix("s3:/")

    # The control plane.

    def _control(self, received: Received) -> Said:
        parts = urlsplit(received.path)
        match (received.method, parts.path.split("/")[1:]):
            case ("POST", ["model-invocation-job"]):
                return self._create(received.json)
            case ("GET", ["model-invocation-jobs"]):
                return self._list({key: v[0] for key, v in parse_qs(parts.query).items()})
            case ("GET", ["model-invocation-job", name]) if name in self.jobs:
                return Said(body=self._told(self.jobs[name]))
            case ("POST", ["model-invocation-job", name, "stop"]) if name in self.jobs:
                job = self.jobs[name]
                if job.status not in _OPEN:
                    return _error(400, "ConflictException", "The job is over.")
                self._end(job, "Stopped")
                return Said()
        return _error(404, "ResourceNotFoundException", received.path)

    def _create(self, asked: dict[str, Any]) -> Said:
        token = asked["clientRequestToken"]
        for job in self.jobs.values():
            if job.asked["clientRequestToken"] == token:
                return Said(body={"jobArn": _arn(job)})
        if self.refuse:
            code = self.refuse.pop(0)
            return _error(400, code, f"refused: {code}")
        data = self.objects[self._at(asked["inputDataConfig"]["s3InputDataConfig"]["s3Uri"])]
        records = [json.loads(line) for line in data.splitlines()]
        assert len({record["recordId"] for record in records}) == len(records)
        assert all(record["recordId"].isalnum() for record in records)
        assert _NAME.fullmatch(asked["jobName"])
        assert (asked["roleArn"], asked["modelInvocationType"]) == (ROLE, "Converse")
        if len(records) < LEAST:
            return _error(400, "ValidationException", f"fewer than {LEAST} records")
        job = Job(f"{len(self.jobs):012}", asked, records)
        self.jobs[job.id] = job
        if self.fail:
            job.status, job.message = "Failed", self.fail.pop(0)
        elif self.quick:
            self._end(job, "Completed")
        return Said(body={"jobArn": _arn(job)}, delay_s=self.slow_create_s)

    def _list(self, query: dict[str, str]) -> Said:
        newest = [] if self.blind else list(reversed(self.jobs.values()))
        found = [self._told(job) for job in newest if query["nameContains"] in job.asked["jobName"]]
        return Said(body={"invocationJobSummaries": found})

    def _told(self, job: Job) -> dict[str, Any]:
        told = {name: value for name, value in job.asked.items() if name != "clientRequestToken"}
        return {**told, **job.counts, "jobArn": _arn(job), "status": job.status} | (
            {"message": job.message} if job.message else {}
        )

    def _end(self, job: Job, status: str) -> None:
        job.status = status
        if self.slow and status == "Stopped":
            return
        rows = []
        # In any order but ours.
        for record in reversed(job.records):
            code = self.becomes(said_of(record["modelInput"]))
            if code is None:
                rows.append({**record, "modelOutput": answer(record["modelInput"])})
            elif code:
                rows.append(
                    {**record, "error": {"errorCode": code, "errorMessage": "refused there"}}
                )
        folder = self._at(job.asked["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"]) + job.id
        name = job.asked["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].rpartition("/")[2]
        job.counts = {"successRecordCount": sum("modelOutput" in found for found in rows)}
        lines = "".join(json.dumps(found) + "\n" for found in rows)
        self.objects[f"{folder}/{name}.out"] = lines.encode()
        self.objects[f"{folder}/manifest.json.out"] = json.dumps(job.counts).encode()


def _arn(job: Job) -> str:
    return f"arn:aws:bedrock:{REGION}:123456789012:model-invocation-job/{job.id}"


def _error(status: int, code: str, message: str) -> Said:
    headers = {"x-amzn-errortype": f"{code}:http://internal.amazon.com/"} if code else {}
    return Said(status, {"message": message}, {**headers, "retry-after": "0"})


def _unsigned(received: Received) -> str:
    """What is wrong with the signature; its bytes are another test's."""
    given = received.headers.get("authorization", "")
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8})/([\w-]+)/(\w+)/aws4_request, "
        r"SignedHeaders=([\w;-]+), Signature=[0-9a-f]{64}",
        given,
    )
    if found is None:
        return f"not signed: {given}"
    who, day, region, service, names = found.groups()
    scope = (KEY.partition(":")[0], REGION, _SCOPES[received.provider])
    if (who, region, service) != scope or not received.headers["x-amz-date"].startswith(day):
        return f"signed for {(who, region, service)}"
    if not {"host", "x-amz-date"} <= {*names.split(";")}:
        return f"signed are {names} alone"
    hashed = hashlib.sha256(received.body).hexdigest()
    if service == "s3" and received.headers.get("x-amz-content-sha256") != hashed:
        return "the object is another"
    return ""
