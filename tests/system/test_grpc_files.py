"""Files over gRPC, against the whole system and beside HTTP."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from broker.bus.keyring import Keyring
from broker.bus.objects import Objects
from broker.v1 import file_pb2
from broker.v1 import file_service_pb2 as pb
from broker.v1 import file_service_pb2_grpc as pb_grpc
from tests.system.rpc import SIZES, bearer, failure
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

OTHER = "mr-a-key-of-another-tenant-0123456789"
BODY = random.Random(1).randbytes(1_300_000)
BATCH = file_pb2.FILE_PURPOSE_BATCH
VISION = file_pb2.FILE_PURPOSE_VISION


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        await Keyring(stack.bus).add(OTHER, "another key", tenant="another")
        yield stack


class Client:
    """A method of the service by its name, with its fields."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self.metadata = bearer(key)
        self.stub = pb_grpc.FileServiceStub(channel)

    def __call__(self, method: str, **fields: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**fields)
        return getattr(self.stub, method)(request, metadata=self.metadata, timeout=30)

    def send(self, *messages: pb.UploadFileRequest) -> Any:
        return self.stub.UploadFile(iter(messages), metadata=self.metadata, timeout=30)

    async def upload(self, data: bytes, size: int = 300_000, **fields: Any) -> pb.FileInfo:
        asked = {"filename": "a.jsonl", "purpose": BATCH, **fields}
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        reply: pb.UploadFileResponse = await self.send(new(**asked), *map(more, parts))
        return reply.file

    async def download(self, name: str, **fields: Any) -> bytes:
        call = self("DownloadFile", file_id=name, **fields)
        return b"".join([reply.data async for reply in call])


def new(**fields: Any) -> pb.UploadFileRequest:
    return pb.UploadFileRequest(file=pb.NewFile(**fields))


def more(data: bytes) -> pb.UploadFileRequest:
    return pb.UploadFileRequest(data=data)


@pytest.fixture
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    target = f"127.0.0.1:{stack.edges['edge'][1]}"
    async with grpc.aio.insecure_channel(target, options=SIZES) as channel:
        yield channel


@pytest.fixture
def client(channel: grpc.aio.Channel) -> Client:
    return Client(channel, KEY)


async def test_a_file_comes_back_as_it_was_sent(client: Client, stack: Stack) -> None:
    file = await client.upload(BODY)
    assert (file.bytes, file.sha256) == (len(BODY), hashlib.sha256(BODY).digest())
    assert file.status == file_pb2.FILE_STATUS_PROCESSED
    assert file.expires_at == file.created_at + 30 * 86_400
    assert (await client("GetFile", file_id=file.id)).file == file
    assert await client.download(file.id) == BODY
    assert await client.download(file.id, offset=1_000_000, length=7) == BODY[1_000_000:1_000_007]
    assert await client.download(file.id, offset=len(BODY) - 3) == BODY[-3:]
    assert await client.download(file.id, offset=len(BODY)) == b""
    async with stack.client() as http:
        shown = (await http.get(f"/v1/files/{file.id}")).json()
        assert (shown["filename"], shown["purpose"]) == ("a.jsonl", "batch")
        assert (await http.get(f"/v1/files/{file.id}/content")).content == BODY
    await client("DeleteFile", file_id=file.id)
    assert (await failure(client("GetFile", file_id=file.id))).code == "NOT_FOUND"


async def test_a_list_is_read_page_by_page(channel: grpc.aio.Channel) -> None:
    client = Client(channel, OTHER)
    made = [(await client.upload(b"a", purpose=VISION)).id for _ in range(3)]
    assert (await client.upload(b"")).bytes == 0
    page = await client("ListFiles", purpose=VISION, limit=2, oldest_first=True)
    assert ([file.id for file in page.files], page.has_more) == (made[:2], True)
    page = await client("ListFiles", purpose=VISION, after=made[1], oldest_first=True)
    assert ([file.id for file in page.files], page.has_more) == (made[2:], False)
    page = await client("ListFiles", purpose=VISION)
    assert [file.id for file in page.files] == made[::-1]


async def test_another_key_does_not_see_it(client: Client, channel: grpc.aio.Channel) -> None:
    file = await client.upload(b"a")
    other = Client(channel, OTHER)
    for method in ("GetFile", "DeleteFile"):
        failed = await failure(other(method, file_id=file.id))
        assert (failed.code, failed.fields) == ("NOT_FOUND", ["file_id"])
    assert (await failure(other.download(file.id))).code == "NOT_FOUND"
    stranger = Client(channel, "mr-nobody")
    assert (await failure(stranger.upload(BODY))).code == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "file"),
        ([more(b"a")], "file"),
        ([new(filename="a.jsonl", purpose=BATCH)] * 2, "file"),
        ([new(filename="a.jsonl")], "file.purpose"),
        ([new(filename="a.txt", purpose=BATCH), *[more(BODY)] * 9], "file.filename"),
        ([new(purpose=VISION)], "file.filename"),
        ([new(filename="a", purpose=file_pb2.FILE_PURPOSE_BATCH_OUTPUT)], "file.purpose"),
        ([new(filename="a", purpose=VISION, expires_after=1)], "file.expires_after"),
    ],
)
async def test_a_mistake_is_named(
    client: Client, messages: list[pb.UploadFileRequest], field: str
) -> None:
    failed = await failure(client.send(*messages))
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", [field])


@pytest.mark.parametrize("fields", [{"offset": 2}, {"offset": -1}, {"length": -1}])
async def test_a_part_that_is_not_there_is_refused(client: Client, fields: dict[str, int]) -> None:
    file = await client.upload(b"a")
    failed = await failure(client.download(file.id, **fields))
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", list(fields))


async def test_a_caller_that_leaves_in_the_middle_leaves_nothing(
    client: Client, stack: Stack
) -> None:
    objects = Objects(stack.bus)
    there = await objects.names("batch_in")
    call = client.stub.UploadFile(metadata=client.metadata)
    await call.write(new(filename="a.jsonl", purpose=BATCH))
    await call.write(more(BODY))

    async def count() -> int:
        return len(await objects.names("batch_in")) - len(there)

    await until(count, "bytes are in the store")
    call.cancel()

    async def swept() -> bool:
        return not await count()

    await until(swept, "they are deleted")
