"""Batches of files of calls as a `BatchProvider` has them: OpenAI's, Groq's, and Mistral's jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.system.provider import Received, Said

if TYPE_CHECKING:
    from tests.system.batch_provider import Batch, BatchProvider

_INPUTS = ("input_file_id", "input_files")
_TOKENS = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}


def asked_of(body: dict[str, Any]) -> str:
    """What a call with messages asks, such as `say 5`."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of chat completions."""
    message = {"role": "assistant", "content": f"native {asked_of(body)}", "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": _TOKENS,
    }


@dataclass(frozen=True)
class Words:
    """What a provider calls things, where it is not as OpenAI does."""

    batches: str = "/v1/batches"
    output: str = "output_file_id"
    errors: str = "error_file_id"
    statuses: Mapping[str, str] = field(default_factory=dict)


OPENAI = Words()
# https://docs.mistral.ai/api/#tag/batch
JOBS = Words(
    "/v1/batch/jobs",
    "output_file",
    "error_file",
    {
        "in_progress": "RUNNING",
        "completed": "SUCCESS",
        "failed": "FAILED",
        "expired": "TIMEOUT_EXCEEDED",
        "cancelled": "CANCELLED",
    },
)


class FileApi:
    """That of one provider."""

    def __init__(self, provider: BatchProvider, name: str, words: Words = OPENAI) -> None:
        self._provider = provider
        self._name = name
        self._words = words

    def __call__(self, path: str, received: Received) -> Said:
        """The answer to a call."""
        there = self._provider
        if path == "/v1/chat/completions":
            there.live.append(asked_of(received.json))
            return Said(body=completion(received.json))
        if path.startswith("/v1/files"):
            return self._file(path, received)
        if path == self._words.batches and received.body:
            batch = self._make(received.json)
            return Said(body=self._told(batch), delay_s=there.slow_create_s)
        if path == self._words.batches:
            told = [self._told(batch) for batch in there.newest(self._name)]
            return Said(body={"object": "list", "data": told, "has_more": False})
        if match := re.fullmatch(rf"{self._words.batches}/([^/]+)(/cancel)?", path):
            batch = there.batches[match[1]]
            if match[2] and batch.status == "in_progress":
                there.end(batch, "cancelled")
            return Said(body=self._told(batch))
        return Said(404, {"error": {"message": path}})

    def answer(self, batch: Batch) -> None:
        """What became of its lines, in any order but ours."""
        outputs: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for line in reversed(batch.lines):
            code = self._provider.becomes(line["body"])
            row: dict[str, Any] = {"id": "batch_req_1", "custom_id": line["custom_id"]}
            if code is None:
                response = {"status_code": 200, "request_id": "r", "body": completion(line["body"])}
                outputs.append({**row, "response": response, "error": None})
            elif code:
                said = {"error": {"message": "refused there", "type": "x", "code": None}}
                response = {"status_code": code, "request_id": "r", "body": said}
                errors.append({**row, "response": response, "error": None})
            else:
                why = {"code": "batch_expired", "message": "too late"}
                errors.append({**row, "response": None, "error": why})
        for name, rows in ((self._words.output, outputs), (self._words.errors, errors)):
            if rows:
                batch.files[name] = self._provider.store(f"{name}-{batch.id}", rows)

    def _file(self, path: str, received: Received) -> Said:
        there = self._provider
        if path == "/v1/files":
            name = f"file-{len(there.files)}"
            part = re.search(
                rb'filename="[^"]+"\r\n(?:[^\r]+\r\n)*\r\n(.*?)\r\n--', received.body, re.DOTALL
            )
            assert part is not None
            assert b'name="purpose"\r\n\r\nbatch\r\n' in received.body
            there.files[name] = part[1]
            return Said(body={"id": name, "object": "file", "purpose": "batch"})
        match = re.fullmatch(r"/v1/files/([^/]+)(/content)?", path)
        if match is None or match[1] not in there.files:
            return Said(404, {"error": {"message": "no such file", "code": None}})
        if match[2]:
            return Said(body=there.files[match[1]])
        there.deleted.append(match[1])
        del there.files[match[1]]
        return Said(body={"id": match[1], "deleted": True})

    def _make(self, asked: dict[str, Any]) -> Batch:
        if self._words is JOBS:
            assert asked["timeout_hours"] == 24
            [file] = asked["input_files"]
        else:
            assert asked["completion_window"] == "24h"
            file = asked["input_file_id"]
        lines = [json.loads(line) for line in self._provider.files[file].splitlines()]
        assert {(line["method"], line["url"]) for line in lines} == {("POST", asked["endpoint"])}
        # A job is of one model.
        assert asked.get("model") in {None, *(line["body"]["model"] for line in lines)}
        return self._provider.new(self._name, lines, asked)

    def _told(self, batch: Batch) -> dict[str, Any]:
        words, why = self._words, batch.asked.get("why")
        errors: Any = None
        if why:
            listed = words is JOBS
            errors = [{"message": why, "count": 1}] if listed else {"data": [{"code": why}]}
        inputs = {name: batch.asked[name] for name in _INPUTS if name in batch.asked}
        return {
            **inputs,
            "id": batch.id,
            "object": "batch",
            "status": words.statuses.get(batch.status, batch.status),
            "metadata": batch.asked.get("metadata"),
            "errors": errors,
            words.output: batch.files.get(words.output),
            words.errors: batch.files.get(words.errors),
        }
