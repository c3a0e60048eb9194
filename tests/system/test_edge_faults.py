"""Edges killed, frozen and drained; a queue without a leader."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx

from tests.ports import free_port
from tests.system.stack import MakeStack, Stack, until


async def ask_until_it_breaks(stack: Stack, model: str, edge: str = "edge") -> None:
    try:
        async with stack.client(edge) as client:
            await stack.chat(client, model)
    except httpx.TransportError:
        return


async def test_r7_a_killed_edge_takes_its_upstream_calls_with_it_within_2_s(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1, edges=2)
    model = "sim/sim-tokens=2,ttft_ms=20000"
    calls = [asyncio.create_task(ask_until_it_breaks(stack, model, "edge1")) for _ in range(10)]
    await until(lambda: stack.open_calls(10), "ten calls run")
    stack.processes["edge1"].kill()
    await until(lambda: stack.open_calls(0), "their upstream calls are closed", 2)
    await asyncio.gather(*calls)
    # The other edge and the worker go on.
    async with stack.client() as client:
        assert (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200
    await stack.quiet()
    await until(stack.queue_empty, "the dead edge's jobs are gone")


async def test_r1_jobs_of_a_dead_edge_are_dropped_without_an_upstream_call(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1, edges=2, slots=2)
    model = "sim/sim-tokens=2,ttft_ms=2000"
    calls = [asyncio.create_task(ask_until_it_breaks(stack, model, "edge1")) for _ in range(4)]
    await until(lambda: stack.open_calls(2), "two run, two wait in the stream")
    stack.processes["edge1"].kill()
    await asyncio.gather(*calls)
    await stack.reset_sim()
    await until(stack.queue_empty, "they are dropped", 15)
    assert (await stack.sim_stats())["calls"] == 0


async def test_sigterm_lets_an_edge_finish_and_refuses_the_rest(stack: Stack) -> None:
    async with stack.client() as client:
        call = asyncio.create_task(stack.chat(client, "sim/sim-tokens=2,ttft_ms=1500"))
        await until(lambda: stack.open_calls(1), "it runs")
        stack.processes["edge"].kill(signal.SIGTERM)

        async def leaving() -> bool:
            return not await stack.ready()

        await until(leaving, "the edge heard it")
        late = await stack.chat(client, "sim/sim-tokens=2")
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "draining"
        assert (await client.get("/readyz")).status_code == 503
        assert (await call).status_code == 200
    await until(lambda: not stack.processes["edge"].running, "the edge left", 10)
    assert stack.processes["edge"].popen.returncode == 0


async def test_r14_without_a_stream_requests_go_directly_to_workers(stack: Stack) -> None:
    async with stack.client() as client:
        assert (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200
        await stack.bus.js.delete_stream("INT")
        begun = time.monotonic()
        answers = await asyncio.gather(
            *(stack.chat(client, "sim/sim-tokens=2,ttft_ms=300") for _ in range(20))
        )
        took = time.monotonic() - begun
    assert [a.status_code for a in answers] == [200] * 20
    assert took < 3.0
    await stack.quiet()
    await until(lambda: charged(stack, 21), "each is charged once")


async def charged(stack: Stack, count: int) -> bool:
    return (await stack.ledger()).total().charges == count


async def test_without_nats_new_requests_fail_fast_and_running_streams_go_on(
    stack: Stack,
) -> None:
    async with stack.client() as client:
        model = "sim/sim-tokens=40,delay_ms=100"
        stream = asyncio.create_task(stack.stream_text(client, model))
        await until(lambda: stack.open_calls(1), "the stream runs")
        await asyncio.sleep(0.3)
        stack.processes["nats"].kill()

        async def refused() -> bool:
            answer = await stack.chat(client, "sim/sim-tokens=2")
            return answer.status_code == 503

        await until(refused, "new requests are refused", 3)
        begun = time.monotonic()
        answer = await stack.chat(client, "sim/sim-tokens=2")
        assert answer.json()["error"]["code"] == "broker_unavailable"
        assert answer.headers["retry-after"]
        assert time.monotonic() - begun < 0.5
        stack.start_nats()
        whole = await stream
        assert whole.done
        assert whole.finish == "stop"
        assert whole.error is None
        await until(lambda: answered(stack, client), "it serves again", 15)
    await until(lambda: charged_at_least(stack, 2), "nothing answered was lost", 10)


async def answered(stack: Stack, client: httpx.AsyncClient) -> bool:
    return (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200


async def charged_at_least(stack: Stack, count: int) -> bool:
    return (await stack.ledger()).total().charges >= count


async def test_an_edge_whose_port_is_taken_says_so_and_ends(stack: Stack) -> None:
    http, _ = stack.edges["edge"]
    env = {"MILLRACE_HTTP": f"127.0.0.1:{http}", "MILLRACE_GRPC": f"127.0.0.1:{free_port()}"}
    stack.spawn("late", "edge", env=env)
    late = stack.processes["late"]
    await until(lambda: not late.running, "it ends")
    assert late.popen.returncode == 1
    told = late.log.read_text()
    assert f"cannot serve HTTP on 127.0.0.1:{http}: is the port taken?" in told
    assert "address already in use" in told
    assert "Traceback" not in told
