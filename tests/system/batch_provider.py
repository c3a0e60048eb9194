"""Batch APIs of providers on a real socket, and the live calls beside; most in files of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.system.file_batches import JOBS, FileApi, asked_of
from tests.system.google_batches import GeminiApi, VertexApi, content_of
from tests.system.provider import Received, Said


def said_of(body: dict[str, Any]) -> str:
    """What the line asks, such as `say 5`."""
    return content_of(body) if "contents" in body else asked_of(body)


def message(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of Messages."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": f"native {said_of(body)}"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 7},
    }


@dataclass
class Batch:
    """A batch of a provider; `lines` as they came, `becomes` says what of each."""

    provider: str
    id: str
    lines: list[dict[str, Any]]
    asked: dict[str, Any] = field(default_factory=dict)
    status: str = "in_progress"
    files: dict[str, str] = field(default_factory=dict)


# What becomes of a line: None is an answer, 0 that it was not run, else the status of an error.
Becomes = Callable[[dict[str, Any]], int | None]


class BatchProvider:
    """The script of a `FakeProvider`; `finish` lets batches end."""

    def __init__(self) -> None:
        self._apis: dict[str, Callable[[str, Received], Said]] = {
            "openai": FileApi(self, "openai"),
            "groq": FileApi(self, "groq"),
            "mistral": FileApi(self, "mistral", JOBS),
            "anthropic": self._messages,
            "gemini": GeminiApi(self),
            "vertex_ai": VertexApi(self),
        }
        self.reset()

    def reset(self) -> None:
        """As if nothing had happened."""
        self.batches: dict[str, Batch] = {}
        self.files: dict[str, bytes] = {}
        self.live: list[str] = []
        self.deleted: list[str] = []
        self.becomes: Becomes = lambda _body: None
        # Batches end at once; else when they are told to, or cancelled.
        self.quick = True
        # Those of this one do not even end when they are cancelled.
        self.stuck = ""
        self.slow_create_s = 0.0
        # Deleting answers, once it is done.
        self.slow_delete_s = 0.0
        self.refuse: list[str] = []
        # What goes wrong with calls to the batch API, one after the other: a status instead of an
        # answer, "late" for one behind what was asked for, or "cut" for half an answer.
        self.trouble: list[int | str] = []

    def finish(self, *, as_: str = "completed") -> None:
        """Every batch ends."""
        for batch in self.batches.values():
            if batch.status in {"in_progress", "cancelling"}:
                self.end(batch, as_)

    def __call__(self, received: Received) -> Said:
        """The answer to a call."""
        path = received.path.partition("?")[0]
        live = path.endswith(("/v1/messages", "/v1/chat/completions", ":generateContent"))
        wrong = self.trouble.pop(0) if self.trouble and not live else None
        if isinstance(wrong, int) and wrong:
            return Said(wrong, {"error": {"type": "x", "message": "no"}}, {"retry-after": "0"})
        said = self._apis[received.provider](path, received)
        if wrong == "late":
            return Said(500, {"error": {"type": "api_error", "message": "but it was done"}})
        if wrong == "cut":
            whole = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            return Said(said.status, whole[: len(whole) // 2], cut=True)
        return said

    def newest(self, provider: str) -> list[Batch]:
        """Those of one of the providers."""
        return [batch for batch in reversed(self.batches.values()) if batch.provider == provider]

    def new(self, provider: str, lines: list[dict[str, Any]], asked: dict[str, Any]) -> Batch:
        """One more."""
        batch = Batch(provider, f"batch_{len(self.batches)}", lines, asked)
        self.batches[batch.id] = batch
        if self.refuse:
            batch.status = "failed"
            batch.asked["why"] = self.refuse.pop(0)
        elif self.quick:
            self.end(batch, "completed")
        return batch

    def end(self, batch: Batch, status: str) -> None:
        """It ends so."""
        batch.status = status
        api = self._apis[batch.provider]
        if isinstance(api, FileApi | GeminiApi | VertexApi):
            api.answer(batch)

    def store(self, name: str, rows: list[dict[str, Any]]) -> str:
        """A file of rows; its name."""
        self.files[name] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        return name

    # Anthropic's.

    def _messages(self, path: str, received: Received) -> Said:
        if path == "/v1/messages":
            self.live.append(said_of(received.json))
            return Said(body=message(received.json))
        assert received.headers["anthropic-version"]
        if path == "/v1/messages/batches" and received.body:
            batch = self.new("anthropic", received.json["requests"], {})
            return Said(body=self._message_batch(batch), delay_s=self.slow_create_s)
        if path == "/v1/messages/batches":
            told = [self._message_batch(batch) for batch in self.newest("anthropic")]
            return Said(body={"data": told, "has_more": False, "last_id": None})
        match = re.fullmatch(r"/v1/messages/batches/([^/]+)(/cancel|/results)?", path)
        assert match is not None
        batch = self.batches[match[1]]
        if match[2] == "/results":
            rows = [self._result(line) for line in reversed(batch.lines)]
            return Said(body=b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        if match[2] and batch.status == "in_progress":
            batch.status = "cancelled"
        return Said(body=self._message_batch(batch))

    def _result(self, line: dict[str, Any]) -> dict[str, Any]:
        code = self.becomes(line["params"])
        result: dict[str, Any] = {"type": "succeeded", "message": message(line["params"])}
        if code == 0:
            result = {"type": "expired"}
        elif code is not None:
            kind = "invalid_request_error" if code == 400 else "overloaded_error"
            error = {"type": "error", "error": {"type": kind, "message": "refused there"}}
            result = {"type": "errored", "error": error}
        return {"custom_id": line["custom_id"], "result": result}

    def _message_batch(self, batch: Batch) -> dict[str, Any]:
        over = batch.status != "in_progress"
        counts = {"processing": 0 if over else len(batch.lines)}
        counts["succeeded"] = len(batch.lines) if over else 0
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if over else "in_progress",
            "request_counts": counts,
            "results_url": None,
        }
