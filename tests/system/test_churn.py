"""Churn: workers join, leave, freeze and die, the queue restarts, and requests keep coming.

Every accepted request has to end, whole or with a typed error, and at the end nothing may be left
over. `make soak` runs ten minutes of it; the test alone is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import pytest

from tests.system.leaks import consumers, held, tasks
from tests.system.light_http import LightHttp
from tests.system.rpc import Client, ask, connected, text_of, told
from tests.system.stack import KEY, Answer, MakeStack, Stack, until

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
PER_SECOND = float(os.environ.get("SOAK_RATE", "60"))
SEED = int(os.environ.get("SOAK_SEED", "7"))
# A request that has not ended by then hangs.
PATIENCE_S = 90.0
MOST_OPEN = 1000
TOKENS = 12
LEAST_WORKERS, MOST_WORKERS = 2, 5
# What happens, and how often beside the others.
EVENTS = {"join": 4, "leave": 3, "kill": 3, "freeze": 2, "queue": 1}


class Churn:
    """Does things to the processes of a stack, and remembers what."""

    def __init__(self, stack: Stack, dice: random.Random) -> None:
        self.stack = stack
        self.done: Counter[str] = Counter()
        self._dice = dice
        self._next = len(self._workers())

    def _workers(self) -> list[str]:
        return [
            name
            for name, process in self.stack.processes.items()
            if name.startswith("worker") and process.running
        ]

    async def go_on(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            await asyncio.sleep(self._dice.uniform(0.5, 1.5))
            kinds, weights = zip(*EVENTS.items(), strict=True)
            await getattr(self, self._dice.choices(kinds, weights)[0])()

    async def join(self) -> None:
        if len(self._workers()) < MOST_WORKERS:
            self.stack.start_worker(self._next)
            self._next += 1
            self.done["join"] += 1

    async def leave(self) -> None:
        await self._signal(signal.SIGTERM, "leave")

    async def kill(self) -> None:
        await self._signal(signal.SIGKILL, "kill")

    async def freeze(self) -> None:
        workers = self._workers()
        if len(workers) > LEAST_WORKERS:
            process = self.stack.processes[self._dice.choice(workers)]
            process.popen.send_signal(signal.SIGSTOP)
            await asyncio.sleep(self._dice.uniform(0.5, 8))
            process.popen.send_signal(signal.SIGCONT)
            self.done["freeze"] += 1

    async def queue(self) -> None:
        """Kill the NATS server; it finds its streams again."""
        self.stack.processes["nats"].kill()
        await asyncio.sleep(0.3)
        self.stack.start_nats()
        self.done["queue"] += 1
        await asyncio.sleep(3)

    async def _signal(self, number: signal.Signals, name: str) -> None:
        workers = self._workers()
        if len(workers) <= LEAST_WORKERS:
            return await self.join()
        self.stack.processes[self._dice.choice(workers)].popen.send_signal(number)
        self.done[name] += 1
        return None


class Load:
    """Asks as often as it was told, streamed and whole, by HTTP and gRPC; counts how all ends."""

    def __init__(self, stack: Stack, text: str) -> None:
        self.stack = stack
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.skipped = 0
        self.slowest_s = 0.0
        self._text = text
        self._open = 0

    async def go_on(self, until_s: float) -> None:
        port = self.stack.edges["edge"][0]
        async with (
            LightHttp(port, KEY) as http,
            connected(self.stack) as rpc,
            asyncio.TaskGroup() as group,
        ):
            ways = (
                partial(self._whole, http),
                partial(self._streamed, http),
                partial(self._whole, http),
                partial(self._streamed, http),
                partial(self._called, rpc),
                partial(self._followed, rpc),
            )
            asked = 0
            begun = time.monotonic()
            while (now := time.monotonic()) < until_s:
                while asked < (now - begun) * PER_SECOND:
                    asked += 1
                    # What is late because this process is, is not asked for.
                    if self._open < MOST_OPEN:
                        self._open += 1
                        way = ways[asked % len(ways)]
                        group.create_task(self._one(way, asked))
                    else:
                        self.skipped += 1
                await asyncio.sleep(0.01)

    async def _one(self, way: Callable[[str], Awaitable[str]], number: int) -> None:
        model = f"sim/tokens={TOKENS},delay_ms={(number % 4) * 20}"
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                end = await way(model)
        except TimeoutError:
            end = "hung"
        except OSError as exc:
            end = f"broken: {exc!r}"
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        self._open -= 1
        self.ends[end] += 1

    async def _whole(self, http: LightHttp, model: str) -> str:
        status, body = await http.post("/v1/chat/completions", _asked(model))
        answer = json.loads(body)
        if status == 200:
            return self._checked(answer["choices"][0]["message"]["content"])
        return f"error: {answer['error']['code']}"

    async def _streamed(self, http: LightHttp, model: str) -> str:
        status, body = await http.post("/v1/chat/completions", {**_asked(model), "stream": True})
        if status != 200:
            return f"error: {json.loads(body)['error']['code']}"
        answer = Answer()
        for line in body.decode().splitlines():
            answer.take(line)
        if answer.error is not None:
            return f"error: {answer.error['code']}"
        return self._checked(answer.text) if answer.done else "cut without a word"

    async def _called(self, rpc: Client, model: str) -> str:
        try:
            answer = (await rpc.infer(ask(model), timeout=PATIENCE_S)).answer
        except grpc.aio.AioRpcError as error:
            return f"error: {told(error).reason or error.details()}"
        return self._checked(text_of(answer))

    async def _followed(self, rpc: Client, model: str) -> str:
        try:
            events = await rpc.events(ask(model), timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            return f"error: {told(error).reason or error.details()}"
        if not events[-1].HasField("completed"):
            return "cut without a word"
        return self._checked("".join(event.text.text for event in events))

    def _checked(self, text: str) -> str:
        if text != self._text:
            self.wrong.append(text)
        return "answered"


def _asked(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.timeout(SECONDS + 180)
async def test_every_accepted_request_ends_whatever_happens_to_the_processes(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=3, limits={"drain_grace_s": 2})
    async with stack.client() as client:
        answer = await stack.chat(client, f"sim/tokens={TOKENS}")
    load = Load(stack, answer.json()["choices"][0]["message"]["content"])
    edge = stack.processes["edge"]
    before, consumers_before = held(edge), await consumers(stack)
    tasks_before = await tasks(stack)
    churn = Churn(stack, random.Random(SEED))
    end = time.monotonic() + SECONDS
    await asyncio.gather(load.go_on(end), churn.go_on(end))
    answered = load.ends["answered"]
    report = (
        f"{load.ends.total()} requests in {SECONDS:g} s, {load.skipped} not asked: "
        f"{dict(load.ends)}, the slowest {load.slowest_s:.1f} s, with {dict(churn.done)}"
    )
    sys.stdout.write(f"{report}\n")
    strange = {name for name in load.ends if not name.startswith(("answered", "error: "))}
    assert not strange, report
    assert not load.wrong, load.wrong[:3]
    # A restart of the queue refuses what comes meanwhile; nothing else may cost more than a retry.
    assert answered >= 0.7 * load.ends.total(), report
    with contextlib.suppress(ProcessLookupError):
        for name, process in stack.processes.items():
            if name.startswith("worker"):
                process.popen.send_signal(signal.SIGCONT)
    await stack.quiet(timeout_s=30)
    await until(stack.queue_empty, "no job is left", 40)

    async def charged() -> bool:
        return (await stack.ledger()).total().charges >= answered + 1

    await until(charged, f"{answered + 1} answers are charged", 60)
    after = held(edge)
    sys.stdout.write(f"the edge before {before} and after {after}\n")

    async def as_before() -> bool:
        # A worker more or less is a link more or less.
        return (
            held(edge).sockets <= before.sockets + MOST_WORKERS
            and await tasks(stack) <= tasks_before + 3 * MOST_WORKERS
        )

    await until(as_before, "the edge let go of sockets and tasks", 30)
    assert after.files <= before.files + 2
    # Workers watch buckets.
    found = await consumers(stack)
    grown = {name: n for name, n in found.items() if n > consumers_before[name] + MOST_WORKERS}
    assert not grown, f"{grown}, before {consumers_before}"
