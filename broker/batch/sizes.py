"""How much a line reads and may write, judged by its length, for what a batch would cost; pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

# Good for English prose in JSON, and never off by more than a small factor for anything else.
BYTES_PER_TOKEN = 4


class Size(NamedTuple):
    """Tokens of the prompt, and of the answers at most; `unbounded` answers are not in it."""

    read: int
    written: int
    unbounded: int


class _Body(msgspec.Struct):
    """Of a body what is read, and what bounds the answer."""

    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    instructions: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    max_tokens: int | None = None
    n: int | None = None


_decode = msgspec.json.Decoder(_Body).decode
_TEXTS = ("messages", "prompt", "input", "instructions", "tools")
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def size(body: bytes) -> Size:
    """The size of a line's body; of one that cannot be read nothing is known."""
    try:
        read = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Size(0, 0, 1)
    length = sum(len(getattr(read, name)) for name in _TEXTS)
    limit = next((value for name in _LIMITS if (value := getattr(read, name))), 0)
    answers = max(read.n or 1, 1)
    tokens = -(-length // BYTES_PER_TOKEN)
    return Size(tokens, limit * answers, 0) if limit > 0 else Size(tokens, 0, answers)
