"""BatchService, each call of it, against the whole system and beside HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from broker.bus.keyring import Keyring
from broker.v1 import batch_pb2, file_pb2, file_service_pb2, file_service_pb2_grpc
from broker.v1 import batch_service_pb2 as pb
from broker.v1 import batch_service_pb2_grpc as pb_grpc
from tests.system.rpc import bearer, failure
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

OTHER = "mr-a-key-of-another-tenant-0123456789"
CHAT = "/v1/chat/completions"
ECHO, SLOW = "sim/echo", "sim/echo,ttft_ms=1000"
COMPLETED = batch_pb2.BATCH_STATUS_COMPLETED
CANCELLED = batch_pb2.BATCH_STATUS_CANCELLED
OVER = {COMPLETED, CANCELLED, batch_pb2.BATCH_STATUS_FAILED}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        await Keyring(stack.bus).add(OTHER, "another key", tenant="another")
        yield stack


class Client:
    """A method of the service by its name, with its fields."""

    def __init__(self, channel: grpc.aio.Channel, key: str = KEY) -> None:
        self.metadata = bearer(key)
        self.stub = pb_grpc.BatchServiceStub(channel)
        self.files = file_service_pb2_grpc.FileServiceStub(channel)

    def __call__(self, method: str, **fields: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**fields)
        return getattr(self.stub, method)(request, metadata=self.metadata, timeout=60)

    async def upload(self, count: int, model: str = ECHO) -> str:
        lines = [
            {
                "custom_id": f"row {n}",
                "method": "POST",
                "url": CHAT,
                "body": {"model": model, "messages": [{"role": "user", "content": f"say {n}"}]},
            }
            for n in range(count)
        ]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        head = file_service_pb2.NewFile(filename="a.jsonl", purpose=file_pb2.FILE_PURPOSE_BATCH)
        sent = [
            file_service_pb2.UploadFileRequest(file=head),
            file_service_pb2.UploadFileRequest(data=data),
        ]
        reply = await self.files.UploadFile(iter(sent), metadata=self.metadata, timeout=30)
        return str(reply.file.id)

    async def create(self, count: int, model: str = ECHO, **more: Any) -> pb.Batch:
        file_id = await self.upload(count, model)
        reply = await self("CreateBatch", input_file_id=file_id, endpoint=CHAT, **more)
        batch: pb.Batch = reply.batch
        return batch

    async def get(self, batch_id: str) -> pb.Batch:
        batch: pb.Batch = (await self("GetBatch", batch_id=batch_id)).batch
        return batch

    async def some(self, batch_id: str) -> None:
        """Until a line has been answered."""

        async def answered() -> bool:
            return (await self.get(batch_id)).completed > 0

        await until(answered, "a line was answered", 30)


@pytest.fixture
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    async with stack.channel() as channel:
        yield channel


@pytest.fixture
def client(channel: grpc.aio.Channel) -> Client:
    return Client(channel)


async def test_a_batch_is_created_watched_to_its_end_and_read(client: Client, stack: Stack) -> None:
    made = await client.create(40, metadata={"for": "a test"})
    assert made.status == batch_pb2.BATCH_STATUS_VALIDATING
    assert (made.completion_window, made.expires_at - made.created_at) == ("24h", 86_400)
    seen = [told async for told in client("WatchBatch", batch_id=made.id)]
    last = seen[-1].batch
    assert (last.status, last.total, last.completed, last.failed) == (COMPLETED, 40, 40, 0)
    assert last.ended_at
    assert last.usage.output_tokens > 0
    counts = [told.batch.completed for told in seen]
    assert counts == sorted(counts)
    read = [row async for row in client("ReadResults", batch_id=made.id)]
    assert [row.custom_id for row in read] == [f"row {n}" for n in range(40)]
    assert [row.line for row in read] == list(range(1, 41))
    for n, row in enumerate(read):
        assert row.status == 200
        body = json.loads(row.body_json)
        assert body["choices"][0]["message"]["content"] == f"say {n}"
    rest = client("ReadResults", batch_id=made.id, after_cursor=read[29].cursor)
    assert [row.custom_id async for row in rest] == [f"row {n}" for n in range(30, 40)]
    async with stack.client() as http:
        shown = (await http.get(f"/v1/batches/{made.id}")).json()
    assert (shown["status"], shown["metadata"]) == ("completed", {"for": "a test"})


async def test_results_are_followed_while_the_batch_runs(client: Client) -> None:
    made = await client.create(150, SLOW)
    read = []
    async for row in client("ReadResults", batch_id=made.id, follow=True):
        read.append(row)
        if len(read) == 1:
            assert (await client.get(made.id)).status not in OVER
    assert [row.line for row in read] == list(range(1, 151))
    # What is read live says what it used.
    assert read[0].usage.output_tokens > 0


async def test_the_same_request_id_is_the_same_batch(client: Client) -> None:
    file_id = await client.upload(1)
    asked = {"request_id": "mine", "input_file_id": file_id, "endpoint": CHAT}
    first = (await client("CreateBatch", **asked)).batch
    assert (await client("CreateBatch", **asked)).batch.id == first.id
    other = client("CreateBatch", **asked | {"input_file_id": await client.upload(1)})
    assert (await failure(other)).code == "ALREADY_EXISTS"


async def test_a_batch_is_paused_resumed_cancelled_and_run_again(client: Client) -> None:
    made = await client.create(2000, SLOW)
    await client.some(made.id)
    assert (await client("PauseBatch", batch_id=made.id)).batch.paused
    assert not (await client("ResumeBatch", batch_id=made.id)).batch.paused
    stopping = (await client("CancelBatch", batch_id=made.id)).batch
    assert stopping.status in {batch_pb2.BATCH_STATUS_CANCELLING, CANCELLED}
    *_, last = [told async for told in client("WatchBatch", batch_id=made.id)]
    batch = last.batch
    assert batch.status == CANCELLED
    read = [row async for row in client("ReadResults", batch_id=made.id)]
    assert len(read) == 2000
    rest = [row for row in read if row.HasField("error")]
    assert len(rest) == 2000 - batch.completed
    assert {row.status for row in rest} == {0}
    child = (await client("RetryBatch", batch_id=made.id)).batch
    assert child.retry_of == made.id
    assert (await client("RetryBatch", batch_id=made.id)).batch.id == child.id
    await client("CancelBatch", batch_id=child.id)


async def test_an_estimate_counts_prices_and_names_mistakes(client: Client) -> None:
    file_id = await client.upload(10, "openai/gpt-4o")
    found = await client("EstimateBatch", input_file_id=file_id, endpoint=CHAT)
    assert (found.total, dict(found.models)) == (10, {"openai/gpt-4o": 10})
    assert found.input_tokens > 10
    assert 0 < found.low.nano_usd <= found.high.nano_usd
    once = batch_pb2.BatchOptions(dedupe=True)
    asked = {"input_file_id": file_id, "endpoint": CHAT, "options": once}
    found = await client("EstimateBatch", completion_window="10m", **asked)
    assert (found.total, found.duplicates) == (10, 0)
    assert (await failure(client("EstimateBatch", completion_window="9m", **asked))).code == (
        "INVALID_ARGUMENT"
    )
    wrong = await client("EstimateBatch", input_file_id=file_id, endpoint="/v1/embeddings")
    assert {error.code for error in wrong.errors} == {"url_mismatch"}
    assert [error.line for error in wrong.errors] == list(range(1, 11))


async def test_batches_are_listed_page_by_page_and_only_to_their_owner(
    client: Client, channel: grpc.aio.Channel
) -> None:
    other = Client(channel, OTHER)
    made = [(await other.create(1)).id for _ in range(3)]
    first = await other("ListBatches", limit=2)
    assert [batch.id for batch in first.batches] == made[:0:-1]
    assert first.has_more
    rest = await other("ListBatches", limit=2, after=first.batches[-1].id)
    assert ([batch.id for batch in rest.batches], rest.has_more) == (made[:1], False)
    for method in ("GetBatch", "CancelBatch", "PauseBatch", "ResumeBatch", "RetryBatch"):
        assert (await failure(client(method, batch_id=made[0]))).code == "NOT_FOUND", method
    for method in ("WatchBatch", "ReadResults"):
        read = client(method, batch_id=made[0]).read()
        assert (await failure(read)).code == "NOT_FOUND", method


@pytest.mark.parametrize(
    ("method", "fields", "param"),
    [
        ("CreateBatch", {"endpoint": CHAT}, "input_file_id"),
        ("CreateBatch", {"input_file_id": "file-0", "endpoint": CHAT}, "input_file_id"),
        ("CreateBatch", {"input_file_id": "file-0", "endpoint": "/v1/x"}, "endpoint"),
        (
            "CreateBatch",
            {"input_file_id": "file-0", "endpoint": CHAT, "completion_window": "1s"},
            "completion_window",
        ),
        (
            "CreateBatch",
            {"input_file_id": "file-0", "endpoint": CHAT, "output_expires_after_s": 5},
            "output_expires_after_s",
        ),
        ("EstimateBatch", {"input_file_id": "file-0", "endpoint": CHAT}, "input_file_id"),
        ("ListBatches", {"limit": 101}, "limit"),
        ("ListBatches", {"after": "x"}, "after"),
    ],
)
async def test_what_is_wrong_is_named(
    client: Client, method: str, fields: dict[str, Any], param: str
) -> None:
    found = await failure(client(method, **fields))
    assert (found.code, found.fields) == ("INVALID_ARGUMENT", [param])
