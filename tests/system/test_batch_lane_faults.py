"""Lines of batches while workers die, freeze and leave, and while results cannot be stored."""

from __future__ import annotations

import json
import signal

from broker.v1 import job_pb2
from tests.system.lines import Lines, chat, shorten_leases
from tests.system.stack import MakeStack, until
from workers.batch import LOSSES_BEFORE_POISON

HELD = "sim-ttft_ms=1500"


async def once_each(lines: Lines, *, extra: int) -> None:
    """Every line has one result and is answered; at most so many calls were made twice."""
    results = await lines.all(60)
    assert [result.number for result in results] == list(range(1, lines.published + 1))
    assert {result.status for result in results} == {200}
    info = await lines.stack.bus.js.stream_info("RES")
    assert info.state.messages == lines.published
    stats = await lines.stack.sim_stats()
    assert lines.published <= stats["calls"] <= lines.published + extra
    await lines.stack.quiet()


async def test_kill_9_of_a_worker_costs_a_second_call_of_what_it_ran_and_nothing_else(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=2, slots=16)
    await shorten_leases(stack)
    lines = Lines(stack)
    await lines.send(*(chat(HELD) for _ in range(60)))
    await until(lambda: stack.open_calls(20, or_more=True), "both run lines")
    stack.processes["worker0"].kill(signal.SIGKILL)
    await once_each(lines, extra=16)
    assert max([(await lines.result(n)).attempt for n in range(1, 61)]) == 1  # type: ignore[union-attr]


async def test_a_frozen_worker_wakes_up_too_late_and_changes_nothing(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=2, slots=8)
    await shorten_leases(stack)
    lines = Lines(stack)
    await lines.send(*(chat("sim-vary,ttft_ms=1000") for _ in range(12)))
    await until(lambda: stack.open_calls(10, or_more=True), "both run lines")
    stack.processes["worker0"].kill(signal.SIGSTOP)
    results = await lines.all(60)
    stack.processes["worker0"].kill(signal.SIGCONT)
    await stack.quiet(timeout_s=20)
    assert await lines.all() == results
    assert (await stack.bus.js.stream_info("RES")).state.messages == 12


async def test_a_worker_that_leaves_passes_on_what_it_cannot_finish(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, slots=8, limits={"drain_grace_s": 0.5})
    lines = Lines(stack)
    await lines.send(*(chat("sim-ttft_ms=3000") for _ in range(10)))
    await until(lambda: stack.open_calls(7, or_more=True), "lines run")
    stack.processes["worker0"].kill(signal.SIGTERM)
    await until(lambda: not stack.processes["worker0"].running, "it left")
    stack.start_worker(1)
    await once_each(lines, extra=7)
    found = [await lines.result(n) for n in range(1, 11)]
    # Not a minute later, when their leases would have run out.
    assert sorted(result.attempt for result in found if result) == [1] * 3 + [2] * 7


async def test_a_line_whose_lease_ran_out_where_it_runs_is_not_run_twice(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1, slots=8)
    await shorten_leases(stack, 1.0)
    lines = Lines(stack)
    await lines.send(*(chat("sim-ttft_ms=3500") for _ in range(3)))
    await once_each(lines, extra=0)


async def test_results_wait_while_their_stream_is_full(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, slots=8)
    config = (await stack.bus.js.stream_info("RES")).config
    await stack.bus.js.update_stream(config.evolve(max_msgs=5))
    lines = Lines(stack)
    await lines.send(*(chat("sim-vary") for _ in range(100)))

    async def full() -> bool:
        return (await stack.sim_stats())["calls"] >= 5 + 8 and await lines.results() == 5

    await until(full, "no more is taken")
    async with stack.client() as client:
        assert (await stack.chat(client, "sim/sim")).status_code == 200
    calls = (await stack.sim_stats())["calls"]
    assert calls < 40  # no more is begun than can be kept
    await stack.bus.js.update_stream(config)
    await once_each(lines, extra=1)  # the interactive one


async def test_kill_9_of_nats_loses_no_line(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=2, slots=16)
    lines = Lines(stack)
    await lines.send(*(chat("sim-ttft_ms=300") for _ in range(200)))
    await until(lambda: stack.open_calls(20, or_more=True), "lines run")
    stack.processes["nats"].kill(signal.SIGKILL)
    stack.start_nats()
    await until(lambda: stack.bus.connected, "NATS is back")
    results = await lines.all(90)
    assert {result.status for result in results} == {200}
    assert (await stack.sim_stats())["calls"] <= 200 + 32
    for result in results:
        assert json.loads(result.json)["choices"]


async def test_r6_a_line_that_kills_its_worker_each_time_is_told_and_put_aside_alone(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1, slots=8)
    lines, poison = Lines(stack), "sim-ttft_ms=60000"
    await lines.send(chat(poison))
    # With it whenever it runs, in slots or waiting for one; it comes first.
    await lines.send(*(chat("sim-ttft_ms=100") for _ in range(12)))
    for loss in range(1, LOSSES_BEFORE_POISON + 1):

        async def runs(loss: int = loss) -> bool:
            await shorten_leases(stack, 3.0)  # a worker that begins says how long they are
            return bool((await stack.sim_stats())["by_model"].get(poison) == loss)

        await until(runs, f"the line runs, loss {loss}")
        stack.processes["worker0"].kill(signal.SIGKILL)
        stack.start_worker(0)
    lost, *others = await lines.all(60)
    assert lost.status == 502
    error = json.loads(lost.json)["error"]
    assert (error["code"], "dead letter" in error["message"]) == ("worker_lost", True)
    assert {result.status for result in others} == {200}
    assert (await stack.sim_stats())["by_model"][poison] == LOSSES_BEFORE_POISON
    assert (await stack.bus.js.stream_info("DLQ")).state.messages == 1
    letter = await stack.bus.js.get_last_msg("DLQ", "dlq.bat.sim.main")
    assert job_pb2.Job.FromString(letter.data or b"").line.number == lost.number == 1
    await stack.quiet(timeout_s=20)
