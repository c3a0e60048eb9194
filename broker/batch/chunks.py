"""Chunks of an input: fixed ranges of lines, the same for whoever reads on from an offset; pure.

A chunk ends behind so many lines or bytes, whichever comes first, and has one line at least. What
is published is cut twice: a long stretch of the input is put into an order that suits providers'
caches, and then into chunks. That depends on nothing but where the stretch begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

LINES = 64
BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class Size:
    """What a chunk ends behind."""

    lines: int = LINES
    bytes: int = BYTES


SMALL = Size()
# Within so much lines that share a prompt's beginning are brought together: it is in memory.
STRETCH = Size(4096, 8 << 20)


class Place(NamedTuple):
    """Where to read on: the line `number`, which begins at `offset`, and the chunk of a stretch."""

    offset: int
    number: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Raw:
    """A line as it is in the file, with its end."""

    number: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that are not blank, and where this chunk and the next one begin.

    One of a stretch has `part`, counted from 0, and all but the last `next_part`; its other places
    are the stretch's.
    """

    lines: tuple[Raw, ...]
    begin: int
    number: int
    end: int
    next_number: int
    part: int = 0
    next_part: int = 0

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.begin, self.number, self.part)

    @property
    def after(self) -> Place:
        """Where it goes on behind it."""
        if self.next_part:
            return Place(self.begin, self.number, self.next_part)
        return Place(self.end, self.next_number)


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


def ordered(lines: Iterable[tuple[Raw, bytes]]) -> Iterator[Raw]:
    """Lines, each with what its prompt begins with: those that share that behind each other.

    The first of those goes well ahead of the others, which find what it left in its provider's
    cache. Lines that share nothing, or have no such beginning, stay in their order.
    """
    groups: dict[bytes, list[Raw]] = {}
    alone: list[Raw] = []
    for raw, prefix in lines:
        (groups.setdefault(prefix, []) if prefix else alone).append(raw)
    shared = [group for group in groups.values() if len(group) > 1]
    alone += [group[0] for group in groups.values() if len(group) == 1]
    alone.sort(key=lambda raw: raw.number)
    yield from (group[0] for group in shared[:1])
    yield from alone
    for place, group in enumerate(shared, 1):
        yield from (following[0] for following in shared[place : place + 1])
        yield from group[1:]


def cut(stretch: Chunk, lines: Iterable[Raw]) -> list[Chunk]:
    """The chunks of a stretch whose lines are in this order; one without lines has one, too."""
    parts: list[list[Raw]] = [[]]
    size = 0
    for raw in lines:
        if len(parts[-1]) >= LINES or (parts[-1] and size >= BYTES):
            parts.append([])
            size = 0
        parts[-1].append(raw)
        size += len(raw.data)
    last = len(parts) - 1
    return [
        replace(stretch, lines=tuple(some), part=part, next_part=(part + 1) % (last + 1))
        for part, some in enumerate(parts)
    ]
