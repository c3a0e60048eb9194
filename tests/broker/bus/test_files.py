"""Files on a real NATS: whole or not there, any bytes of them, and nothing left behind."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker import subjects
from broker.bus import Bus, BusError
from broker.bus.files import ASC, Files, create
from broker.bus.leftovers import sweep
from broker.bus.objects import CHUNK, GoneError
from broker.bus.responses import ConflictError
from broker.bus.steady import last_message
from broker.v1 import file_pb2
from tests.broker.bus.server import NatsServer, until

OWNER = "a tenant"
BATCH = file_pb2.FILE_PURPOSE_BATCH
USER_DATA = file_pb2.FILE_PURPOSE_USER_DATA
BODY = random.Random(1).randbytes(3 * CHUNK + 12_345)


@pytest.fixture
def files(bus: Bus) -> Files:
    return Files(bus)


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def wanted(**fields: Any) -> file_pb2.StoredFile:
    return file_pb2.StoredFile(
        **{"owner": OWNER, "purpose": BATCH, "filename": "a.jsonl", **fields}
    )


async def put(files: Files, data: bytes = b"{}\n", **fields: Any) -> file_pb2.StoredFile:
    return await files.put(wanted(**fields), pieces(data))


async def content(
    files: Files, record: file_pb2.StoredFile, start: int = 0, end: int | None = None
) -> bytes:
    return b"".join([some async for some in files.read(record, start, end)])


async def objects(files: Files) -> list[str]:
    stores = (subjects.BATCH_IN, subjects.BATCH_OUT, subjects.FILES)
    return [name for store in stores for name in await files.objects.names(store)]


async def test_a_file_comes_back_as_it_was_put(files: Files) -> None:
    record = await put(files, BODY)
    assert record == await files.get(OWNER, record.id)
    assert (record.bytes, record.sha256) == (len(BODY), hashlib.sha256(BODY).digest())
    assert record.status == file_pb2.FILE_STATUS_PROCESSED
    assert record.expires_at == record.created_at + 30 * 86_400
    assert await content(files, record) == BODY


async def test_an_empty_file_is_a_file(files: Files) -> None:
    record = await put(files, b"")
    assert record.bytes == 0
    assert record.sha256 == hashlib.sha256().digest()
    assert await content(files, record) == b""
    assert await files.delete(OWNER, record.id)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 1),
        (CHUNK - 1, CHUNK + 1),
        (CHUNK, 2 * CHUNK),
        (1, len(BODY) - 1),
        (len(BODY) - 1, len(BODY)),
        (2 * CHUNK + 7, None),
        (5, 5),
        (len(BODY), None),
        (0, len(BODY) + 100),
    ],
)
async def test_any_bytes_of_it_can_be_read(files: Files, start: int, end: int | None) -> None:
    record = await put(files, BODY)
    assert await content(files, record, start, end) == BODY[start:end]


async def test_files_that_are_written_at_the_same_time_do_not_mix(files: Files) -> None:
    bodies = [random.Random(n).randbytes(2 * CHUNK + n) for n in range(4)]
    records = await asyncio.gather(*(put(files, body) for body in bodies))
    assert [await content(files, record) for record in records] == bodies


async def test_several_objects_are_one_file(files: Files) -> None:
    parts = [BODY[: CHUNK + 5], BODY[CHUNK + 5 : CHUNK + 6], BODY[CHUNK + 6 :]]
    stored = [await files.objects.write(subjects.FILES, pieces(part)) for part in parts]
    record = await files.add(wanted(), stored)
    assert record.bytes == len(BODY)
    assert await content(files, record) == BODY
    assert await content(files, record, CHUNK, CHUNK + 10) == BODY[CHUNK : CHUNK + 10]
    await files.delete(OWNER, record.id)
    assert await objects(files) == []


@pytest.mark.parametrize("owner", ["another tenant", "a_tenant", "*", ">", ""])
async def test_a_file_is_its_owners_alone(files: Files, owner: str) -> None:
    record = await put(files)
    assert await files.get(owner, record.id) is None
    assert not await files.delete(owner, record.id)
    assert (await files.list(owner)).files == []
    assert await files.get(OWNER, record.id)


@pytest.mark.parametrize("name", ["", "*", ">", "file-*", "file-" + "0" * 32, "../a", "a b"])
async def test_no_file_has_a_made_up_id(files: Files, name: str) -> None:
    await put(files)
    assert await files.get(OWNER, name) is None
    assert not await files.delete(OWNER, name)


async def test_what_is_deleted_leaves_nothing(files: Files, bus: Bus) -> None:
    record = await put(files, BODY)
    assert await files.delete(OWNER, record.id)
    assert await files.get(OWNER, record.id) is None
    assert not await files.delete(OWNER, record.id)
    for stream in ("OBJ_batch_in", f"KV_{subjects.FILES}"):
        assert (await bus.js.stream_info(stream)).state.messages == 0
    with pytest.raises(GoneError):
        await content(files, record)


async def test_a_list_is_read_page_by_page(files: Files) -> None:
    records = []
    for number in range(7):
        records.append(await put(files, purpose=USER_DATA if number % 2 else BATCH))
        await asyncio.sleep(0.002)  # ids are in the order of milliseconds
    ids = [record.id for record in records]

    async def listed(**query: Any) -> tuple[list[str], bool]:
        page = await files.list(OWNER, **query)
        return [record.id for record in page.files], page.has_more

    assert await listed() == (ids[::-1], False)
    assert await listed(order=ASC, limit=3) == (ids[:3], True)
    assert await listed(order=ASC, limit=3, after=ids[2]) == (ids[3:6], True)
    assert await listed(order=ASC, limit=3, after=ids[5]) == (ids[6:], False)
    assert await listed(limit=2, after=ids[5]) == ([ids[4], ids[3]], True)
    assert await listed(purpose=USER_DATA) == ([ids[5], ids[3], ids[1]], False)
    await files.delete(OWNER, ids[3])
    # Behind a file that is gone the list goes on where it was.
    assert await listed(limit=2, after=ids[3]) == ([ids[2], ids[1]], True)


async def test_an_id_of_ones_own_is_written_once(files: Files) -> None:
    name = "file-" + "a" * 32
    first = await put(files, b"first", id=name)
    with pytest.raises(ConflictError):
        await put(files, b"second", id=name)
    assert await content(files, first) == b"first"
    assert len(await objects(files)) == 1


async def test_what_breaks_off_leaves_nothing(files: Files) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield BODY
        raise ValueError("broke off")

    with pytest.raises(ValueError, match="broke off"):
        await files.put(wanted(), broken())
    assert (await files.list(OWNER)).files == []
    assert await objects(files) == []


async def test_a_writer_that_is_cancelled_leaves_nothing(files: Files) -> None:
    given = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield BODY
        given.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(files.put(wanted(), endless()))
    await given.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await objects(files) == []


async def test_a_file_that_expires_is_gone(files: Files, bus: Bus) -> None:
    record = await put(files, purpose=USER_DATA)
    assert record.expires_at == 0
    soon = await put(files, created_at=1000, expires_at=1001)
    assert await files.get(OWNER, soon.id) is None
    assert [one.id for one in (await files.list(OWNER)).files] == [record.id]

    async def forgotten() -> bool:
        return (await bus.js.stream_info(f"KV_{subjects.FILES}")).state.messages == 1

    await until(forgotten, "its record is gone")


async def test_bytes_that_changed_are_not_given_out_as_whole(files: Files, bus: Bus) -> None:
    record = await put(files, BODY)
    piece = record.pieces[0]
    subject = f"$O.{piece.store}.C.{piece.name}.3"
    await bus.js.purge_stream(f"OBJ_{piece.store}", subject=subject)
    await bus.js.publish(subject, BODY[3 * CHUNK : -1] + b"x")
    with pytest.raises(BusError, match="digest"):
        await content(files, record)


async def test_a_chunk_that_is_missing_is_told(files: Files, bus: Bus) -> None:
    record = await put(files, BODY)
    piece = record.pieces[0]
    subject = f"$O.{piece.store}.C.{piece.name}.2"
    await bus.js.purge_stream(f"OBJ_{piece.store}", subject=subject)
    with pytest.raises(GoneError):
        await content(files, record)
    assert await content(files, record, 0, CHUNK) == BODY[:CHUNK]


async def test_a_restart_of_nats_breaks_neither_reading_nor_writing(
    files: Files, nats: NatsServer
) -> None:
    async def restart() -> None:
        nats.kill()
        await nats.start()

    async def interrupted() -> AsyncIterator[bytes]:
        yield BODY[: 2 * CHUNK]
        await restart()
        yield BODY[2 * CHUNK :]

    record = await files.put(wanted(), interrupted())
    read = b""
    async for some in files.read(record):
        read += some
        if len(read) == CHUNK:
            await restart()
    assert read == BODY


async def test_a_reader_that_the_server_forgot_reads_on(files: Files, bus: Bus) -> None:
    """As it forgets one whose client did not read for half a minute."""
    record = await put(files, BODY * 4)
    read, forgotten = b"", 0
    async for some in files.read(record):
        read += some
        if len(read) == 2 * CHUNK:
            for consumer in await bus.js.consumers_info("OBJ_batch_in"):
                forgotten += await bus.js.delete_consumer("OBJ_batch_in", consumer.name)
    assert forgotten == 1
    assert read == BODY * 4


async def test_readers_leave_no_consumers(files: Files, bus: Bus) -> None:
    record = await put(files, BODY)
    await content(files, record)
    reader = files.read(record)
    await anext(reader)
    await anext(reader)
    await reader.aclose()
    assert (await bus.js.stream_info("OBJ_batch_in")).state.consumer_count == 0


async def test_what_nothing_refers_to_is_swept_when_it_is_old(files: Files, bus: Bus) -> None:
    kept = await put(files, BODY)
    left = await files.objects.write(subjects.FILES, pieces(BODY))
    part = await files.objects.write(subjects.BATCH_IN, pieces(BODY))
    stored = file_pb2.StoredPart(id="part_1", upload_id="upload_1", owner=OWNER, piece=part)
    key = subjects.part_key(OWNER, stored.upload_id, stored.id)
    await create(bus, key, stored.SerializeToString(), 0)
    expired = await put(files, created_at=1000, expires_at=1001)
    assert await sweep(bus) == 0  # all of it is young
    await until(lambda: gone(bus, expired), "the record that expired is gone")
    assert await sweep(bus, older_than_s=0) == 2
    names = {kept.pieces[0].name, part.name}
    assert set(await objects(files)) == names
    assert left.name not in names
    assert await content(files, kept) == BODY
    assert (await bus.js.stream_info(f"KV_{subjects.FILES}")).state.consumer_count == 0


async def gone(bus: Bus, record: file_pb2.StoredFile) -> bool:
    key = subjects.file_key(record.owner, record.id)
    return await last_message(bus, f"KV_{subjects.FILES}", f"$KV.{subjects.FILES}.{key}") is None


async def test_a_sweep_that_cannot_read_everything_deletes_nothing(files: Files, bus: Bus) -> None:
    await files.objects.write(subjects.FILES, pieces(BODY))
    await bus.js.delete_stream(f"KV_{subjects.FILES}")
    with pytest.raises(BusError):
        await sweep(bus, older_than_s=0)
    assert len(await objects(files)) == 1


async def test_a_sweep_leaves_alone_what_it_does_not_understand(files: Files, bus: Bus) -> None:
    await files.objects.write(subjects.FILES, pieces(BODY))
    await bus.js.publish(f"$O.{subjects.FILES}.C.somebody-elses.0", b"x")
    await bus.js.publish(f"$KV.{subjects.FILES}.f.a.b", b"garbage")
    with pytest.raises(BusError, match="is no record"):
        await sweep(bus, older_than_s=0)
    assert len(await objects(files)) == 2
    await bus.js.purge_stream(f"KV_{subjects.FILES}")
    assert await sweep(bus, older_than_s=0) == 1
    assert await objects(files) == ["somebody-elses"]
