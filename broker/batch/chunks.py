"""Chunks of an input: fixed ranges of lines, the same for whoever reads on from an offset; pure.

A chunk ends behind so many lines or bytes, whichever comes first, and has one line at least.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LINES = 64
BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class Size:
    """What a chunk ends behind."""

    lines: int = LINES
    bytes: int = BYTES


SMALL = Size()


@dataclass(frozen=True, slots=True)
class Raw:
    """A line as it is in the file, with its end."""

    number: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that are not blank, and where this chunk and the next one begin."""

    lines: tuple[Raw, ...]
    begin: int
    number: int
    end: int
    next_number: int


@dataclass(slots=True)
class Cursor:
    """Cuts an input into chunks, from `offset` on, which is the beginning of line `number`."""

    offset: int
    number: int = 1
    _rest: bytes = b""
    # Where in `_rest` the next line begins.
    _at: int = 0
    _lines: list[Raw] = field(default_factory=list)
    # Of the chunk that is being filled.
    _size: int = 0
    _first: int = 0

    @property
    def wants(self) -> int:
        """Offset of the first byte that was not fed yet."""
        return self.offset + len(self._rest) - self._at

    def feed(self, data: bytes) -> None:
        """Add what the file has at `wants`."""
        self._rest = self._rest[self._at :] + data if self._at < len(self._rest) else data
        self._at = 0

    def trim(self) -> None:
        """Forget what was fed beyond the last chunk: it is wanted again then."""
        if not self._size:
            self._rest, self._at = b"", 0

    def take(self, *, last: bool, size: Size = SMALL) -> Chunk | None:
        """The next chunk; None when more has to be fed. `last`: all was fed."""
        if not self._size:
            self._first = self.number
        while len(self._lines) < size.lines and self._size < size.bytes:
            end = self._rest.find(b"\n", self._at) + 1
            if not end:
                if not last:
                    return None
                end = len(self._rest)
                if end == self._at:
                    break
            data = self._rest[self._at : end]
            if not data.isspace():
                self._lines.append(Raw(self.number, self.offset, data))
            self._size += len(data)
            self.offset += len(data)
            self.number += 1
            self._at = end
        if not self._size:
            return None
        begin = self.offset - self._size
        chunk = Chunk(tuple(self._lines), begin, self._first, self.offset, self.number)
        self._lines, self._size = [], 0
        return chunk
