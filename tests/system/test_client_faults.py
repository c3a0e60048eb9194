"""Clients that leave, read slowly, send too much, or ask for more than there is."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from pathlib import Path

from nats.aio.msg import Msg

from broker import subjects
from tests.system.stack import KEY, MakeStack, Stack, until


async def raw_request(stack: Stack, body: dict[str, object]) -> socket.socket:
    """A request on a socket of our own, so that it can be dropped at any moment."""
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    sock = socket.create_connection(("127.0.0.1", stack.edges["edge"][0]))
    sock.sendall(head.encode() + data)
    return sock


def ask(model: str, **fields: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}


async def test_r8_a_client_that_leaves_closes_the_upstream_call_within_2_s(stack: Stack) -> None:
    cases = {
        "unary": ask("sim/sim-tokens=5,ttft_ms=30000"),
        "before the first token": ask("sim/sim-tokens=5,ttft_ms=30000", stream=True),
        "mid-stream": ask("sim/sim-tokens=500,delay_ms=50", stream=True),
    }
    for name, body in cases.items():
        sock = await raw_request(stack, body)
        await until(lambda: stack.open_calls(1), f"{name}: the provider was called")
        if name == "mid-stream":
            assert b"chat.completion.chunk" in await asyncio.to_thread(sock.recv, 65536)
        sock.close()
        await until(lambda: stack.open_calls(0), f"{name}: the upstream call was closed", 2)
        await stack.quiet()
        assert await stack.queue_empty()
    total = (await stack.ledger()).total()
    assert (total.attempts, total.cancelled, total.charges) == (3, 3, 0)


async def test_r2_work_whose_client_left_while_it_was_queued_never_starts(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1, slots=2)
    await stack.reset_sim()
    running = [await raw_request(stack, ask("sim/sim-tokens=2,ttft_ms=3000")) for _ in range(2)]
    await until(lambda: stack.open_calls(2), "both slots are taken")
    # One more is published and waits in the stream, three more wait in the edge.
    waiting = [await raw_request(stack, ask("sim/sim-tokens=2,ttft_ms=3000")) for _ in range(4)]

    async def all_in() -> bool:
        load = await stack.load()
        return load.in_flight == 6 and load.queued == 3

    await until(all_in, "four requests wait")
    for sock in waiting:
        sock.close()

    async def gone() -> bool:
        return (await stack.load()).in_flight == 2

    await until(gone, "the waiting ones are forgotten", 2)
    for sock in running:
        await asyncio.to_thread(sock.recv, 65536)
        sock.close()
    await stack.quiet()
    assert await stack.queue_empty()
    assert (await stack.sim_stats())["calls"] == 2


async def test_r9_a_slow_reader_stops_its_own_upstream_and_nobody_else(stack: Stack) -> None:
    slow = await raw_request(stack, ask("sim/sim-bytes=60000000,tokens=6000", stream=True))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await until(lambda: stack.open_calls(1), "the slow one runs")
    async with stack.client() as client:
        worst = 0.0
        for _ in range(30):
            begun = time.monotonic()
            answer = await stack.chat(client, "sim/sim-tokens=5")
            assert answer.status_code == 200
            worst = max(worst, time.monotonic() - begun)
            await asyncio.sleep(0.05)
    assert worst < 1.0
    assert await stack.open_calls(1)
    for name in ("edge", "worker0", "worker1"):
        pid = stack.processes[name].popen.pid
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line[:5] == "VmRSS")
        assert rss < 140_000, f"{name} holds {rss} KB"
    slow.close()
    await until(lambda: stack.open_calls(0), "its upstream call was closed", 3)
    await stack.quiet()


async def test_r10_a_20_mb_image_arrives_and_40_mb_is_refused(stack: Stack) -> None:
    def body(size: int) -> dict[str, object]:
        picture = base64.b64encode(b"\x89PNG" + b"x" * size).decode()
        url = f"data:image/png;base64,{picture}"
        parts = [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return {"model": "sim/sim-tokens=3", "messages": [{"role": "user", "content": parts}]}

    async with stack.client() as client:
        good = await client.post("/v1/chat/completions", json=body(15_000_000))  # 20 MB as base64
        assert good.status_code == 200, good.text
        bad = await client.post("/v1/chat/completions", json=body(30_000_000))
        assert bad.status_code == 413
        assert bad.json()["error"]["code"] == "request_too_large"
    await stack.quiet()


async def test_r11_a_deadline_that_passes_in_the_queue_makes_no_upstream_call(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1, slots=1)
    await stack.reset_sim()
    async with stack.client() as client:
        first = asyncio.create_task(stack.chat(client, "sim/sim-tokens=2,ttft_ms=3000"))
        await until(lambda: stack.open_calls(1), "the slot is taken")
        begun = time.monotonic()
        late = await client.post(
            "/v1/chat/completions", json=ask("sim/x"), headers={"x-millrace-timeout": "1"}
        )
        took = time.monotonic() - begun
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "queue_timeout"
        assert 0.9 < took < 2.0
        assert (await first).status_code == 200
    await stack.quiet()
    assert (await stack.sim_stats())["calls"] == 1


async def test_ten_times_the_load_is_refused_quickly_and_what_is_accepted_finishes(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(
        workers=1, slots=4, limits={"queue_size": 12, "share_per_key": 1}
    )
    async with stack.client() as client:
        # Four run, one is published ahead, twelve wait in the edge: for longer than a busy machine
        # takes to send the others.
        model = "sim/sim-tokens=2,ttft_ms=4000"
        accepted = [asyncio.create_task(stack.chat(client, model)) for _ in range(16)]
        await until(lambda: stack.open_calls(4), "four run")
        accepted.append(asyncio.create_task(stack.chat(client, model)))

        async def full() -> bool:
            return (await stack.load()).queued == 12

        await until(full, "the queue is full")
        for _ in range(30):
            begun = time.monotonic()
            answer = await stack.chat(client, model)
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() - begun < 0.5
        assert {a.status_code for a in await asyncio.gather(*accepted)} == {200}
    await stack.quiet()


async def test_a_job_delivered_twice_is_answered_and_charged_once(stack: Stack) -> None:
    await stack.reset_sim()
    copies: list[bytes] = []
    async with stack.client() as client:

        async def keep(message: Msg) -> None:
            copies.append(message.data)

        subscription = await stack.bus.nc.subscribe("req.int.sim.>", cb=keep)
        call = asyncio.create_task(stack.chat(client, "sim/sim-tokens=2,ttft_ms=1000"))
        await until(lambda: stack.open_calls(1), "it runs")
        await until(lambda: copies, "the job was seen")
        subject = subjects.job("int", "sim", "main", "_")
        for _ in range(3):
            await stack.bus.js.publish(subject, copies[0])
        assert (await call).status_code == 200
        # And once more after it has finished.
        await stack.bus.js.publish(subject, copies[0])
        await subscription.unsubscribe()
    await stack.quiet()
    await until(stack.queue_empty, "the copies were acked")
    assert (await stack.sim_stats())["calls"] == 1
    total = (await stack.ledger()).total()
    assert (total.attempts, total.charges) == (1, 1)
