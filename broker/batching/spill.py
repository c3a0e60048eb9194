"""Finds what is there twice among any number of digests, in flat memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

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
        """(number, the first one with the same digest), a part of them at a time, in no order."""
        size, step = self._size, self._size + _NUMBER
        for part, buffer in enumerate(self._buffers):
            data = b"".join((*map(self._read, self._blocks[part]), buffer))
            digests = [data[at : at + size] for at in range(0, len(data), step)]
            found: list[tuple[int, int]] = []
            if len(set(digests)) < len(digests):
                first: dict[bytes, int] = {}
                for place, digest in enumerate(digests):
                    at = place * step + size
                    number = int.from_bytes(data[at : at + _NUMBER], "little")
                    earlier = first.setdefault(digest, number)
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
