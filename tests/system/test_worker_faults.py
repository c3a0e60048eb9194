"""Workers killed, frozen, drained and poisoned, with real signals."""

from __future__ import annotations

import asyncio
import signal
import time

from broker.v1 import job_pb2
from tests.system.stack import MakeStack, Stack, until


async def running_on(stack: Stack) -> dict[str, int]:
    load = await stack.load()
    return {w.worker: w.sessions for w in load.workers}


async def test_r3_kill_9_before_content_reruns_everything_once_and_quickly(stack: Stack) -> None:
    await stack.reset_sim()
    async with stack.client() as client:
        begun = time.monotonic()
        calls = [
            asyncio.create_task(
                stack.chat(client, "sim/sim-tokens=5,ttft_ms=2000", prompt=f"question {n}")
            )
            for n in range(100)
        ]
        await until(lambda: running(stack, 100), "100 requests run")
        busy = await running_on(stack)
        assert min(busy.values()) > 0
        stack.processes["worker0"].kill()
        answers = await asyncio.gather(*calls)
        took = time.monotonic() - begun
    assert [a.status_code for a in answers] == [200] * 100
    assert len({a.json()["id"] for a in answers}) == 100
    # 2 s of the first run, 2 s of the second, and less than 2 s for everything else.
    assert took < 6.0
    stats = await stack.sim_stats()
    lost = max(busy.values())
    assert 100 < stats["calls"] <= 100 + lost + 8
    await stack.quiet()
    assert await stack.queue_empty()
    total = (await stack.ledger()).total()
    assert total.charges == 100
    assert total.completed == 100


async def charged(stack: Stack, count: int) -> bool:
    return (await stack.ledger()).total().charges == count


async def running(stack: Stack, count: int) -> bool:
    """So many calls are open at the provider, each by a granted attempt."""
    load = await stack.load()
    return load.running >= count and (await stack.sim_stats())["open"] >= count


async def test_r4_kill_9_mid_stream_ends_with_the_whole_text_or_a_typed_error(stack: Stack) -> None:
    async with stack.client() as client:
        whole = (await stack.chat(client, "sim/sim-tokens=60")).json()
        text = whole["choices"][0]["message"]["content"]
        model = "sim/sim-tokens=60,delay_ms=40"
        streams = [asyncio.create_task(stack.stream_text(client, model)) for _ in range(20)]
        await until(lambda: running(stack, 20), "20 streams run")
        await asyncio.sleep(0.5)  # let content be shown
        stack.processes["worker0"].kill()
        answers = await asyncio.gather(*streams)
    resumed = 0
    for answer in answers:
        assert len(answer.ids) == 1
        if answer.error is not None:
            assert answer.error["code"] == "worker_lost"
            assert not answer.done
            assert text.startswith(answer.text)
        else:
            assert answer.text == text
            assert answer.finish == "stop"
            assert answer.done
            resumed += 1
    # The sim says the same again, so a verified resume succeeds.
    assert resumed == 20
    await stack.quiet()


async def test_a_frozen_worker_is_replaced_and_its_late_frames_are_fenced_out(
    stack: Stack,
) -> None:
    async with stack.client() as client:
        model = "sim/sim-tokens=10,ttft_ms=1500"
        calls = [asyncio.create_task(stack.chat(client, model)) for _ in range(20)]
        await until(lambda: running(stack, 20), "20 requests run")
        stack.processes["worker0"].kill(signal.SIGSTOP)
        answers = await asyncio.gather(*calls)
        assert [a.status_code for a in answers] == [200] * 20
        stack.processes["worker0"].kill(signal.SIGCONT)
        again = await stack.chat(client, "sim/sim-tokens=10")
        assert again.status_code == 200
    await stack.quiet(timeout_s=30)
    await until(lambda: charged(stack, 21), "21 charges are stored")


async def test_r15_sigterm_finishes_what_runs_and_takes_nothing_new(stack: Stack) -> None:
    async with stack.client() as client:
        model = "sim/sim-tokens=5,ttft_ms=1500"
        calls = [asyncio.create_task(stack.chat(client, model)) for _ in range(40)]
        await until(lambda: running(stack, 40), "40 requests run")
        await stack.reset_sim()
        stack.processes["worker0"].kill(signal.SIGTERM)
        answers = await asyncio.gather(*calls)
        assert [a.status_code for a in answers] == [200] * 40
        await until(lambda: not stack.processes["worker0"].running, "the worker left", 10)
        assert stack.processes["worker0"].popen.returncode == 0
        # Nothing was called a second time.
        assert (await stack.sim_stats())["calls"] == 0
        assert (await stack.chat(client, "sim/sim-tokens=5")).status_code == 200


async def test_sigterm_hands_over_what_outlasts_the_grace_period(make_stack: MakeStack) -> None:
    stack: Stack = await make_stack(workers=2)
    async with stack.client() as client:
        model = "sim/sim-tokens=5,ttft_ms=8000"  # the grace period is 5 s
        calls = [asyncio.create_task(stack.chat(client, model)) for _ in range(8)]
        await until(lambda: running(stack, 8), "8 requests run")
        stack.processes["worker0"].kill(signal.SIGTERM)
        answers = await asyncio.gather(*calls)
    assert [a.status_code for a in answers] == [200] * 8
    await until(lambda: charged(stack, 8), "8 charges are stored")


async def test_a_job_that_was_delivered_but_not_claimed_runs_elsewhere(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1)
    async with stack.client() as client:
        # One answer first, so that the link between worker and edge exists.
        assert (await stack.chat(client, "sim/sim-tokens=2")).status_code == 200
        stack.processes["worker0"].kill(signal.SIGSTOP)
        # The frozen worker's standing pull gets the job, and it never claims it.
        call = asyncio.create_task(stack.chat(client, "sim/sim-tokens=2"))
        await until(lambda: published(stack), "the job is published")
        stack.start_worker(1)
        await asyncio.sleep(0.2)
        stack.processes["worker0"].kill(signal.SIGKILL)
        answer = await asyncio.wait_for(call, 15)
    assert answer.status_code == 200


async def published(stack: Stack) -> bool:
    return (await stack.load()).published == 1


async def test_r6_a_poison_job_goes_to_the_dead_letters_and_the_caller_is_told(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1)
    async with stack.client() as client:
        call = asyncio.create_task(stack.chat(client, "sim/sim-tokens=2,ttft_ms=60000"))
        for loss in range(3):
            await until(lambda: running(stack, 1), f"the job runs, loss {loss}")
            stack.processes["worker0"].kill(signal.SIGKILL)
            await until(lambda: idle(stack), "the loss is noticed")
            if loss < 2:
                stack.start_worker(0)
        answer = await asyncio.wait_for(call, 15)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "worker_lost"
    assert "dead letter" in answer.json()["error"]["message"]
    letters = await stack.bus.js.stream_info("DLQ")
    assert letters.state.messages == 1
    letter = await stack.bus.js.get_last_msg("DLQ", "dlq.int.sim.main")
    assert (
        b"ttft_ms=60000" in job_pb2.Job.FromString(letter.data or b"").request.SerializeToString()
    )
    assert (await stack.ledger()).total().charges == 0


async def idle(stack: Stack) -> bool:
    return (await stack.load()).running == 0
