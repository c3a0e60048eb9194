"""Whether many workers keep within what a provider allows, and use it: `python -m bench.capacity`.

Ten workers, 10,000 requests, and a provider (sim) that allows 100 calls at a time and 500 in any
second. After the first five seconds, 2 % of its calls may be refused where it says in its headers
what it allows, 5 % where it does not; 90 % of what it allows has to be used.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvloop

from bench.load import Job, Load, Outcome
from bench.meter import Roles, cpu_by_role
from tests.system.stack import KEY, Stack

WARM_S = 5.0
_LOOK_S = 0.25
_LONGEST_S = 600.0
USED = 0.9
MOST_REFUSED = {True: 0.02, False: 0.05}


@dataclass
class Run:
    """One model that is limited, asked by many clients until all requests are answered."""

    stack: Stack
    model: str
    requests: int
    # How many answers there were, and what else.
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    # Seconds since the beginning, calls, refusals and answers by then.
    seen: list[tuple[float, int, int, int]] = field(default_factory=list)

    async def run(self, clients: int) -> None:
        port = self.stack.edges["edge"][0]
        body = {"model": self.model, "messages": [{"role": "user", "content": "hello"}]}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.stack.sim_port}") as sim:
            answer = (await sim.post("/v1/chat/completions", json=body)).json()
            text = answer["choices"][0]["message"]["content"]
            asked = body | {"model": f"sim/{self.model}"}
            job = Job(
                "127.0.0.1", port, KEY, asked, clients, _LONGEST_S, text, requests=self.requests
            )
            load = Load(job)
            watching = asyncio.create_task(self._watch(sim, load.outcome))
            await load.run()
            await asyncio.sleep(2 * _LOOK_S)
            watching.cancel()
        self.answered, self.errors = len(load.outcome.latencies), load.outcome.errors

    async def _watch(self, sim: httpx.AsyncClient, outcome: Outcome) -> None:
        before: tuple[int, int] | None = None
        begun = time.monotonic()
        while True:
            stats = (await sim.get("/stats")).json()
            calls = stats["by_model"].get(self.model, 0), stats["by_status"].get("429", 0)
            before = before or calls
            answered = len(outcome.latencies)
            now = time.monotonic() - begun
            self.seen.append((now, calls[0] - before[0], calls[1] - before[1], answered))
            await asyncio.sleep(_LOOK_S)

    def after(self, seconds: float) -> tuple[float, int, int, int]:
        """Seconds, calls, refusals and answers from then on."""
        first = next(row for row in self.seen if row[0] >= seconds)
        # The last ones leave places empty that nobody wants.
        last = next(row for row in self.seen if row[3] >= 0.97 * self.requests)
        took, *counts = (b - a for a, b in zip(first, last, strict=True))
        return (took, *map(int, counts))  # type: ignore[return-value]


async def main(arguments: argparse.Namespace) -> bool:
    allowed = min(arguments.rate, arguments.open / (arguments.answer_ms / 1000))
    print(
        f"{arguments.workers} workers, {arguments.requests} requests; "
        f"{arguments.open} at a time and {arguments.rate} a second are allowed, "
        f"{allowed:.0f} a second with answers of {arguments.answer_ms} ms"
    )
    good = True
    with tempfile.TemporaryDirectory() as folder:
        shared = "false" if arguments.off else "true"
        env = {"MILLRACE_LOG_LEVEL": "warning", "MILLRACE_CAPACITY_SHARED": shared}
        stack = Stack(Path(folder), extra_env=env)
        await stack.start(arguments.workers)
        try:
            for advertised in (True, False):
                model = (
                    f"limited,tokens=2,ttft_ms={arguments.answer_ms},allow_open={arguments.open},"
                    f"allow_rate={arguments.rate}{',advertise' if advertised else ''}"
                )
                run = Run(stack, model, arguments.requests)
                roles = _roles(stack)
                cpu = cpu_by_role(roles)
                await run.run(arguments.clients)
                used_us = {
                    role: (after - cpu[role]) / 1000 / arguments.requests
                    for role, after in cpu_by_role(roles).items()
                }
                took, calls, refused, answered = run.after(WARM_S)
                part, used = refused / max(1, calls), answered / took / allowed
                whole = arguments.requests / run.seen[-1][0] / allowed
                met = part <= MOST_REFUSED[advertised] and (used >= USED or not advertised)
                good = good and met and run.answered == run.requests
                name = "in headers" if advertised else "not told"
                print(
                    f"{name:10}  after {WARM_S:g} s: {refused} of {calls} calls refused "
                    f"({part:.2%}), {used:.0%} used; from the beginning {run.seen[-1][2]} refused, "
                    f"{whole:.0%} used; {_answers(run)}{'' if met else '  MISSED'}"
                )
                each = ", ".join(f"{role} {us:.0f}" for role, us in used_us.items())
                print(f"{'':10}  CPU us a request: {each}; all {sum(used_us.values()):.0f}")
        finally:
            await stack.stop()
    return good


def _answers(run: Run) -> str:
    wrong = "".join(f", {count} x {what}" for what, count in run.errors.items())
    return f"{run.answered} answered{wrong}"


def _roles(stack: Stack) -> Roles:
    """The processes by what they are, and this one, which asks."""
    roles: dict[str, list[int]] = {"clients": [os.getpid()]}
    for name, process in stack.processes.items():
        roles.setdefault(name.rstrip("0123456789"), []).append(process.popen.pid)
    return roles


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--open", type=int, default=100, help="calls at a time that are allowed")
    parser.add_argument("--rate", type=int, default=500, help="calls in any second")
    parser.add_argument("--answer-ms", type=int, default=150)
    parser.add_argument("--off", action="store_true", help="workers share nothing")
    return parser.parse_args()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(not runner.run(main(_arguments())))
