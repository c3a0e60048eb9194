"""Runs the bench: `python -m bench [--peers] [--quick] [--json OUT]`.

Starts the simulator, a bare relay, Millrace and (with --peers or PEERS=1) LiteLLM's proxy, measures
them in turn, prints one table and writes the figures as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import Meter
from bench.phases import PHASES
from bench.processes import BenchError, leave_on_signals, module, running
from bench.report import OURS, figures, goal_rows, text
from bench.targets import STARTERS, Place, Target, direct

_DEFAULT_OUT = Path(__file__).resolve().parent / "results" / "latest.json"
_ROUNDS = 5


def main() -> None:
    arguments = _arguments()
    start = time.monotonic()
    leave_on_signals()
    try:
        result = _measure(arguments)
    except BenchError as exc:
        sys.exit(f"bench: {exc}")
    print(result.pop("text"))
    result["seconds"] = time.monotonic() - start
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{result['seconds']:.0f} s; all figures: {arguments.json}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="measure LiteLLM's proxy too")
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    parser.add_argument("--json", type=Path, default=_DEFAULT_OUT, metavar="OUT")
    parser.add_argument("--only", help="targets besides the simulator: " + ",".join(STARTERS))
    parser.add_argument("--phases", help="of " + ",".join(phase.name for phase in PHASES))
    parser.add_argument("--scale", type=float, default=1.0, help="makes the phases longer, shorter")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else ["relay", OURS]
    if (arguments.peers or os.environ.get("PEERS", "") not in ("", "0")) and "litellm" not in names:
        names.append("litellm")
    phases = arguments.phases.split(",") if arguments.phases else [p.name for p in PHASES]
    for given, known in ((names, [*STARTERS]), (phases, [p.name for p in PHASES])):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    arguments.names = names
    arguments.chosen = [phase for phase in PHASES if phase.name in phases]
    return arguments


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    phases, rounds = arguments.chosen, 1 if arguments.quick else _ROUNDS
    load_average = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millrace-bench-")))
        sim = stack.enter_context(direct(folder))
        load = stack.enter_context(running(module("bench.load"), log=folder / "load.log"))
        targets = [sim, *_start(arguments.names, Place(folder, sim), stack)]
        meter = Meter(load, sim, arguments.scale)
        for target in targets:
            _tell(f"warming up {target.name}")
            meter.warm_up(target, phases)
        meter.rounds(targets, phases, rounds, _tell)
        settling = next((p for p in phases if p.name == "unary-64"), phases[0])
        for target in targets:
            _tell(f"looking at the memory of {target.name}")
            meter.settle(target, settling if target.name == OURS else None)
        _tell("")
        found = figures(meter.records, phases)
        records = meter.records
    return {
        "text": text(found, phases, rounds),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_average_before": load_average,
        },
        "rounds": rounds,
        "phases": [asdict(phase) for phase in phases],
        "targets": found,
        "goals": goal_rows(found[OURS]) if OURS in found else [],
        "samples": {
            name: {phase: [asdict(s) for s in kept] for phase, kept in record.samples.items()}
            for name, record in records.items()
        },
    }


def _start(names: Sequence[str], place: Place, stack: contextlib.ExitStack) -> list[Target]:
    targets = []
    for name in names:
        _tell(f"starting {name}")
        try:
            targets.append(stack.enter_context(STARTERS[name](place)))
        except BenchError as exc:
            if name == OURS:
                raise
            _tell("")
            print(f"bench: left out {name}: {exc}", file=sys.stderr)
    return targets


def _tell(what: str) -> None:
    """Shows what is going on, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
