"""Decompresses the answer of a provider that compresses unasked; pure."""

from __future__ import annotations

import zlib

_MAX_INFLATED = 32 << 20
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
# What is not true any more of what is handed on.
_GONE = (b"content-encoding", b"content-length")

Headers = list[tuple[bytes, bytes]]


class Inflate:
    """A compressed body, which comes in pieces of up to 32 MB when they are decompressed."""

    def __init__(self, bits: int) -> None:
        self._inflate = zlib.decompressobj(bits)

    @property
    def over(self) -> bool:
        """Whether it came to its end."""
        return self._inflate.eof

    def feed(self, data: bytes) -> bytes:
        """The next piece. Raises `zlib.error`, and ValueError when it is too large."""
        data = self._inflate.decompress(data, _MAX_INFLATED)
        if self._inflate.unconsumed_tail:
            raise ValueError("the body is too large when it is decompressed")
        return data


def inflated(headers: Headers) -> tuple[Headers, Inflate | None]:
    """An answer's headers as they are after decompression, and what does that, if need be."""
    for name, value in headers:
        if name.lower() == b"content-encoding":
            bits = _WINDOW_BITS.get(value.lower())
            if bits is not None:
                return [pair for pair in headers if pair[0].lower() not in _GONE], Inflate(bits)
    return headers, None
