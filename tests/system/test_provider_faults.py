"""What callers see of a provider that fails, and how often it is called."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.system.stack import MakeStack, Stack, until

LIMITS = {"last_first_token_timeout_s": 2, "stall_timeout_s": 1, "connect_timeout_s": 1}


@pytest.fixture
async def faulty(make_stack: MakeStack) -> Stack:
    return await make_stack(workers=1, limits=LIMITS)


async def calls_of(stack: Stack, model: str, *, stream: bool) -> tuple[int, str, int]:
    """(HTTP status, error code, upstream calls) of one request."""
    await stack.reset_sim()
    async with stack.client() as client:
        if stream:
            answer = await stack.stream_text(client, f"sim/{model}")
            code = (answer.error or {}).get("code") or ""
            assert answer.done == (answer.error is None)
            status = answer.status
        else:
            response = await stack.chat(client, f"sim/{model}")
            status = response.status_code
            code = response.json().get("error", {}).get("code") or ""
    return status, code, int((await stack.sim_stats())["calls"])


async def test_r5_faults_before_content_are_retried_within_bounds_and_then_told(
    faulty: Stack,
) -> None:
    expected = {
        "status=500,first_n=1,key=a{s}": (200, "", 2),
        "status=503,first_n=2,key=b{s}": (200, "", 3),
        "fault=reset,first_n=1,key=c{s}": (200, "", 2),
        "fault=html,first_n=1,key=d{s}": (200, "", 2),
        "status=429,retry_after=1,first_n=1,key=e{s}": (200, "", 2),
        "status=500": (502, "upstream_error", 3),
        "status=503,code=x": (503, "x", 3),
        "status=429,retry_after=60,key=f{s}": (429, "rate_limit_exceeded", 1),
        "status=400,code=odd": (400, "odd", 1),
        "status=401": (502, "upstream_credentials", 1),
        "status=404": (404, "model_not_found", 1),
    }
    for stream in (False, True):
        for model, wanted in expected.items():
            got = await calls_of(faulty, model.format(s=int(stream)), stream=stream)
            assert got == wanted, (model, stream)
    await faulty.quiet()


async def test_a_429_with_retry_after_is_waited_for(faulty: Stack) -> None:
    async with faulty.client() as client:
        begun = time.monotonic()
        answer = await faulty.chat(client, "sim/status=429,retry_after=2,first_n=1,key=w")
        assert answer.status_code == 200
        assert 1.8 <= time.monotonic() - begun < 4


async def test_a_stream_cut_by_the_provider_is_resumed_or_told_but_never_shortened(
    faulty: Stack,
) -> None:
    async with faulty.client() as client:
        whole = await faulty.chat(client, "sim/tokens=60")
        text = whole.json()["choices"][0]["message"]["content"]
        for fault in ("cut", "stall", "bad_json", "no_finish"):
            once = f"sim/tokens=60,fault={fault},after=40,first_n=1,key={fault}"
            answer = await faulty.stream_text(client, once)
            assert (answer.text, answer.finish, answer.done) == (text, "stop", True), fault
            assert len(answer.ids) == 1
            always = f"sim/tokens=60,fault={fault},after=40"
            answer = await faulty.stream_text(client, always)
            assert answer.error is not None, fault
            assert not answer.done
            assert answer.finish is None
            assert text.startswith(answer.text)
    await faulty.quiet()


async def test_a_second_run_that_says_something_else_ends_in_a_typed_error(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1)
    async with stack.client() as client:
        model = "sim/tokens=60,delay_ms=50,vary"
        streams = [asyncio.create_task(stack.stream_text(client, model)) for _ in range(10)]

        await until(lambda: stack.open_calls(10), "ten streams run")
        await asyncio.sleep(0.8)  # let content be shown
        stack.processes["worker0"].kill()
        stack.start_worker(1)
        answers = await asyncio.gather(*streams)
    for answer in answers:
        assert answer.error is not None
        assert answer.error["code"] == "worker_lost"
        assert not answer.done
        assert answer.finish is None
        assert answer.text
    await stack.quiet()
    assert (await stack.ledger()).total().charges == 0


async def test_a_missing_done_after_the_finish_reason_is_a_whole_answer(faulty: Stack) -> None:
    async with faulty.client() as client:
        answer = await faulty.stream_text(
            client, "sim/tokens=20,fault=no_done", stream_options={"include_usage": True}
        )
    assert (answer.finish, answer.done, answer.error) == ("stop", True, None)
    assert answer.usage is not None


async def test_streams_in_single_bytes_and_crlf_are_read(faulty: Stack) -> None:
    async with faulty.client() as client:
        whole = await faulty.chat(client, "sim/tokens=20")
        text = whole.json()["choices"][0]["message"]["content"]
        answer = await faulty.stream_text(client, "sim/tokens=20,fault=drip+crlf")
        assert (answer.text, answer.done) == (text, True)


async def test_a_frozen_edge_loses_its_upstream_calls(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, edges=2)

    async with stack.client("edge1") as client:
        call = asyncio.create_task(stack.chat(client, "sim/tokens=2,ttft_ms=60000"))
        await until(lambda: stack.open_calls(1), "the call runs")
        stack.processes["edge1"].kill(signal.SIGSTOP)
        await until(lambda: stack.open_calls(0), "the worker gave the silent edge up", 20)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    async with stack.client() as client:
        assert (await stack.chat(client, "sim/tokens=2")).status_code == 200
    await stack.quiet()


async def test_r16_charges_equal_what_the_provider_counted(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=2)
    await stack.reset_sim()
    async with stack.client() as client:
        streams = [
            asyncio.create_task(stack.stream_text(client, f"sim/tokens={20 + n},delay_ms=10"))
            for n in range(40)
        ]
        whole = [
            asyncio.create_task(stack.chat(client, f"sim/tokens={20 + n},ttft_ms=400"))
            for n in range(40)
        ]
        await asyncio.sleep(0.3)
        stack.processes["worker1"].kill()
        answers = await asyncio.gather(*streams)
        assert {w.status_code for w in await asyncio.gather(*whole)} == {200}
        assert all(a.done for a in answers)
    await stack.quiet()

    async def settled() -> bool:
        return (await stack.ledger()).total().charges == 80

    await until(settled, "80 charges are stored")
    total = (await stack.ledger()).total()
    finished = (await stack.sim_stats())["usage"]["finished"]
    # The provider also counts calls that it finished and whose worker died before it told us.
    assert total.tokens["output_tokens"] == 2 * sum(20 + n for n in range(40))
    assert finished["completion_tokens"] >= total.tokens["output_tokens"]
