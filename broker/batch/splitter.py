"""Cuts bytes that come in pieces into lines with their ends, each byte looked at once; pure."""

from __future__ import annotations

from collections.abc import Iterator


class Splitter:
    """Lines of one file; `size` is that of the line that has no end yet, in bytes."""

    __slots__ = ("_begun", "size")

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self.size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add what comes next; the lines that are whole now."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._begun.append(data)
            self.size += len(data)
            return iter(())
        whole = data[:end]
        if self.size:
            whole = b"".join((*self._begun, whole))
        self._begun = [data[end:]]
        self.size = len(data) - end
        return _lines(whole)

    def last(self) -> bytes:
        """The last line, which has no end; b"" where the file ends with one."""
        line, self._begun, self.size = b"".join(self._begun), [], 0
        return line


def _lines(data: bytes) -> Iterator[bytes]:
    start = 0
    while end := data.find(b"\n", start) + 1:
        yield data[start:end]
        start = end
