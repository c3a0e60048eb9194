"""What happens on the wire: partial requests, clients that leave, stall or send too much."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from tests.edge.http.standin import (
    AUTHORIZED,
    COMPLETED,
    FINISHED,
    SECRET,
    Edge,
    Engine,
    Start,
    body,
    started,
    text,
    until,
)

CHAT = "/v1/chat/completions"
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
JSON = "Content-Type: application/json\r\n"


def raw(**fields: object) -> bytes:
    content = json.dumps(body(**fields)).encode()
    return f"{HEAD}{JSON}Content-Length: {len(content)}\r\n\r\n".encode() + content


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[Edge], Awaitable[Streams]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens plain connections, which are closed after the test."""
    writers: list[asyncio.StreamWriter] = []

    async def opened(edge: Edge) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writers.append(writer)
        return reader, writer

    yield opened
    for writer in writers:
        writer.close()
    await asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True)


async def reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One response with a content-length."""
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers, content


def waiting(*batches: object) -> Engine:
    """An engine whose exchanges never end."""
    return Engine([*batches, asyncio.Event()])


# --- clients that leave ---


@pytest.mark.parametrize("manner", ["close", "reset"])
@pytest.mark.parametrize(
    "case", ["whole", "stream before content", "stream after content", "large body"]
)
async def test_a_client_that_leaves_closes_its_exchange_within_a_second(
    start: Start, connect: Connect, case: str, manner: str
) -> None:
    batches = [[started(), text("Hel")]] if case == "stream after content" else []
    edge = await start(waiting(*batches))
    reader, writer = await connect(edge)
    padding = "x" * (3 << 20) if case == "large body" else ""
    writer.write(raw(stream=case.startswith("stream"), user=padding))
    await until(lambda: edge.engine.exchanges)
    exchange = edge.engine.exchanges[0]
    if case == "stream after content":
        async with asyncio.timeout(5):
            await reader.readuntil(b"Hel")
    assert not exchange.closed.is_set()
    if manner == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    async with asyncio.timeout(1):
        await exchange.closed.wait()
    await until(edge.lines)
    (line,) = edge.lines()
    assert line["reason"] == "client_gone"
    assert line["status"] == (200 if case == "stream after content" else 499)
    assert edge.metric("millrace_open_streams{") == 0
    await until(lambda: not edge.server.server_state.tasks)


async def test_a_client_that_leaves_while_it_is_authenticated_asks_nothing(
    start: Start, connect: Connect
) -> None:
    edge = await start()
    edge.table.gate = asyncio.Event()
    _, writer = await connect(edge)
    writer.write(raw())
    await until(lambda: edge.table.reads)
    writer.close()
    await until(lambda: not edge.server.server_state.connections)
    edge.table.gate.set()
    await until(edge.lines)
    assert edge.lines()[0]["reason"] == "client_gone"
    assert edge.engine.requests == []


async def test_a_client_that_leaves_with_requests_sent_ahead_closes_the_running_one(
    start: Start,
    connect: Connect,
) -> None:
    edge = await start(waiting())
    _, writer = await connect(edge)
    writer.write(raw())
    await until(lambda: edge.engine.exchanges)
    (connection,) = edge.server.server_state.connections
    writer.write(raw() * 2)
    await until(lambda: len(connection.pipeline) == 2)  # type: ignore[union-attr]
    writer.close()
    async with asyncio.timeout(1):
        await edge.engine.exchanges[0].closed.wait()
    await until(lambda: not edge.server.server_state.tasks)
    assert len(edge.engine.exchanges) == 1


async def test_a_client_that_leaves_mid_body_is_forgotten(start: Start, connect: Connect) -> None:
    edge = await start()
    _, writer = await connect(edge)
    writer.write(f"{HEAD}{JSON}Content-Length: 1000\r\n\r\n{{".encode())
    await until(lambda: edge.server.server_state.tasks)
    writer.close()
    await until(lambda: not edge.server.server_state.tasks)
    assert edge.lines()[0]["reason"] == "client_gone"
    assert edge.engine.requests == []


# --- clients that wait or stall ---


async def test_a_waiting_client_gets_keep_alive_comments_and_then_the_answer(
    start: Start, connect: Connect
) -> None:
    gate = asyncio.Event()
    script = [gate, [started(), text("Hello"), FINISHED, COMPLETED]]
    edge = await start(Engine(script), limits={"keepalive_s": 0.1})
    reader, writer = await connect(edge)
    writer.write(raw(stream=True))
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"text/event-stream" in head
        for _ in range(3):
            assert (await reader.readuntil(b"\n\n")).endswith(b": keep-alive\n\n")
        gate.set()
        rest = await reader.readuntil(b"0\r\n\r\n")
    assert b"Hello" in rest
    assert b"[DONE]" in rest
    assert edge.lines()[0]["provider"] == "sim"


async def test_an_error_after_a_keep_alive_is_an_event(start: Start, connect: Connect) -> None:
    from broker.errors import InferenceError

    gate = asyncio.Event()
    edge = await start(
        Engine([gate, InferenceError("no_worker", "nobody")]), limits={"keepalive_s": 0.1}
    )
    reader, writer = await connect(edge)
    writer.write(raw(stream=True))
    async with asyncio.timeout(5):
        await reader.readuntil(b": keep-alive\n\n")
        gate.set()
        rest = await reader.readuntil(b"0\r\n\r\n")
    assert b'"code":"no_worker"' in rest
    assert b"[DONE]" not in rest


async def test_a_busy_stream_has_no_keep_alive_comments(start: Start, connect: Connect) -> None:
    script: list[object] = [[started()]]
    gates = [asyncio.Event() for _ in range(10)]
    for gate in gates:
        script += [[text("x")], gate]
    edge = await start(Engine([*script, [FINISHED, COMPLETED]]), limits={"keepalive_s": 0.2})
    reader, writer = await connect(edge)
    writer.write(raw(stream=True))
    for gate in gates:
        await asyncio.sleep(0.05)
        gate.set()
    async with asyncio.timeout(5):
        seen = await reader.readuntil(b"0\r\n\r\n")
    assert b"keep-alive" not in seen
    assert seen.count(b'"content":"x"') == 10


async def test_a_client_that_does_not_read_is_dropped_and_slows_nobody(
    start: Start, client: httpx.AsyncClient
) -> None:
    flood = [[started()], *([text("x" * 100_000)] for _ in range(400))]
    edge = await start(Engine([*flood, [FINISHED, COMPLETED]]), limits={"slow_reader_s": 0.5})
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stalled, ("127.0.0.1", edge.port))
    await loop.sock_sendall(stalled, raw(stream=True))
    await until(lambda: edge.engine.exchanges)
    exchange = edge.engine.exchanges[0]
    began = loop.time()
    edge.engine.script = [[started(), text("Hi"), FINISHED, COMPLETED]]
    other = await client.post(f"{edge.url}{CHAT}", json=body(), headers=AUTHORIZED)
    assert other.status_code == 200
    assert not exchange.closed.is_set()
    # It stopped asking for events long before the end: what waits in memory is bounded.
    assert exchange.asked < 100
    async with asyncio.timeout(5):
        await exchange.closed.wait()
    assert 0.3 < loop.time() - began < 3
    await until(lambda: not edge.server.server_state.tasks)
    assert edge.lines()[-1]["reason"] == "client_gone"
    stalled.close()


@pytest.mark.parametrize("extra", ["", "Connection: close\r\n"])
async def test_a_client_that_reads_nothing_of_a_whole_answer_is_dropped_and_counts(
    start: Start, extra: str
) -> None:
    answer = [[started(), text("x" * 20_000_000), FINISHED, COMPLETED]]
    edge = await start(Engine(answer), limits={"slow_reader_s": 0.5})
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    silent.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(silent, ("127.0.0.1", edge.port))
    request = raw().replace(b"\r\n", f"\r\n{extra}".encode(), 1)
    await loop.sock_sendall(silent, request)
    await until(lambda: edge.metric("millrace_held_bytes") > 10_000_000)
    began = loop.time()
    await until(lambda: not edge.server.server_state.connections)
    assert 0.3 < loop.time() - began < 3
    assert edge.metric("millrace_held_bytes") == 0
    silent.close()


async def test_a_slow_client_gets_the_whole_of_a_whole_answer(
    start: Start, connect: Connect
) -> None:
    answer = [[started(), text("x" * 20_000_000), FINISHED, COMPLETED]]
    edge = await start(Engine(answer), limits={"slow_reader_s": 0.3})
    reader, writer = await connect(edge)
    writer.write(raw())
    head = await reader.readuntil(b"\r\n\r\n")
    left = int(head.lower().partition(b"content-length: ")[2].split()[0])
    async with asyncio.timeout(20):
        while left:
            left -= len(await reader.read(200_000))
            await asyncio.sleep(0.01)
    await until(lambda: edge.metric("millrace_held_bytes") == 0)


async def test_a_slow_client_that_goes_on_reading_gets_everything(
    start: Start, connect: Connect
) -> None:
    flood = [[started()], *([text("x" * 100_000)] for _ in range(60))]
    edge = await start(Engine([*flood, [FINISHED, COMPLETED]]), limits={"slow_reader_s": 0.5})
    reader, writer = await connect(edge)
    writer.write(raw(stream=True))
    size = 0
    async with asyncio.timeout(20):
        piece = b""
        while b"0\r\n\r\n" not in piece:
            piece = await reader.read(200_000)
            size += len(piece)
            await asyncio.sleep(0.01)
    assert size > 6_000_000


# --- bodies ---


async def test_a_body_over_the_limit_is_refused_by_its_length_alone(
    start: Start, connect: Connect
) -> None:
    edge = await start()
    reader, writer = await connect(edge)
    writer.write(f"{HEAD}{JSON}Content-Length: {40 << 20}\r\n\r\n".encode())
    status, headers, content = await reply(reader)
    assert status == 413
    assert json.loads(content)["error"]["code"] == "request_too_large"
    assert str(32 << 20) in json.loads(content)["error"]["message"]
    assert "x-request-id" in headers


async def test_a_40_mb_body_gets_413_though_the_client_sends_it_all(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    content = b" " * (40 << 20)
    headers = AUTHORIZED | {"content-type": "application/json"}
    answer = await client.post(edge.url + CHAT, content=content, headers=headers)
    assert answer.status_code == 413
    # The connection stays usable.
    again = await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)
    assert again.status_code == 200


async def test_a_chunked_body_is_counted_as_it_comes(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start(limits={"max_body_bytes": 100_000})
    sent = 0

    async def chunks(count: int) -> object:
        nonlocal sent
        for _ in range(count):
            sent += 10_000
            yield b" " * 10_000

    headers = AUTHORIZED | {"content-type": "application/json"}
    answer = await client.post(edge.url + CHAT, content=chunks(50), headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 413
    padded = json.dumps(body()).encode()

    async def fits() -> object:
        yield b" " * 50_000
        yield padded

    answer = await client.post(edge.url + CHAT, content=fits(), headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 200


async def test_a_20_mb_body_is_taken(start: Start, client: httpx.AsyncClient) -> None:
    edge = await start()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (20 << 20)}}
    request = body(messages=[{"role": "user", "content": [image]}])
    answer = await client.post(edge.url + CHAT, json=request, headers=AUTHORIZED)
    assert answer.status_code == 200
    assert edge.engine.requests[0][0].ByteSize() > 14 << 20


@pytest.mark.parametrize("first", ["", "{"])
async def test_a_body_that_never_comes_runs_into_the_deadline(
    start: Start, connect: Connect, first: str
) -> None:
    edge = await start(limits={"request_timeout_s": 0.2})
    reader, writer = await connect(edge)
    writer.write(f"{HEAD}{JSON}Content-Length: 1000\r\n\r\n{first}".encode())
    status, _, content = await reply(reader)
    assert status == 504
    assert json.loads(content)["error"]["code"] == "deadline"


async def test_the_key_is_checked_before_the_body_is_read(start: Start, connect: Connect) -> None:
    edge = await start()
    reader, writer = await connect(edge)
    head = HEAD.replace(SECRET, "mr-wrong")
    writer.write(f"{head}{JSON}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n".encode())
    status, _, content = await reply(reader)
    assert status == 401
    assert json.loads(content)["error"]["code"] == "invalid_api_key"


async def test_expect_100_continue_is_answered(start: Start, connect: Connect) -> None:
    edge = await start()
    reader, writer = await connect(edge)
    content = json.dumps(body()).encode()
    writer.write(
        f"{HEAD}{JSON}Content-Length: {len(content)}\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(content)
    assert (await reply(reader))[0] == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/vnd.api+json", 200),
        (None, 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonx", 415),
    ],
)
async def test_only_json_is_taken(
    start: Start, client: httpx.AsyncClient, content_type: str | None, status: int
) -> None:
    edge = await start()
    headers = AUTHORIZED | ({} if content_type is None else {"content-type": content_type})
    answer = await client.post(
        edge.url + CHAT, content=json.dumps(body()).encode(), headers=headers
    )
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["error"]["code"] == "unsupported_media_type"


async def test_a_compressed_body_is_refused_clearly(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    headers = AUTHORIZED | {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await client.post(edge.url + CHAT, content=b"\x1f\x8b", headers=headers)
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["error"]["message"]


# --- heads and connections ---


@pytest.mark.parametrize(
    "pieces",
    [
        [b"X-Big: " + b"x" * 9000 + b"\r\n\r\n"],
        [b"X-Big: ", b"x" * 9000, b"\r\n\r\n"],
        [b"X-%d: 1\r\n" % n for n in range(1000)] + [b"\r\n"],
        [b"X-Never-Ends: "] + [b"x" * 4000] * 5,
    ],
    ids=["one header", "in pieces", "many headers", "no end"],
)
async def test_a_head_over_the_limit_is_431(
    start: Start, connect: Connect, pieces: list[bytes]
) -> None:
    edge = await start(limits={"max_header_bytes": 8192})
    reader, writer = await connect(edge)
    writer.write(HEAD.encode())
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.001)
    status, headers, content = await reply(reader)
    assert status == 431
    assert json.loads(content)["error"]["code"] == "request_too_large"
    assert headers["x-request-id"].startswith("req_")
    assert edge.engine.requests == []


async def test_a_large_body_does_not_count_as_head(start: Start, connect: Connect) -> None:
    edge = await start(limits={"max_header_bytes": 8192})
    reader, writer = await connect(edge)
    for _ in range(3):
        writer.write(raw(user="x" * 200_000))
        assert (await reply(reader))[0] == 200
    # The rest of one request and the start of the next in one piece.
    first, second = raw(user="x" * 50_000), raw()
    writer.write(first[:20_000])
    await asyncio.sleep(0.02)
    writer.write(first[20_000:] + second[:100])
    await asyncio.sleep(0.02)
    writer.write(second[100:])
    assert (await reply(reader))[0] == 200
    assert (await reply(reader))[0] == 200


async def test_pipelined_requests_are_answered_in_order(start: Start, connect: Connect) -> None:
    edge = await start()
    reader, writer = await connect(edge)
    writer.write(b"".join(raw(user=f"n{n}") for n in range(40)))
    ids = []
    for _ in range(40):
        status, headers, _ = await reply(reader)
        assert status == 200
        ids.append(headers["x-request-id"])
    assert ids == [request_id for _, _, request_id, _ in edge.engine.requests]
    assert [r.generate.user for r, *_ in edge.engine.requests] == [f"n{n}" for n in range(40)]


async def test_what_is_not_http_gets_an_error_in_the_usual_form(
    start: Start, connect: Connect
) -> None:
    edge = await start()
    reader, writer = await connect(edge)
    writer.write(b"\x16\x03\x01 this is TLS\r\n\r\n")
    status, headers, content = await reply(reader)
    assert status == 400
    assert headers["connection"] == "close"
    assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"].startswith("req_")
    assert await reader.read() == b""


@pytest.mark.parametrize("name", ["Upgrade", "upgrade"])
async def test_an_offer_of_http2_is_ignored_and_the_body_is_kept(
    start: Start, connect: Connect, name: str
) -> None:
    edge = await start()
    reader, writer = await connect(edge)
    offer = (
        f"Connection: Upgrade, HTTP2-Settings\r\n{name}: h2c\r\nHTTP2-Settings: AAA\r\n".encode()
    )
    plain = raw()
    offered = plain.replace(b"Content-Type", offer + b"Content-Type", 1)
    for request in (offered, plain, offered):
        writer.write(request)
        assert (await reply(reader))[0] == 200


async def test_nagles_algorithm_is_off(start: Start, connect: Connect) -> None:
    edge = await start(waiting())
    _, writer = await connect(edge)
    writer.write(raw())
    await until(lambda: edge.engine.exchanges)
    (connection,) = edge.server.server_state.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_a_shutdown_ends_what_runs_with_a_typed_error(start: Start, connect: Connect) -> None:
    edge = await start(waiting([started(), text("Hel")]))
    reader, writer = await connect(edge)
    writer.write(raw(stream=True))
    async with asyncio.timeout(5):
        await reader.readuntil(b"Hel")
    whole_reader, whole_writer = await connect(edge)
    edge.engine.script = [asyncio.Event()]
    whole_writer.write(raw())
    await until(lambda: len(edge.engine.exchanges) == 2)
    edge.server.should_exit = True
    async with asyncio.timeout(10):
        rest = await reader.read()
    assert b'"code":"draining"' in rest
    assert b"[DONE]" not in rest
    status, headers, content = await reply(whole_reader)
    assert status == 503
    assert json.loads(content)["error"]["code"] == "draining"
    assert "retry-after" in headers
    assert all(exchange.closed.is_set() for exchange in edge.engine.exchanges)
    whole_writer.close()


async def test_a_small_reply_is_one_write(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.http import protocol

    written: list[bytes] = []

    class _Recorder:
        def __init__(self, transport: asyncio.Transport) -> None:
            self._real = transport

        def write(self, data: bytes) -> None:
            written.append(data)
            self._real.write(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    made = protocol.Connection.connection_made
    monkeypatch.setattr(
        protocol.Connection,
        "connection_made",
        lambda self, transport: made(self, _Recorder(transport)),  # type: ignore[arg-type]
    )
    edge = await start()
    async with httpx.AsyncClient() as client:
        await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)
        assert len(written) == 1
        await client.post(edge.url + CHAT, json=body(stream=True), headers=AUTHORIZED)
        assert len(written) == 3  # one for each batch of the script
        await client.get(edge.url + "/healthz")
        assert len(written) == 4
