"""Gives tools names that Gemini accepts, and finds the caller's names back."""

from __future__ import annotations

import re

from broker.v1 import generation_pb2
from workers.standins import answer_tool_name

# A name starts with a letter or an underscore. Source: FunctionDeclaration.name of the SDK.
_START = re.compile(r"[A-Za-z_]")
_REFUSED = re.compile(r"[^A-Za-z0-9_.:-]")
_LONGEST = 128


class ToolNames:
    """The names of one request's tools, both ways."""

    __slots__ = ("_theirs", "_wire", "answer_tool")

    def __init__(self, request: generation_pb2.GenerateRequest) -> None:
        self._wire: dict[str, str] = {}
        self._theirs: dict[str, str] = {}
        # First those that need no change, so that no other name gets theirs.
        names = [tool.function.name or tool.custom.name for tool in request.tools]
        for name in sorted(names, key=lambda name: _accepted(name) != name):
            self.wire(name)
        # Of the function that may stand for an answer by schema.
        self.answer_tool = self.wire(answer_tool_name(request) or "")

    def wire(self, name: str) -> str:
        """The name on the wire; the same for as long as this lives."""
        if name not in self._wire:
            found = wanted = _accepted(name)
            copies = 1
            while found in self._theirs:
                copies += 1
                found = f"{wanted[: _LONGEST - 8]}_{copies}"
            self._wire[name] = found
            self._theirs[found] = name
        return self._wire[name]

    def theirs(self, name: str) -> str:
        """The caller's name for one that came over the wire."""
        return self._theirs.get(name, name)


def _accepted(name: str) -> str:
    cleaned = _REFUSED.sub("_", name)[:_LONGEST]
    return cleaned if not cleaned or _START.match(cleaned) else f"_{cleaned[: _LONGEST - 1]}"
