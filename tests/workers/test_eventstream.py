from __future__ import annotations

import json
import subprocess
import sys
from zlib import crc32

import pytest

from broker.errors import InferenceError
from workers.eventstream import EventStreamFramer, Message


def message(payload: bytes, **headers: str) -> bytes:
    """One message of the format, written by its description."""
    named = {f":{name.replace('_', '-')}": value for name, value in headers.items()}
    packed = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + len(v).to_bytes(2, "big") + v.encode()
        for name, v in named.items()
    )
    prelude = (len(packed) + len(payload) + 16).to_bytes(4, "big") + len(packed).to_bytes(4, "big")
    body = prelude + crc32(prelude).to_bytes(4, "big") + packed + payload
    return body + crc32(body).to_bytes(4, "big")


EVENT = message(b'{"a":"\xc3\xa9"}', message_type="event", event_type="messageStart")
EMPTY = message(b"", message_type="error", error_code="Oops", error_message="no")
THROWN = message(b"{}", message_type="exception", exception_type="throttlingException")


def read(data: bytes, size: int) -> list[Message]:
    framer = EventStreamFramer()
    found: list[Message] = []
    for start in range(0, len(data), size):
        found += framer.feed(data[start : start + size])
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 13, 4096])
def test_messages_are_the_same_however_they_are_cut(size: int) -> None:
    found = read(EVENT + EMPTY + THROWN + EVENT, size)
    assert [(m.kind, m.name) for m in found] == [
        ("event", "messageStart"),
        ("error", "Oops"),
        ("exception", "throttlingException"),
        ("event", "messageStart"),
    ]
    assert json.loads(found[0].payload) == {"a": "é"}
    assert found[1].headers[":error-message"] == "no"


def test_half_a_message_is_kept_and_seen() -> None:
    framer = EventStreamFramer()
    assert list(framer.feed(EVENT[:-1])) == []
    assert len(list(framer.feed(EVENT[-1:]))) == 1


def spoiled(at: int) -> bytes:
    return EVENT[:at] + bytes([EVENT[at] ^ 1]) + EVENT[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        spoiled(0),
        spoiled(9),
        spoiled(len(EVENT) // 2),
        spoiled(len(EVENT) - 1),
        b"<!doctype html><html><body>Bad gateway</body></html>",
        b'{"message":"no stream at all"}',
        b"\0" * 16,
    ],
    ids=["length", "prelude sum", "middle", "end", "page", "json", "zeros"],
)
@pytest.mark.parametrize("size", [1, 4096])
def test_what_is_broken_or_another_format_is_an_error(data: bytes, size: int) -> None:
    with pytest.raises(InferenceError) as caught:
        read(data, size)
    assert caught.value.reason == "upstream_error"


def test_what_came_whole_before_the_break_is_given() -> None:
    messages = EventStreamFramer().feed(EVENT + spoiled(3))
    assert next(messages).name == "messageStart"
    with pytest.raises(InferenceError):
        next(messages)


def test_no_other_provider_loads_botocore() -> None:
    code = (
        "import sys\n"
        "import workers.__main__\n"
        "from workers import registry\n"
        "for name in ('sim', 'anthropic', 'cohere', 'openai'): registry.provider(name)\n"
        "print([m for m in sys.modules if m.startswith('botocore')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
