"""Finds what is there twice among any number of digests, in flat memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain

# By their first byte.
_PARTS = 256
_NUMBER = 8
_FLUSH = 8 << 10


class Spill:
    """Digests with the numbers of their lines, kept in a file that vanishes with its user."""

    def __init__(self, digest_size: int) -> None:
        self._size = digest_size
        self._buffers = [bytearray() for _ in range(_PARTS)]
        self._blocks: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]
        self._file = tempfile.TemporaryFile(prefix="millrace-")  # noqa: SIM115
        self._end = 0

    def add(self, digest: bytes, number: int) -> None:
        """A line's digest; numbers come in rising order."""
        part = digest[0]
        buffer = self._buffers[part]
        buffer += digest
        buffer += number.to_bytes(_NUMBER, "little")
        if len(buffer) >= _FLUSH:
            self._file.write(buffer)
            self._blocks[part].append((self._end, len(buffer)))
            self._end += len(buffer)
            buffer.clear()

    def repeated(self) -> Iterator[list[tuple[int, int]]]:
        """(number, the first one with the same digest), a few hundred at a time, in no order."""
        size, step = self._size, self._size + _NUMBER
        for blocks, buffer in zip(self._blocks, self._buffers, strict=True):
            first: dict[bytes, int] = {}
            # However many are alike, they are all in one part: a block is a step.
            for data in chain(map(self._read, blocks), (bytes(buffer),)):
                found: list[tuple[int, int]] = []
                for at in range(0, len(data), step):
                    number = int.from_bytes(data[at + size : at + step], "little")
                    earlier = first.setdefault(data[at : at + size], number)
                    if earlier != number:
                        found.append((number, earlier))
                yield found

    def close(self) -> None:
        """Forget everything."""
        self._file.close()

    def _read(self, block: tuple[int, int]) -> bytes:
        offset, length = block
        self._file.seek(offset)
        data = self._file.read(length)
        self._file.seek(self._end)
        return data
