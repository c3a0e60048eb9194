"""Bulk calls over gRPC: many items, failures in-band, and backpressure, against the whole system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from broker.bus.keyring import Keyring
from broker.v1 import inference_service_pb2 as pb
from edge.rpc.bulk import ITEMS
from tests.system.rpc import Client, Failure, Sender, ask, connected, failure, item, rest, text_of
from tests.system.shared import shared_stack
from tests.system.stack import Stack, until


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    # A stream's reader may be silent for 2 s here; a bulk call's for as long as it likes.
    async with shared_stack(tmp_path_factory, slots=512, limits={"slow_reader_s": 2}) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    async with connected(stack) as client:
        yield client


async def in_flight(stack: Stack) -> int:
    return (await stack.load()).in_flight


def memory_mb(stack: Stack, name: str) -> float:
    status = Path(f"/proc/{stack.processes[name].popen.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line[:5] == "VmRSS") / 1024


async def test_two_thousand_items_are_answered_once_each_with_failures_in_band(
    stack: Stack, client: Client
) -> None:
    await stack.reset_sim()

    def one(n: int) -> pb.InferManyRequest:
        if n % 100 == 7:
            return item(f"i{n}", ask("sim/sim-fault=status,status=400"))
        if n % 100 == 8:
            return item(f"i{n}", ask("sim/echo", temperature=3))
        if n % 100 == 9:
            return item(f"i{n}", ask("nobody/knows"))
        return item(f"i{n}", ask("sim/echo,ttft_ms=300", prompt=f"say {n}"))

    sender = Sender(map(one, range(2000)))
    results = {r.custom_id: r async for r in client.many(sender)}
    assert sender.sent == len(results) == 2000
    expected = {7: "invalid_request", 8: "invalid_request", 9: "model_not_found"}
    request_ids = set()
    for n in range(2000):
        result = results[f"i{n}"]
        reason = expected.get(n % 100)
        if reason is None:
            assert text_of(result.answer) == f"say {n}"
        else:
            found = Failure.of(result.error)
            assert found.reason == reason
            request_ids.add(found.request_id)
    assert len(request_ids) == 60
    stats = await stack.sim_stats()
    assert stats["calls"] == 2000 - 40
    assert ITEMS / 2 < stats["most_open"] <= ITEMS
    await stack.quiet()


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_bulk_call_that_is_refused_says_why_though_items_are_on_their_way(
    stack: Stack, count: int
) -> None:
    """Python's library reports an internal error when a status overtakes what it still sends."""
    async with connected(stack, key="mr-wrong") as client:
        for _ in range(5):
            sender = Sender(item(f"i{n}", ask("sim/echo")) for n in range(count))
            found = await failure(rest(client.many(sender)))
            assert (found.code, found.reason) == ("UNAUTHENTICATED", "invalid_api_key")


async def test_an_item_without_an_id_is_told_so(client: Client) -> None:
    results = [r async for r in client.many(iter([item("", ask("sim/echo"))]))]
    assert Failure.of(results[0].error).fields == ["custom_id"]


async def test_a_slow_bulk_reader_slows_the_sender_and_holds_little(
    stack: Stack, client: Client
) -> None:
    """Longer than a stream's reader may stay silent: a bulk call holds no provider while it waits."""
    await stack.reset_sim()
    before = memory_mb(stack, "edge")
    model, prompt = "sim/sim-bytes=40000,tokens=4", "x" * 20_000
    sender = Sender(item(f"i{n}", ask(model, prompt)) for n in range(1500))
    call = client.many(sender)
    seen = {(await call.read()).custom_id}
    most, calls, still = 0, -1, 0
    deadline = time.monotonic() + 30
    while still < 30 and time.monotonic() < deadline:  # unchanged for 3 s
        most = max(most, await in_flight(stack))
        now = (await stack.sim_stats())["calls"]
        calls, still = now, still + 1 if now == calls else 0
        await asyncio.sleep(0.1)
    assert still == 30
    assert most <= ITEMS
    assert await in_flight(stack) == 0
    assert calls < 1000
    assert sender.sent < 1500
    assert memory_mb(stack, "edge") - before < 100
    seen |= {result.custom_id for result in await rest(call) if result.HasField("answer")}
    assert len(seen) == 1500
    await stack.quiet()


async def test_large_items_of_a_bulk_call_wait_for_each_other(stack: Stack, client: Client) -> None:
    """64 MiB of requests at a time: four of 20 MB each do not run together."""
    await stack.reset_sim()

    def big(n: int) -> pb.InferManyRequest:
        request = ask("sim/sim-tokens=1,ttft_ms=300")
        image = request.generate.messages[0].parts.add().image
        image.inline.media_type = "image/png"
        image.inline.data = bytes(20_000_000)
        return item(f"i{n}", request)

    results = [r async for r in client.many(Sender(map(big, range(4))))]
    assert len({r.custom_id for r in results if r.HasField("answer")}) == 4
    assert (await stack.sim_stats())["most_open"] <= 3
    await stack.quiet()


async def test_a_key_that_is_revoked_while_a_bulk_call_runs_is_of_no_more_use(
    stack: Stack,
) -> None:
    keyring = Keyring(stack.bus)
    secret, record = await keyring.create("for one call")
    async with connected(stack, key=secret) as client:
        call = client.many(None)
        await call.write(item("a", ask("sim/echo")))
        assert (await call.read()).HasField("answer")
        await keyring.revoke(record.id)

        async def refused() -> bool:
            await call.write(item("b", ask("sim/echo")))
            result = await call.read()
            return result.HasField("error") and Failure.of(result.error).reason == "invalid_api_key"

        await until(refused, "items are refused", 5)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert (await call.code()) == grpc.StatusCode.OK
