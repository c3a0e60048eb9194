"""Churn: workers join, leave, freeze and die, as do edges, brokers and the queue, under load.

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

from tests.system.leaks import consumers, held, tasks, worker_tasks
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
LEAST_WORKERS, MOST_WORKERS = 2, 6
# So much of what is due is asked at least; a machine that is shared for a moment may be late.
ASKED = 0.95 if SECONDS >= 600 else 0.8
# What happens, and how often beside the others. Each happens at least once.
EVENTS = {"join": 4, "leave": 3, "kill": 3, "freeze": 2, "queue": 1, "edge": 1, "broker": 1}
# The other edge stays, to see that it keeps nothing.
MORTAL_EDGE, BROKERS = "edge1", ("broker", "broker2")
# An edge writes charges down together, a moment after the answers: the last ones die with it.
UNPAID_S = 1.0
# Workers come and go so often in a second at least: fault 17 has 250 of it in ten minutes. It is
# aimed at a little more.
COMINGS, GOINGS = ("join",), ("leave", "kill")
RATE, AIM = 250 / 600, 280 / 600
# What a request may be told, and which events explain it. Nothing else has to show.
EXPLAINED = {
    "broker_unavailable": {"queue"},
    "queue_full": {"queue"},
    "queue_timeout": {"queue"},
    "no_worker": {"queue", "freeze", "kill"},
    "worker_lost": {"kill", "freeze"},
}
# An event explains what is asked until so long after it: a queue that was killed finds its streams,
# and its clients it, and a frozen worker is found out.
AFTER_S = 15.0
# So many may be told so at most: all that come while a queue is away, which is so many seconds for
# each time it is killed, and a part of the others.
AWAY_S, MOST_TOLD = 5.0, 0.02


# Asks a model, and says how that ended.
Way = Callable[[str], Awaitable[str]]


class Churn:
    """Does things to the processes of a stack, and remembers what, from when and to when."""

    def __init__(self, stack: Stack, dice: random.Random) -> None:
        self.stack = stack
        self.events: list[tuple[str, float, float]] = []
        # Edges that a client may ask.
        self.serving = sorted(stack.edges)
        self._dice = dice
        self._leaving: set[str] = set()
        self._frozen: set[str] = set()
        self._next = len(self._workers())

    @property
    def done(self) -> Counter[str]:
        """How often what has happened."""
        return Counter(name for name, _, _ in self.events)

    @property
    def moves(self) -> int:
        """Workers that came, and that went."""
        return sum(self.done[name] for name in COMINGS + GOINGS)

    def explains(self, code: str, begun: float, ended: float) -> bool:
        """Whether something happened that a request may be told this for, at that time."""
        return any(
            name in EXPLAINED.get(code, ()) and at <= ended and begun <= to + AFTER_S
            for name, at, to in self.events
        )

    def cut(self, edge: str, begun: float, ended: float) -> bool:
        """Whether a request was in flight at an edge when that was killed."""
        return edge == MORTAL_EDGE and any(
            name == "edge" and begun <= at <= ended for name, at, _ in self.events
        )

    def unpaid(self, edge: str, ended: float) -> bool:
        """Whether an edge was killed so soon behind an answer that it may not have been charged."""
        return edge == MORTAL_EDGE and any(
            name == "edge" and ended <= at <= ended + UNPAID_S for name, at, _ in self.events
        )

    def _workers(self) -> list[str]:
        return [
            name
            for name, process in self.stack.processes.items()
            if name.startswith("worker") and process.running and name not in self._leaving
        ]

    async def go_on(self, until_s: float) -> None:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as thawing:
            while (now := time.monotonic()) < until_s:
                late = self.moves < (now - begun) * AIM
                await asyncio.sleep(self._dice.uniform(0.1, 0.5 if late else 1.5))
                missing = [name for name in EVENTS if not self.done[name]]
                kinds = missing or (COMINGS + GOINGS if late else tuple(EVENTS))
                kind = self._dice.choices(kinds, [EVENTS[name] for name in kinds])[0]
                if kind == "freeze":
                    await self._freeze(thawing)
                elif kind == "edge":
                    self._lose_edge(thawing)
                else:
                    await getattr(self, kind)()

    async def join(self) -> None:
        if len(self._workers()) >= MOST_WORKERS:
            return await self.leave()
        self.stack.start_worker(self._next)
        self._next += 1
        self._happened("join")
        return None

    async def leave(self) -> None:
        await self._signal(signal.SIGTERM, "leave")

    async def kill(self) -> None:
        await self._signal(signal.SIGKILL, "kill")

    async def queue(self) -> None:
        """Kill the NATS server; it finds its streams again."""
        begun = time.monotonic()
        self.stack.processes["nats"].kill()
        await asyncio.sleep(0.3)
        self.stack.start_nats()
        await asyncio.sleep(2)
        self._happened("queue", begun)

    async def broker(self) -> None:
        """Kill a broker process, which leads or does not."""
        name = self._dice.choice(BROKERS)
        self.stack.processes[name].kill()
        self.stack.spawn(name, "broker")
        self._happened("broker")

    def _lose_edge(self, returning: asyncio.TaskGroup) -> None:
        if MORTAL_EDGE in self.serving:
            self.serving.remove(MORTAL_EDGE)
            self._happened("edge")
            self.stack.processes[MORTAL_EDGE].kill()
            returning.create_task(self._return())

    async def _return(self) -> None:
        self.stack.start_edge(1)
        await until(lambda: self.stack.ready(MORTAL_EDGE), "the edge is back")
        self.serving.append(MORTAL_EDGE)

    async def _spare(self) -> bool:
        """Whether enough workers are there without one: those that only begin do not count."""
        live = len((await self.stack.load()).workers) - len(self._frozen)
        return live > LEAST_WORKERS and len(self._workers()) > LEAST_WORKERS

    async def _freeze(self, thawing: asyncio.TaskGroup) -> None:
        workers = [name for name in self._workers() if name not in self._frozen]
        if not await self._spare():
            thawing.create_task(self.join())
            return
        name = self._dice.choice(workers)
        self._frozen.add(name)
        self.stack.processes[name].popen.send_signal(signal.SIGSTOP)
        thawing.create_task(self._thaw(name, self._dice.uniform(0.5, 8)))

    async def _thaw(self, name: str, after_s: float) -> None:
        begun = time.monotonic()
        await asyncio.sleep(after_s)
        self.stack.processes[name].popen.send_signal(signal.SIGCONT)
        self._frozen.discard(name)
        self._happened("freeze", begun)

    async def _signal(self, number: signal.Signals, name: str) -> None:
        if not await self._spare():
            return await self.join() if len(self._workers()) < MOST_WORKERS else None
        worker = self._dice.choice(self._workers())
        self.stack.processes[worker].popen.send_signal(number)
        self._leaving.add(worker)
        self._happened(name)
        return None

    def _happened(self, name: str, begun: float | None = None) -> None:
        now = time.monotonic()
        self.events.append((name, now if begun is None else begun, now))


class Load:
    """Asks as often as it was told, streamed and whole, by HTTP and gRPC; counts how all ends.

    `serving` are the edges that it asks in turn.
    """

    def __init__(self, stack: Stack, text: str, serving: list[str]) -> None:
        self.stack = stack
        self.serving = serving
        # Edges whose connections broke, when what they were asked began, and when it broke.
        self.broken: list[tuple[str, float, float]] = []
        # Edges that answered, and when.
        self.answers: list[tuple[str, float]] = []
        self.ends: Counter[str] = Counter()
        # What requests were told, when those were asked, and when they ended.
        self.told: list[tuple[str, float, float]] = []
        self.wrong: list[str] = []
        self.skipped = 0
        # In seconds, and what it was.
        self.slowest = (0.0, "")
        self._text = text
        self._open = 0

    async def go_on(self, until_s: float) -> None:
        async with contextlib.AsyncExitStack() as clients, asyncio.TaskGroup() as group:
            ways: dict[str, tuple[Way, ...]] = {}
            for name, (port, _) in self.stack.edges.items():
                http = await clients.enter_async_context(LightHttp(port, KEY))
                rpc = await clients.enter_async_context(connected(self.stack, name))
                by_http = (partial(self._whole, http), partial(self._streamed, http))
                by_rpc = (partial(self._called, rpc), partial(self._followed, rpc))
                ways[name] = (*by_http, *by_http, *by_rpc)
            asked = 0
            begun = time.monotonic()
            while (now := time.monotonic()) < until_s:
                while asked < (now - begun) * PER_SECOND:
                    asked += 1
                    # What is late because this process is, is not asked for.
                    if self._open < MOST_OPEN:
                        self._open += 1
                        edge = self.serving[asked % len(self.serving)]
                        way = ways[edge][asked // len(ways) % len(ways[edge])]
                        group.create_task(self._one(edge, way, asked, time.monotonic()))
                    else:
                        self.skipped += 1
                await asyncio.sleep(0.01)

    async def _one(self, edge: str, way: Way, number: int, begun: float) -> None:
        model = f"sim/tokens={TOKENS},delay_ms={(number % 4) * 20}"
        try:
            async with asyncio.timeout(PATIENCE_S):
                end = await way(model)
        except TimeoutError:
            end = "hung"
        except OSError:
            end = "broken"
            self.broken.append((edge, begun, time.monotonic()))
        name = getattr(way, "func", way).__name__
        self.slowest = max(self.slowest, (time.monotonic() - begun, f"{name.strip('_')}, {end}"))
        self._open -= 1
        self.ends[end] += 1
        if end == "answered":
            self.answers.append((edge, time.monotonic()))
        if end.startswith(_TOLD):
            self.told.append((end.removeprefix(_TOLD), begun, time.monotonic()))

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
            answer = (await rpc.infer(ask(model), timeout=PATIENCE_S, wait_for_ready=True)).answer
        except grpc.aio.AioRpcError as error:
            return _refused(error)
        return self._checked(text_of(answer))

    async def _followed(self, rpc: Client, model: str) -> str:
        try:
            events = await rpc.events(ask(model), timeout=PATIENCE_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return _refused(error)
        if not events[-1].HasField("completed"):
            return "cut without a word"
        return self._checked("".join(event.text.text for event in events))

    def _checked(self, text: str) -> str:
        if text != self._text:
            self.wrong.append(text)
        return "answered"


_TOLD = "error: "


def _refused(error: grpc.aio.AioRpcError) -> str:
    """What the broker said; raises `OSError` where the connection broke."""
    if reason := told(error).reason:
        return f"{_TOLD}{reason}"
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        raise ConnectionError(error.details())
    return f"{_TOLD}{error.details()}"


def _asked(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.timeout(SECONDS + 180)
async def test_every_accepted_request_ends_whatever_happens_to_the_processes(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=3, edges=2, limits={"drain_grace_s": 2})
    stack.spawn("broker2", "broker")
    async with stack.client() as client:
        answer = await stack.chat(client, f"sim/tokens={TOKENS}")
    churn = Churn(stack, random.Random(SEED))
    load = Load(stack, answer.json()["choices"][0]["message"]["content"], churn.serving)
    edge, broker = stack.processes["edge"], stack.processes["broker"]
    before, consumers_before = held(edge), await consumers(stack)

    async def some_told() -> list[int]:
        found = await worker_tasks(stack)
        return found if any(found) else []

    broker_before, workers_before = held(broker), await until(some_told, "a worker says how it is")
    tasks_before = await tasks(stack)
    end = time.monotonic() + SECONDS
    await asyncio.gather(load.go_on(end), churn.go_on(end))
    report = (
        f"{load.ends.total()} requests in {SECONDS:g} s, {load.skipped} not asked: "
        f"{dict(load.ends)}, the slowest {load.slowest[0]:.1f} s ({load.slowest[1]}), "
        f"with {dict(churn.done)}"
    )
    sys.stdout.write(f"{report}\n")
    assert set(churn.done) == set(EVENTS), report
    assert churn.moves >= SECONDS * RATE - 1, report
    assert load.ends.total() >= ASKED * SECONDS * PER_SECOND, report
    strange = {name for name in load.ends if not name.startswith(("answered", "broken", _TOLD))}
    assert not strange, report
    unexplained = [broken for broken in load.broken if not churn.cut(*broken)]
    assert not unexplained, f"{unexplained[:5]} with {churn.events}"
    assert not load.wrong, load.wrong[:3]
    surprising = [told for told in load.told if not churn.explains(*told)]
    assert not surprising, f"{surprising[:5]} with {churn.events}"
    most_told = MOST_TOLD * load.ends.total() + churn.done["queue"] * AWAY_S * PER_SECOND
    assert len(load.told) <= most_told, report
    with contextlib.suppress(ProcessLookupError):
        for name, process in stack.processes.items():
            if name.startswith("worker"):
                process.popen.send_signal(signal.SIGCONT)
    for name in stack.edges:
        await stack.quiet(name, timeout_s=30)
    await until(stack.queue_empty, "no job is left", 40)

    unpaid = sum(churn.unpaid(*answer) for answer in load.answers)
    least = load.ends["answered"] + 1 - unpaid

    async def charged() -> bool:
        return (await stack.ledger()).total().charges >= least

    await until(charged, f"{least} answers are charged, without {unpaid}", 60)
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

    async def workers_as_before() -> bool:
        # One that has worked has a few more than a new one: its lanes, its link, its pulls.
        return bool(max(await worker_tasks(stack)) <= max(workers_before) + 10)

    await until(workers_as_before, f"workers let go of tasks; before {workers_before}", 30)

    def brokers_as_before() -> bool:
        return all(
            now.sockets <= broker_before.sockets + 2 and now.files <= broker_before.files + 2
            for now in (held(stack.processes[name]) for name in BROKERS)
        )

    await until(brokers_as_before, f"brokers let go of sockets; before {broker_before}", 30)

    async def no_consumer_too_many() -> bool:
        # Workers watch buckets.
        found = await consumers(stack)
        return all(n <= consumers_before[name] + MOST_WORKERS for name, n in found.items())

    await until(no_consumer_too_many, f"no consumer is left over {consumers_before}", 30)
