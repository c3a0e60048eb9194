"""Churn: workers join, leave, freeze and die, the queue restarts, and requests keep coming.

Every accepted request has to end, whole or with a typed error, and at the end nothing may be left
over. `make soak` runs ten minutes of it; the test alone is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter

import httpx
import pytest

from tests.system.stack import MakeStack, Stack, until

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
PER_SECOND = float(os.environ.get("SOAK_RATE", "40"))
# A request that has not ended by then hangs.
PATIENCE_S = 90.0
MOST_OPEN = 300
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
    """Asks as fast as it was told, and counts how requests end."""

    def __init__(self, stack: Stack, text: str) -> None:
        self.stack = stack
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._text = text
        self._open = 0

    async def go_on(self, until_s: float) -> None:
        async with self.stack.client(timeout_s=PATIENCE_S) as client, asyncio.TaskGroup() as group:
            asked = 0
            begun = time.monotonic()
            while (now := time.monotonic()) < until_s:
                while asked < (now - begun) * PER_SECOND:
                    # What is late because this process is, is not asked for.
                    if self._open < MOST_OPEN:
                        self._open += 1
                        group.create_task(self._one(client, asked))
                    asked += 1
                await asyncio.sleep(0.01)

    async def _one(self, client: httpx.AsyncClient, number: int) -> None:
        model = f"sim/tokens={TOKENS},delay_ms={(number % 4) * 20}"
        try:
            async with asyncio.timeout(PATIENCE_S):
                end = await (self._streamed if number % 2 else self._whole)(client, model)
        except TimeoutError:
            end = "hung"
        except httpx.TransportError as exc:
            end = f"broken: {exc!r}"
        self._open -= 1
        self.ends[end] += 1

    async def _whole(self, client: httpx.AsyncClient, model: str) -> str:
        response = await self.stack.chat(client, model)
        if response.is_success:
            return self._checked(response.json()["choices"][0]["message"]["content"])
        return f"error: {response.json()['error']['code']}"

    async def _streamed(self, client: httpx.AsyncClient, model: str) -> str:
        answer = await self.stack.stream_text(client, model)
        if answer.error is not None:
            return f"error: {answer.error['code']}"
        return self._checked(answer.text) if answer.done else "cut without a word"

    def _checked(self, text: str) -> str:
        if text != self._text:
            self.wrong.append(text)
        return "answered"


@pytest.mark.timeout(SECONDS + 180)
async def test_every_accepted_request_ends_whatever_happens_to_the_processes(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=3, limits={"drain_grace_s": 2})
    async with stack.client() as client:
        answer = await stack.chat(client, f"sim/tokens={TOKENS}")
    load = Load(stack, answer.json()["choices"][0]["message"]["content"])
    churn = Churn(stack, random.Random(7))
    end = time.monotonic() + SECONDS
    await asyncio.gather(load.go_on(end), churn.go_on(end))
    told = f"{dict(load.ends)} with {dict(churn.done)}"
    sys.stdout.write(f"{told}\n")
    strange = {name for name in load.ends if not name.startswith(("answered", "error: "))}
    assert not strange, told
    assert not load.wrong, load.wrong[:3]
    # A restart of the queue refuses what comes meanwhile; nothing else may cost more than a retry.
    answered = load.ends["answered"]
    assert answered >= 0.7 * load.ends.total(), told
    with contextlib.suppress(ProcessLookupError):
        for name, process in stack.processes.items():
            if name.startswith("worker"):
                process.popen.send_signal(signal.SIGCONT)
    await stack.quiet(timeout_s=30)
    await until(stack.queue_empty, "no job is left", 40)

    async def charged() -> bool:
        return (await stack.ledger()).total().charges >= answered + 1

    await until(charged, f"{answered + 1} answers are charged", 30)
