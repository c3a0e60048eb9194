"""Processes of this release and of a later one together: what the other does not know is skipped."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.system.newer_release import newer_release
from tests.system.rpc import ask, connected, text_of
from tests.system.stack import MakeStack, Stack, until

MODEL = "sim/tokens=20,delay_ms=5"


class Asking:
    """Asks an edge in every way, again and again, until told to stop."""

    def __init__(self, stack: Stack, text: str) -> None:
        self.stack = stack
        self.text = text
        self.rounds = 0
        self.stopped = False

    async def go_on(self, edge: str) -> None:
        async with self.stack.client(edge) as client, connected(self.stack, edge) as rpc:
            while not self.stopped:
                whole = await self.stack.chat(client, MODEL)
                assert whole.status_code == 200, whole.text
                (choice,) = whole.json()["choices"]
                assert choice["message"]["content"] == self.text
                assert choice["finish_reason"] == "stop"
                answer = await self.stack.stream_text(client, MODEL)
                assert (answer.text, answer.error) == (self.text, None)
                assert (answer.finish, answer.done) == ("stop", True)
                assert text_of((await rpc.infer(ask(MODEL))).answer) == self.text
                events = await rpc.events(ask(MODEL))
                assert "".join(event.text.text for event in events) == self.text
                assert events[-1].HasField("completed")
                self.rounds += 1


async def test_old_and_new_edges_and_workers_serve_together_in_any_order(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    later = await asyncio.to_thread(newer_release, tmp_path)
    stack = await make_stack(
        workers=1, roots={"edge1": later, "worker1": later, "worker3": later, "broker1": later}
    )
    async with stack.client() as client:
        text = (await stack.chat(client, MODEL)).json()["choices"][0]["message"]["content"]
    asking = Asking(stack, text)

    async def some_rounds(what: str) -> None:
        enough = asking.rounds + 5
        await until(lambda: asking.rounds >= enough or any(t.done() for t in tasks), what)

    async with asyncio.TaskGroup() as tasks_of:
        tasks = [tasks_of.create_task(asking.go_on("edge"))]
        # Workers first: an old edge and a new worker, alone.
        stack.start_worker(1)
        await until(lambda: stack.live_workers(2), "the new worker is there")
        stack.processes["worker0"].kill(signal.SIGTERM)
        await until(lambda: stack.live_workers(1), "the old worker left")
        await some_rounds("an old edge is served by a new worker")
        # Then a new edge, and the broker; and an old worker again, alone.
        stack.start_edge(1)
        await until(lambda: stack.ready("edge1"), "the new edge is ready")
        stack.spawn("broker1", "broker")
        tasks.append(tasks_of.create_task(asking.go_on("edge1")))
        await some_rounds("new and old edges are served by a new worker")
        stack.start_worker(2)
        await until(lambda: stack.live_workers(2), "an old worker is there")
        stack.processes["worker1"].kill(signal.SIGTERM)
        await until(lambda: stack.live_workers(1), "the new worker left")
        await some_rounds("new and old edges are served by an old worker")
        asking.stopped = True
    await stack.quiet()
    total = (await stack.ledger()).total()
    assert total.charges >= 4 * asking.rounds
    logs = stack.logs()
    assert "Traceback" not in logs
