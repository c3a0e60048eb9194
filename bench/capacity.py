"""Whether many workers keep within what a provider allows, and use it: `python -m bench.capacity`.

Ten workers, 10,000 requests, and a provider (sim) that allows 100 calls at a time and 500 in any
second. After the first five seconds, 2 % of its calls may be refused where it says in its headers
what it allows, 5 % where it does not; 90 % of what it allows has to be used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.stack import KEY, Stack

WARM_S = 5.0
USED = 0.9
MOST_REFUSED = {True: 0.02, False: 0.05}


@dataclass
class Run:
    """One model that is limited, asked by many clients until all requests are answered."""

    stack: Stack
    model: str
    requests: int
    statuses: dict[int, int] = field(default_factory=dict)
    # Seconds since the beginning, calls, refusals and answers by then.
    seen: list[tuple[float, int, int, int]] = field(default_factory=list)
    left: int = 0

    async def run(self, clients: int) -> None:
        self.left = self.requests
        before = await self.stack.sim_stats()
        watching = asyncio.create_task(self._watch(before))
        await asyncio.gather(*(self._client() for _ in range(clients)))
        await asyncio.sleep(0.2)
        watching.cancel()

    async def _client(self) -> None:
        body = json.dumps(
            {"model": f"sim/{self.model}", "messages": [{"role": "user", "content": "hello"}]}
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        port = self.stack.edges["edge"][0]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while self.left > 0:
            self.left -= 1
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(line for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            status = int(lines[0].split()[1])
            self.statuses[status] = self.statuses.get(status, 0) + 1
        writer.close()

    async def _watch(self, before: dict[str, object]) -> None:
        begun = time.monotonic()
        while True:
            stats = await self.stack.sim_stats()
            calls, refused = (
                stats[of].get(name, 0) - before[of].get(name, 0)  # type: ignore[attr-defined]
                for of, name in (("by_model", self.model), ("by_status", "429"))
            )
            answered = self.statuses.get(200, 0)
            self.seen.append((time.monotonic() - begun, calls, refused, answered))
            await asyncio.sleep(0.1)

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
                await run.run(arguments.clients)
                took, calls, refused, answered = run.after(WARM_S)
                part, used = refused / max(1, calls), answered / took / allowed
                whole = arguments.requests / run.seen[-1][0] / allowed
                met = part <= MOST_REFUSED[advertised] and (used >= USED or not advertised)
                good = good and met and set(run.statuses) == {200}
                name = "in headers" if advertised else "not told"
                print(
                    f"{name:10}  after {WARM_S:g} s: {refused} of {calls} calls refused "
                    f"({part:.2%}), {used:.0%} used; from the beginning {run.seen[-1][2]} refused, "
                    f"{whole:.0%} used; answers {run.statuses}{'' if met else '  MISSED'}"
                )
        finally:
            await stack.stop()
    return good


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
    sys.exit(not asyncio.run(main(_arguments())))
