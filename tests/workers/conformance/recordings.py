"""Recorded answers of real providers: one JSON file each under tests/workers/recordings/<provider>.

    {
      "model": "gpt-4o",              what was asked
      "stream": true,
      "status": 200,
      "headers": {"content-type": ...},
      "body": {...}                    the answer as JSON, or
      "text": "data: ...",             as text (an event stream with LF line ends, an HTML page), or
      "b64": "...",                    as bytes (a stream of these is an AWS event stream)
      "expected": {                    what the caller has to be told
        "model": "gpt-4o-2024-08-06",
        "choices": [{"text", "reasoning", "refusal", "tool_calls": [{"name", "arguments"}],
                     "finish_reason": "stop|length|tool_calls|content_filter"}],
        "usage": {"prompt", "completion", "cached", "reasoning"}   totals, as a caller counts
      } or {"error": {"reason", "message", "param", "code", "upstream_status"}}
    }

Keys of `expected` that are absent are not compared; `arguments` is the parsed JSON.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "recordings"


@dataclass(frozen=True)
class Recording:
    provider: str
    name: str
    model: str
    stream: bool
    status: int
    headers: dict[str, str]
    answer: bytes
    is_text: bool
    expected: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.provider}-{self.name}"

    @property
    def is_event_stream(self) -> bool:
        return self.stream and self.is_text and self.status < 400

    @property
    def is_binary_stream(self) -> bool:
        return "amazon.eventstream" in self.headers.get("content-type", "")

    @property
    def ends(self) -> list[int]:
        """Where each event of a stream ends: with a blank line, or after its length."""
        if not self.is_binary_stream:
            return [match.end() for match in re.finditer(rb"\n\n", self.answer)]
        ends = [0]
        while ends[-1] < len(self.answer):
            ends.append(ends[-1] + int.from_bytes(self.answer[ends[-1] :][:4], "big"))
        return ends[1:]


def load(path: Path) -> Recording:
    case = json.loads(path.read_text("utf-8"))
    if "text" in case:
        answer = case["text"].encode()
    elif "b64" in case:
        answer = base64.b64decode(case["b64"])
    else:
        answer = json.dumps(case["body"], ensure_ascii=False).encode()
    return Recording(
        provider=path.parent.name,
        name=path.stem,
        model=case["model"],
        stream=case["stream"],
        status=case["status"],
        headers={name.lower(): value for name, value in case["headers"].items()},
        answer=answer,
        is_text="text" in case,
        expected=case["expected"],
    )


def providers() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def all_recordings() -> list[Recording]:
    return [load(path) for path in sorted(FOLDER.glob("*/*.json"))]
