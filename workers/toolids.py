"""Keeps the ids of tool calls acceptable to a provider, unique, and paired with results; pure."""

from __future__ import annotations

import re

from broker.v1 import content_pb2


class ToolIds:
    """Maps the caller's tool-call ids to ids that a provider accepts, for one conversation.

    Ids that other providers issued may hold any character, repeat in every turn (`call_0`), or,
    for the legacy functions, be missing: then the latest call of that name is meant.
    """

    __slots__ = ("_current", "_issued", "_longest", "_refused")

    def __init__(self, refused: re.Pattern[str], longest: int = 64) -> None:
        self._refused = refused
        self._longest = longest
        self._issued: set[str] = set()
        self._current: dict[str, str] = {}

    def for_call(self, call: content_pb2.ToolCall) -> str:
        """The id of a call that the history holds."""
        wanted = self._cleaned(call.call_id)
        issued, copies = wanted, 1
        while issued in self._issued:
            copies += 1
            ending = f"_{copies}"
            issued = wanted[: self._longest - len(ending)] + ending
        self._issued.add(issued)
        self._current[call.call_id or call.name] = issued
        return issued

    def for_result(self, result: content_pb2.ToolResult) -> str:
        """The id of the call that a result answers."""
        key = result.call_id or result.name
        return self._current.get(key) or self._cleaned(key)

    def _cleaned(self, text: str) -> str:
        return self._refused.sub("_", text)[: self._longest] or "call"
