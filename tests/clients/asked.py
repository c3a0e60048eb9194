"""What a provider was asked, whatever its format, and the one rule for what it says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One request; `body` is JSON, or the fields of a form with files as bytes."""

    provider: str
    path: str
    headers: Mapping[str, str]
    body: Json
    is_json: bool = True


@dataclass(frozen=True)
class Said:
    body: bytes
    type: str = "application/json"
    status: int = 200


@dataclass(frozen=True)
class Asked:
    """`answered`: the last message is a tool's result. `tools` are names with their schemas."""

    provider: str
    prompt: str
    tools: Mapping[str, Json] = field(default_factory=dict)
    schema: Json | None = None
    answered: bool = False

    @property
    def calls(self) -> tuple[str, Json] | None:
        """The tool that is called, with its arguments."""
        if self.answered or not self.tools:
            return None
        name, schema = next(iter(self.tools.items()))
        return name, sample(schema, schema)

    @property
    def text(self) -> str:
        if self.schema is not None:
            return json.dumps(sample(self.schema, self.schema))
        return f"{self.provider} heard: {self.prompt}"

    @property
    def pieces(self) -> list[str]:
        """The text as a stream has it."""
        words = self.text.split(" ")
        return [word if at == 0 else " " + word for at, word in enumerate(words)]


_SAMPLES: dict[str, Any] = {
    "string": "Boston",
    "integer": 18,
    "number": 18.5,
    "boolean": True,
    "null": None,
}


def sample(schema: Json, whole: Json) -> Any:
    """A value that a JSON schema takes."""
    if "$ref" in schema:
        return sample(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], whole)
    kind = schema.get("type", "object")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        return {name: sample(part, whole) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items", {"type": "string"}), whole)]
    return _SAMPLES[kind]


def said(body: Json) -> Said:
    return Said(json.dumps(body).encode())


def events(found: Iterable[Json], *, named: bool = False, done: bool = False) -> Said:
    """An event stream; `named` events have their type as the event's name."""
    lines = [
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n"
        for event in found
    ]
    return Said(
        ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode(), "text/event-stream"
    )


def text_of(content: Any) -> str:
    """The text of a message's content, with a word for each image."""
    if not isinstance(content, list):
        return str(content or "")
    found = []
    for part in content:
        if isinstance(part, str):
            found.append(part)
        elif "text" in part:
            found.append(str(part["text"]))
        elif "image" in str(part.get("type", "")) or "inlineData" in part or "inline_data" in part:
            found.append("(an image)")
    return " ".join(found)


def schema_within(text: str) -> Json | None:
    """The JSON schema in a text, where that is how a provider is told one."""
    for at, char in enumerate(text):
        if char == "{":
            with contextlib.suppress(json.JSONDecodeError):
                return dict(json.JSONDecoder().raw_decode(text[at:])[0])
    return None
