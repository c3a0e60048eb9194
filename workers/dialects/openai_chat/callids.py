"""Keeps tool calls and their results together where ids are missing or would be refused."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict, deque

from broker.v1 import content_pb2

# What Mistral's models take: exactly nine letters and digits.
_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_LENGTH = 9


class CallIds:
    """The ids of one conversation. `short` makes every id nine letters and digits."""

    def __init__(self, *, short: bool) -> None:
        self._short = short
        self._count = 0
        # Ids made for calls of legacy functions, by name, that have no result yet.
        self._waiting: defaultdict[str, deque[str]] = defaultdict(deque)

    def for_call(self, call: content_pb2.ToolCall) -> str:
        """The id of a call in the history."""
        if call.call_id:
            return self._fitting(call.call_id)
        self._count += 1
        made = self._fitting(f"call_{self._count}_{call.name}")
        self._waiting[call.name].append(made)
        return made

    def for_result(self, result: content_pb2.ToolResult) -> str:
        """The id of the call that a result belongs to: without one, the first open of that name."""
        if result.call_id:
            return self._fitting(result.call_id)
        waiting = self._waiting[result.name]
        return waiting.popleft() if waiting else self._fitting(f"call_{result.name}")

    def _fitting(self, call_id: str) -> str:
        if not self._short or _NINE.fullmatch(call_id):
            return call_id
        return hashlib.sha256(call_id.encode()).hexdigest()[:_LENGTH]
