"""One file on its way in, as a form: its bytes are passed on as they come, and never all held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from starlette.types import Receive

from broker.errors import InferenceError
from broker.translate.multipart import Fields, boundary_of
from broker.translate.multipart_stream import FileStream
from broker.translate.refusals import missing
from edge.http.body import ClientGoneError, refuse_encoded

# Of a form beside its file.
_MOST_BESIDE = 1 << 20


class IncomingFile:
    """The file in the field `field` of a request's body; at most `limit` bytes.

    Everything raises `InferenceError`, and `ClientGoneError` when the client leaves.
    """

    def __init__(
        self,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        *,
        field: str,
        limit: int,
        patience_s: float,
    ) -> None:
        length = headers.get(b"content-length")
        if length is not None and int(length) > limit + _MOST_BESIDE:
            raise _too_large(limit)
        refuse_encoded(headers)
        boundary = boundary_of(headers.get(b"content-type", b""))
        if boundary is None:
            raise InferenceError(
                "unsupported_media_type", "send the file as a form: multipart/form-data"
            )
        self._form = FileStream(boundary, field)
        self._receive = receive
        self._field = field
        self._limit = limit
        self._patience_s = patience_s
        self._more = True
        self._size = 0  # of the file
        self._beside = 0

    async def begin(self) -> Fields:
        """Read up to the file; returns the fields that came before it."""
        while self._more and self._form.filename is None:
            await self._read()
        if self._form.filename is None:
            self._form.close()
            raise missing(self._field)
        return self._form.so_far

    @property
    def filename(self) -> str:
        """The file's name, from `begin` on."""
        return self._form.filename or ""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes of the file; at their end the whole form was read."""
        while True:
            for some in self._form.taken():
                yield some
            if not self._more:
                return
            await self._read()

    def end(self) -> Fields:
        """All fields, when all chunks were read."""
        return self._form.close()

    def close(self) -> None:
        """Nothing more is read."""
        self._form.let_go()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                message = await self._receive()
        except TimeoutError as exc:
            raise InferenceError(
                "deadline", f"nothing came of the request body for {self._patience_s:g} seconds"
            ) from exc
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        self._more = message.get("more_body", False)
        self._form.feed(part)
        self._count(len(part))

    def _count(self, received: int) -> None:
        new = self._form.received - self._size
        self._size += new
        self._beside += received - new
        if self._size > self._limit:
            raise _too_large(self._limit)
        if self._beside > _MOST_BESIDE:
            raise InferenceError(
                "request_too_large", f"the form has more than {_MOST_BESIDE} bytes beside its file"
            )


def _too_large(limit: int) -> InferenceError:
    return InferenceError(
        "request_too_large", f"the file is larger than {limit >> 20} MiB", param="file"
    )
