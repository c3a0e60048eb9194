"""Hub requests and events for tests, written in protobuf's text format."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import text_format

from broker.translate.responses_request import parse_responses
from broker.v1 import event_pb2, generation_pb2


def asked(**fields: Any) -> generation_pb2.Request:
    """The hub request of a Responses body."""
    return parse_responses(json.dumps({"model": "m", "input": "Hello!", **fields}).encode())


def events(text: str) -> list[event_pb2.Event]:
    """Events in protobuf text format, one a line."""
    return [
        text_format.Parse(line, event_pb2.Event())
        for line in text.strip().splitlines()
        if line.strip()
    ]


def shown(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream; each one's name is its type, and their numbers leave no gap."""
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    first = found[0]["sequence_number"] if found else 0
    assert [event["sequence_number"] for event in found] == [*range(first, first + len(found))]
    return found
