"""Who is there to do the work: presence is believed when it is read afresh (R12)."""

from __future__ import annotations

from broker import subjects
from tests.system.stack import MakeStack, Stack, until


async def forget_workers(stack: Stack) -> None:
    """Take every worker's lease out of the bucket, as a NATS that lost it would."""
    kv = await stack.bus.kv(subjects.WORKERS)
    for key in await kv.keys():
        if key.startswith("w."):
            await kv.purge(key)


async def test_r12_an_open_stream_counts_as_presence_though_the_lease_is_gone(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1)
    async with stack.client() as client:
        assert (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200
        # Right after, before the worker takes its lease again.
        for _ in range(3):
            await forget_workers(stack)
            assert (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200
    await until(lambda: stack.live_workers(1), "the worker has its lease again")


async def test_r12_no_worker_is_said_when_there_is_none_and_no_longer_when_one_came(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1)
    async with stack.client() as client:
        assert (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200
        stack.processes["worker0"].kill()
        await until(lambda: stack.live_workers(0), "its lease ran out")
        refused = await stack.chat(client, "sim/sim-tokens=2")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_worker"
        assert int(refused.headers["retry-after"]) >= 1
        stack.start_worker(1)

        async def served() -> bool:
            return (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200

        await until(served, "the new worker serves")
