"""A request body that is written while it is fetched: forms, with the files that the edge keeps.

At most a piece of a file is here at any time (R10). Its size is known before, so that providers
that want a Content-Length get one; what does not come to that size is an error, never a short file.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from broker import operations
from broker.errors import InferenceError
from broker.v1 import generation_pb2, operations_pb2
from workers.provider import Form

# Opens the attachment with a number.
Attachments = Callable[[int], AsyncGenerator[bytes, None]]
_Piece = bytes | operations_pb2.AttachmentReference


class Upload:
    """A multipart form; every iteration writes it anew, fetching its files again."""

    __slots__ = ("_attachments", "_pieces", "content_type", "size")

    def __init__(self, form: Form, attachments: Attachments) -> None:
        # Nobody who chooses a file's bytes may guess what would end it.
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._attachments = attachments
        self._pieces = _pieces(form, boundary.encode())
        self.size = sum(
            len(piece) if isinstance(piece, bytes) else piece.size for piece in self._pieces
        )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                async with contextlib.aclosing(_whole(piece, self._attachments)) as data:
                    async for part in data:
                        yield part


async def inlined(
    request: generation_pb2.Request, attachments: Attachments
) -> generation_pb2.Request:
    """The request with the bytes of its files in place of references."""
    copy = generation_pb2.Request()
    copy.CopyFrom(request)
    for attachment in operations.attachments(copy):
        if attachment.HasField("reference"):
            async with contextlib.aclosing(_whole(attachment.reference, attachments)) as data:
                attachment.data = b"".join([part async for part in data])
    return copy


async def none(_number: int) -> AsyncGenerator[bytes, None]:
    """Where a request can have no files: it ends before the first byte of one."""
    for part in list[bytes]():
        yield part


async def _whole(
    reference: operations_pb2.AttachmentReference, attachments: Attachments
) -> AsyncGenerator[bytes, None]:
    left = reference.size
    async with contextlib.aclosing(attachments(reference.number)) as data:
        async for part in data:
            left -= len(part)
            yield part
    if left:
        raise InferenceError("internal", "a file of the request is not of the size that was said")


def _pieces(form: Form, boundary: bytes) -> list[_Piece]:
    """The form as bytes, with references where files go."""
    pieces: list[_Piece] = []
    text = bytearray()
    for name, value in form:
        text += b"--" + boundary + b"\r\n"
        text += b'Content-Disposition: form-data; name="' + _quoted(name) + b'"'
        if isinstance(value, str):
            text += b"\r\n\r\n" + value.encode() + b"\r\n"
            continue
        media_type = _one_line(value.media_type) or b"application/octet-stream"
        text += b'; filename="' + _quoted(value.filename) + b'"\r\n'
        text += b"Content-Type: " + media_type + b"\r\n\r\n"
        if value.HasField("reference"):
            pieces += (bytes(text), value.reference)
            text.clear()
        else:
            text += value.data
        text += b"\r\n"
    text += b"--" + boundary + b"--\r\n"
    return [*pieces, bytes(text)]


def _quoted(name: str) -> bytes:
    """A name as HTML forms write it."""
    for character, escape in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
        name = name.replace(character, escape)
    return name.encode()


def _one_line(value: str) -> bytes:
    return value.encode() if value.isprintable() and value.isascii() else b""
