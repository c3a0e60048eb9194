"""Takes the code fence off a JSON answer: ```json ... ``` around it, whatever was asked; pure."""

from __future__ import annotations

import re

_OPENING = re.compile(r"\s*```[a-zA-Z]*[ \t]*\r?\n")
# Could still become an opening fence when more text comes.
_MAYBE_OPENING = re.compile(r"\s*(`{0,2}|```[a-zA-Z]*[ \t]*\r?)$")
_CLOSING = re.compile(r"\s*```\s*$")
# The end of a text that could still become a closing fence.
_MAYBE_CLOSING = re.compile(r"\s*`{0,3}\s*$")


class FenceStripper:
    """Fed with pieces of text, gives back what is certainly not a fence."""

    __slots__ = ("_begun", "_fenced", "_held")

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._fenced = False

    def feed(self, text: str) -> str:
        """What can be shown after this piece."""
        self._held += text
        if not self._begun:
            if opening := _OPENING.match(self._held):
                self._held = self._held[opening.end() :]
                self._fenced = True
            elif _MAYBE_OPENING.match(self._held):
                return ""
            self._begun = True
        shown = self._held
        if self._fenced and (maybe := _MAYBE_CLOSING.search(shown)):
            shown = shown[: maybe.start()]
        self._held = self._held[len(shown) :]
        return shown

    def close(self) -> str:
        """The rest of the text, without a closing fence."""
        rest, self._held = self._held, ""
        return _CLOSING.sub("", rest) if self._fenced else rest
