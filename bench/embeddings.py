"""What 2,048 embeddings in one request cost, beside the bare relay: `python -m bench.embeddings`.

CPU per request of all processes but the simulator, in milliseconds, for each format.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import orjson

from bench.meter import cpu_by_role
from bench.targets import Place, Target, direct, millrace, relay

INPUTS = 2048
GOAL = 3.0
_TEXT = "The quick brown fox jumps over the lazy dog, number %d."


def ask(target: Target, prefix: str, form: str) -> int:
    """One request; returns the size of its answer, which has to be whole."""
    body = {
        "model": f"{prefix}sim",
        "input": [_TEXT % number for number in range(INPUTS)],
        "encoding_format": form,
    }
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    connection = http.client.HTTPConnection(target.host, target.port, timeout=60)
    try:
        connection.request("POST", "/v1/embeddings", json.dumps(body), headers)
        reply = connection.getresponse()
        answer = reply.read()
    finally:
        connection.close()
    if reply.status != 200 or len(orjson.loads(answer)["data"]) != INPUTS:
        raise SystemExit(f"{target.name}: {reply.status} {answer[:300]!r}")
    return len(answer)


def cost_ms(target: Target, prefix: str, form: str, requests: int) -> float:
    """CPU milliseconds per request."""
    before = cpu_by_role(target.roles())
    for _ in range(requests):
        ask(target, prefix, form)
    after = cpu_by_role(target.roles())
    spent = sum(after[role] - before.get(role, 0) for role in after if role != "sim")
    return spent / requests / 1e6


def compare(targets: Sequence[tuple[Target, str]], form: str, rounds: int, requests: int) -> float:
    """Measure the targets in turn and print them; returns the last one's cost over the first's."""
    costs: dict[str, list[float]] = {target.name: [] for target, _ in targets}
    size = 0
    for target, prefix in targets:
        size = ask(target, prefix, form)
    for _ in range(rounds):
        for target, prefix in targets:
            costs[target.name].append(cost_ms(target, prefix, form, requests))
    middle = {name: median(values) for name, values in costs.items()}
    for name, values in costs.items():
        shown = " ".join(f"{value:.1f}" for value in values)
        print(f"{form:>6} {size / 1e6:5.1f} MB  {name:<8} {middle[name]:6.1f} ms  ({shown})")
    first, *_, last = middle.values()
    return last / first


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sim = stack.enter_context(direct(Path(folder)))
        place = Place(Path(folder), sim)
        targets = [
            (stack.enter_context(relay(place)), ""),
            (stack.enter_context(millrace(place)), "sim/"),
        ]
        time.sleep(1.0)
        for form in ("base64", "float"):
            ratio = compare(targets, form, options.rounds, options.requests)
            print(f"{form:>6} {ratio:.2f} times the relay (goal: {GOAL:g})")


if __name__ == "__main__":
    main()
