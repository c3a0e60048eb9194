"""Google's batch APIs as a `BatchProvider` has them: AI Studio's, Vertex AI's and Cloud Storage."""

from __future__ import annotations

import json
import re
from email import message_from_bytes
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from tests.system.provider import Received, Said

if TYPE_CHECKING:
    from tests.system.batch_provider import Batch, BatchProvider

# Google's numbers and words for what became of a line and of a batch.
_CODES = {0: 1, 400: 3, 529: 14}
_STATES = {"in_progress": "PENDING", "completed": "SUCCEEDED"}
_LONGEST_NAME = 40


def content_of(body: dict[str, Any]) -> str:
    """What a call of generateContent asks, such as `say 5`."""
    return str(body["contents"][-1]["parts"][0]["text"])


class GeminiApi:
    """AI Studio's."""

    def __init__(self, provider: BatchProvider) -> None:
        self._provider = provider

    def __call__(self, path: str, received: Received) -> Said:
        """The answer to a call."""
        there = self._provider
        verb = path.rpartition(":")[2]
        if verb == "generateContent":
            there.live.append(content_of(received.json))
            return Said(body=generated(received.json))
        if path == "/upload/v1beta/files":
            return Said(body={"file": {"name": self._store(received), "state": "ACTIVE"}})
        if verb == "batchGenerateContent":
            asked = received.json["batch"]
            name = asked["inputConfig"]["fileName"]
            lines = [json.loads(line) for line in there.files[name].splitlines()]
            batch = there.new("gemini", lines, {**asked, "path": path})
            return Said(body=self._told(batch), delay_s=there.slow_create_s)
        if path == "/v1beta/batches":
            return Said(body={"operations": [*map(self._told, there.newest("gemini"))]})
        if match := re.fullmatch(r"/v1beta/batches/([^/:]+)(:cancel)?", path):
            batch = there.batches[match[1]]
            if match[2]:
                if batch.status == "in_progress" and there.stuck != batch.provider:
                    there.end(batch, "cancelled")
                return Said()
            return Said(body=self._told(batch))
        return self._file(path, received)

    def answer(self, batch: Batch) -> None:
        """What became of its lines; nothing of those of a batch that did not end well."""
        if batch.status != "completed":
            return
        rows: list[dict[str, Any]] = []
        for line in reversed(batch.lines):
            code = self._provider.becomes(line["request"])
            if code is None:
                rows.append({"key": line["key"], "response": generated(line["request"])})
            else:
                error = {"code": _CODES[code], "message": "refused there"}
                rows.append({"key": line["key"], "error": error})
        name = f"files/batch-{batch.id}-whose-name-is-as-long-as-theirs"
        batch.files["output"] = self._provider.store(name, rows)

    def _told(self, batch: Batch) -> dict[str, Any]:
        state = _STATES.get(batch.status, batch.status.upper())
        metadata = {
            "displayName": batch.asked["displayName"],
            "state": f"BATCH_STATE_{state}",
            "inputConfig": batch.asked["inputConfig"],
        }
        told: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": metadata}
        if batch.status != "in_progress":
            told["done"] = True
        if why := batch.asked.get("why"):
            told["error"] = {"code": 8 if "limit" in why else 3, "message": why}
        elif batch.files:
            told["response"] = {"responsesFile": batch.files["output"]}
        return told

    def _store(self, received: Received) -> str:
        assert received.headers["x-goog-upload-protocol"] == "multipart"
        kind = received.headers["content-type"]
        parts = message_from_bytes(b"content-type: %b\r\n\r\n%b" % (kind.encode(), received.body))
        assert parts.get_content_type() == "multipart/related"
        _, told, file = parts.walk()
        assert json.loads(str(told.get_payload()))["file"]["displayName"]
        data = file.get_payload(decode=True)
        assert isinstance(data, bytes)
        name = f"files/{len(self._provider.files)}"
        self._provider.files[name] = data
        return name

    def _file(self, path: str, received: Received) -> Said:
        there = self._provider
        if match := re.fullmatch(r"/download/v1beta/(files/[^:]+):download", path):
            assert received.path.endswith("?alt=media")
            return Said(body=there.files[match[1]])
        name = path.removeprefix("/v1beta/")
        if len(name.removeprefix("files/")) > _LONGEST_NAME:
            why = "File ID (name excluding 'files/') cannot be more than 40 characters."
            return Said(400, {"error": {"code": 400, "message": why, "status": "INVALID_ARGUMENT"}})
        there.deleted.append(name)
        del there.files[name]
        return Said()


class VertexApi:
    """Vertex AI's jobs of project `p1`, over the bucket `b1`."""

    parent = "/v1beta1/projects/p1/locations/us-central1"
    # Jobs are told of by the project's number.
    numbered = "projects/17/locations/us-central1/batchPredictionJobs/"

    def __init__(self, provider: BatchProvider) -> None:
        self._provider = provider

    def __call__(self, path: str, received: Received) -> Said:
        """The answer to a call."""
        there = self._provider
        assert received.headers["authorization"] == "Bearer ya29.key-of-vertex_ai"
        if path.endswith(":generateContent"):
            there.live.append(content_of(received.json))
            return Said(body=generated(received.json))
        if "/storage/v1/b/b1/o" in path:
            return self._storage(path, received)
        if path == f"{self.parent}/batchPredictionJobs":
            if not received.body:
                [wanted] = parse_qs(received.path.partition("?")[2])["filter"]
                told = map(self._told, there.newest("vertex_ai"))
                named = [job for job in told if f'display_name="{job["displayName"]}"' == wanted]
                return Said(body={"batchPredictionJobs": named})
            asked = received.json
            assert asked["model"] == "publishers/google/models/gemini-2.5-flash"
            [uri] = asked["inputConfig"]["gcsSource"]["uris"]
            stored = there.files[uri.removeprefix("gs://b1/")]
            lines = [json.loads(line) for line in stored.splitlines()]
            batch = there.new("vertex_ai", lines, asked)
            return Said(body=self._told(batch), delay_s=there.slow_create_s)
        match = re.fullmatch(rf"/v1beta1/{self.numbered}([^/:]+)(:cancel)?", path)
        assert match is not None, path
        batch = there.batches[match[1]]
        if match[2]:
            if batch.status == "in_progress" and there.stuck != batch.provider:
                there.end(batch, "cancelled")
            return Said()
        return Said(body=self._told(batch))

    def answer(self, batch: Batch) -> None:
        """What became of its lines; those that were done are there however it ended."""
        if batch.status == "failed":
            return
        rows: list[dict[str, Any]] = []
        for line in reversed(batch.lines):
            code = self._provider.becomes(line["request"])
            row = {"status": "", "processed_time": "2026-11-21T20:00:00Z", **line}
            if code is None:
                rows.append({**row, "response": generated(line["request"])})
            elif code:
                why = {"error": {"code": code, "message": "refused there", "status": "X"}}
                said = f"Bad Request: {json.dumps(why)}"
                rows.append({**row, "status": said, "response": {}})
        prefix = batch.asked["outputConfig"]["gcsDestination"]["outputUriPrefix"]
        batch.files["output"] = folder = f"{prefix}/prediction-model-2026-11-21T20:00:00.1Z"
        name = folder.removeprefix("gs://b1/")
        half = len(rows) // 2
        self._provider.store(f"{name}/predictions_1.jsonl", rows[:half])
        self._provider.store(f"{name}/predictions_2.jsonl", rows[half:])
        self._provider.files[f"{name}/incremental"] = b""

    def _told(self, batch: Batch) -> dict[str, Any]:
        state = _STATES.get(batch.status, batch.status.upper())
        told = {**batch.asked, "name": self.numbered + batch.id, "state": f"JOB_STATE_{state}"}
        if why := told.pop("why", None):
            told["error"] = {"code": 8 if "limit" in why else 3, "message": why}
        elif batch.files:
            told["outputInfo"] = {"gcsOutputDirectory": batch.files["output"]}
        return told

    def _storage(self, path: str, received: Received) -> Said:
        there = self._provider
        query = {name: value for name, [value] in parse_qs(received.path.partition("?")[2]).items()}
        if path == "/upload/storage/v1/b/b1/o":
            assert query["uploadType"] == "media"
            there.files[query["name"]] = received.body
            return Said(body={"kind": "storage#object", "name": query["name"], "bucket": "b1"})
        if path == "/storage/v1/b/b1/o":
            names = [name for name in there.files if name.startswith(query["prefix"])]
            return Said(body={"items": [{"name": name} for name in names]} if names else {})
        name = path.removeprefix("/storage/v1/b/b1/o/")
        assert "/" not in name
        name = unquote(name)
        if name not in there.files:
            return Said(404, {"error": {"code": 404, "message": f"No such object: b1/{name}"}})
        if query.get("alt") == "media":
            return Said(body=there.files[name])
        there.deleted.append(name)
        del there.files[name]
        answers = "/output/" in name and name.endswith(".jsonl")
        return Said(204, b"", delay_s=there.slow_delete_s if answers else 0.0)


def generated(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of generateContent."""
    text = f"native {content_of(body)}"
    if "responseJsonSchema" in body.get("generationConfig", {}):
        text = json.dumps({"b": text})
    content = {"role": "model", "parts": [{"text": text}]}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 7, "totalTokenCount": 17},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r",
    }
