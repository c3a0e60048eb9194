"""Forms are written while their files are fetched: whole, no faster than they are read, and anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from broker.errors import InferenceError
from broker.v1.operations_pb2 import Attachment, AttachmentReference
from tests.workers.upstream.peer import Connect, Connection, Serve
from workers.delivery import EdgeLost
from workers.failures import Limits
from workers.provider import Call
from workers.upload import Upload
from workers.upstream import Reply, Upstream

PIECE = bytes(range(256)) * 1024
COUNT = 40
FILE = Attachment(
    filename='a "b"\r\n.wav',
    media_type="audio/wav",
    reference=AttachmentReference(number=3, size=len(PIECE) * COUNT),
)
CALL = Call("/audio", form=(("model", "m\r\nü"), ("file", FILE), ("language", "en")))
ENOUGH = Limits(deadline_s=20)


class Edge:
    """Keeps one file, and counts what is taken of it."""

    def __init__(self, count: int = COUNT, fails_at: int = -1) -> None:
        self.count = count
        self.fails_at = fails_at
        self.numbers: list[int] = []
        self.taken = 0
        self.closed = 0

    async def open(self, number: int) -> AsyncGenerator[bytes, None]:
        self.numbers.append(number)
        try:
            for at in range(self.count):
                if at == self.fails_at:
                    raise EdgeLost
                self.taken += 1
                yield PIECE
        finally:
            self.closed += 1


async def sent(upstream: Upstream, edge: Edge, limits: Limits = ENOUGH) -> Reply:
    return await upstream.open(CALL, limits=limits, attachments=edge.open)


async def test_a_form_arrives_whole_with_its_length_said_before(
    serve: Serve, connect: Connect
) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer()

    peer, edge = await serve(script), Edge()
    upstream = connect(peer.url)
    for _ in range(2):
        reply = await sent(upstream, edge)
        assert await reply.read() == b"ok"
        await reply.aclose()
    assert len(peer.connections) == 1, "the connection was not kept"
    first, second = peer.requests
    boundary = first.headers["content-type"].removeprefix("multipart/form-data; boundary=")
    assert boundary not in second.headers["content-type"], "a boundary can be guessed"
    head, content, tail = first.body.partition(PIECE * COUNT)
    assert content
    disposition = "Content-Disposition: form-data; name="
    assert head.decode() == (
        f'--{boundary}\r\n{disposition}"model"\r\n\r\nm\r\nü\r\n'
        f'--{boundary}\r\n{disposition}"file"; filename="a %22b%22%0D%0A.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    assert tail.decode() == (
        f'\r\n--{boundary}\r\n{disposition}"language"\r\n\r\nen\r\n--{boundary}--\r\n'
    )
    assert edge.numbers == [3, 3]


async def test_a_slow_reader_holds_back_the_file(serve: Serve, connect: Connect) -> None:
    go = asyncio.Event()

    async def script(connection: Connection) -> None:
        connection.reader._limit = 1024  # type: ignore[attr-defined]  # read no further by itself
        await connection.head()
        await go.wait()
        left = CALL_SIZE
        while left:
            left -= len(await connection.reader.read(min(left, 65536)))
        await connection.answer()

    peer, edge = await serve(script), Edge(count=400)
    big = AttachmentReference(number=0, size=len(PIECE) * 400)
    call = Call("/audio", form=(("file", Attachment(reference=big)),))
    CALL_SIZE = Upload(call.form, edge.open).size  # noqa: N806
    upstream = connect(peer.url)
    task = asyncio.create_task(upstream.open(call, limits=ENOUGH, attachments=edge.open))
    seen = -1
    while edge.taken > seen or not edge.taken:  # until it stands
        seen = edge.taken
        await asyncio.sleep(0.2)
    assert edge.taken * len(PIECE) < 24 << 20, "of 100 MB more was taken than sockets hold"
    go.set()
    reply = await task
    assert await reply.read() == b"ok"
    await reply.aclose()
    assert edge.taken == 400


async def test_an_answer_before_the_end_of_the_file_is_the_answer(
    serve: Serve, connect: Connect
) -> None:
    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge")
        await connection.gone()

    peer, edge = await serve(script), Edge()
    upstream = connect(peer.url)
    reply = await sent(upstream, edge)
    assert (reply.status, await reply.read()) == (413, b"large")
    await reply.aclose()
    assert edge.closed == 1
    await peer.until(lambda: peer.connections[0].gone_at, within=5)


@pytest.mark.parametrize(
    ("edge", "error"),
    [(Edge(fails_at=5), EdgeLost), (Edge(count=COUNT - 1), InferenceError)],
)
async def test_a_file_that_does_not_come_whole_is_never_sent_as_one(
    serve: Serve, connect: Connect, edge: Edge, error: type[Exception]
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer()

    peer = await serve(script)
    upstream = connect(peer.url)
    with pytest.raises(error):
        await sent(upstream, edge)
    assert not peer.requests


async def test_a_closed_kept_connection_gets_the_file_fetched_again(
    serve: Serve, connect: Connect
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer()
        if connection.number == 0:
            await connection.head()
            connection.reset()
            return
        await connection.gone()

    peer, edge = await serve(script), Edge()
    upstream = connect(peer.url)
    for _ in range(2):
        reply = await sent(upstream, edge)
        assert await reply.read() == b"ok"
        await reply.aclose()
    assert len(edge.numbers) == 3
    assert len(peer.requests) == 2
    assert peer.requests[1].body.count(PIECE * COUNT) == 1


async def test_a_deadline_ends_an_upload_that_nobody_reads(serve: Serve, connect: Connect) -> None:
    async def script(connection: Connection) -> None:
        connection.reader._limit = 1024  # type: ignore[attr-defined]
        await connection.head()
        await asyncio.sleep(10)

    peer = await serve(script)
    edge = Edge(count=400)
    size = len(PIECE) * 400
    file = Attachment(reference=AttachmentReference(number=0, size=size))
    with pytest.raises(InferenceError) as caught:
        await connect(peer.url).open(
            Call("/audio", form=(("file", file),)),
            limits=Limits(deadline_s=0.5),
            attachments=edge.open,
        )
    assert caught.value.reason == "deadline"
    assert edge.closed == 1
