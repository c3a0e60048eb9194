"""FileService: files for programs, in flat memory both ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc

from broker.config import Limits
from broker.errors import InferenceError
from broker.files import MOST_UPLOAD_BYTES
from broker.translate import rpc_files
from broker.translate.refusals import invalid, missing
from broker.v1 import file_service_pb2 as pb
from broker.v1 import file_service_pb2_grpc as pb_grpc
from edge.files import FileService
from edge.rpc.calls import Calls, Context, unreadable, write
from edge.rpc.linger import linger


class FilesService(pb_grpc.FileServiceServicer):
    """See the proto."""

    def __init__(self, files: FileService, calls: Calls, limits: Limits) -> None:
        self._files = files
        self._calls = calls
        self._patience_s = limits.slow_reader_s

    async def UploadFile(  # noqa: N802
        self, requests: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        """Store what comes."""
        incoming = _Incoming(context, self._patience_s)
        try:
            async with self._calls.call(context, requests, incoming.discard) as call:
                asked = await incoming.begin()
                wanted = rpc_files.wanted(asked)
                record = await self._files.take(
                    call.key,
                    incoming.chunks(),
                    lambda: (asked.filename, wanted),
                    purpose=wanted.purpose,
                )
                return pb.UploadFileResponse(file=rpc_files.file(record))
        finally:
            incoming.close()

    async def DownloadFile(  # type: ignore[override]  # noqa: N802
        self, request: pb.DownloadFileRequest, context: Context
    ) -> None:
        """Send what is asked for."""
        async with self._calls.call(context, request) as call:
            record = await self._files.get(call.key.owner, request.file_id)
            start, end = rpc_files.part(request, record.bytes)
            async with contextlib.aclosing(self._files.read(record, start, end)) as chunks:
                async for chunk in chunks:
                    await write(context, pb.DownloadFileResponse(data=chunk), self._patience_s)

    async def GetFile(  # noqa: N802
        self, request: pb.GetFileRequest, context: Context
    ) -> pb.GetFileResponse:
        """What is known of a file."""
        async with self._calls.call(context, request) as call:
            record = await self._files.get(call.key.owner, request.file_id)
            return pb.GetFileResponse(file=rpc_files.file(record))

    async def ListFiles(  # noqa: N802
        self, request: pb.ListFilesRequest, context: Context
    ) -> pb.ListFilesResponse:
        """Part of the files."""
        async with self._calls.call(context, request) as call:
            page = await self._files.list(call.key.owner, rpc_files.listing(request))
            files = map(rpc_files.file, page.files)
            return pb.ListFilesResponse(files=files, has_more=page.has_more)

    async def DeleteFile(  # noqa: N802
        self, request: pb.DeleteFileRequest, context: Context
    ) -> pb.DeleteFileResponse:
        """Forget a file."""
        async with self._calls.call(context, request) as call:
            await self._files.delete(call.key.owner, request.file_id)
            return pb.DeleteFileResponse()


class _Incoming:
    """The messages of one upload. Needs its `close`."""

    def __init__(self, context: Context, patience_s: float) -> None:
        self._context = context
        self._patience_s = patience_s
        self._messages = 0
        self._bytes = 0
        self._reader: asyncio.Task[None] | None = None

    async def begin(self) -> pb.NewFile:
        """What the file is to be."""
        first = await self._read()
        if first is None or not first.HasField("file"):
            raise missing("file")
        return first.file

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes."""
        while (message := await self._read()) is not None:
            if not message.HasField("data"):
                raise invalid("file", "Only the first message says what the file is to be.")
            self._bytes += len(message.data)
            if self._bytes > MOST_UPLOAD_BYTES:
                text = f"the file is larger than {MOST_UPLOAD_BYTES >> 30} GiB"
                raise InferenceError("request_too_large", text, param="data")
            yield message.data

    async def discard(self) -> None:
        """Take what is still being sent, before the call is ended early."""
        self._reader = asyncio.create_task(self._read_on(), name="refused upload")
        await linger(self._reader, lambda: self._messages)

    def close(self) -> None:
        """Nothing more is read."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> pb.UploadFileRequest | None:
        """The next message; None when there is none."""
        try:
            async with asyncio.timeout(self._patience_s):
                message = await self._context.read()
        except TimeoutError as exc:
            text = f"nothing came of the file for {self._patience_s:g} seconds"
            raise InferenceError("deadline", text) from exc
        if message is grpc.aio.EOF:
            return None
        self._messages += 1
        if not isinstance(message, pb.UploadFileRequest):
            raise unreadable()
        return message

    async def _read_on(self) -> None:
        while await self._context.read() is not grpc.aio.EOF:
            self._messages += 1
