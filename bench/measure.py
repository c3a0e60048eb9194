"""Puts load on targets, phase by phase and round by round, and keeps what each of them cost."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.meter import cpu_by_role, memory_by_role
from bench.phases import Phase
from bench.processes import BenchError
from bench.targets import Target

# Memory is looked at after this many requests, because leaks show late.
SETTLED_REQUESTS = 10_000
_SETTLING_SECONDS = 60.0
_WARM_UP_SECONDS = 0.5
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Sample:
    """One phase on one target in one round; times in milliseconds, CPU in nanoseconds."""

    requests: int
    rps: float
    latency_ms: dict[str, float] | None
    ttft_ms: dict[str, float] | None
    cpu_ns: dict[str, int]
    errors: dict[str, int]
    generator_cpu_seconds: float


@dataclass
class Record:
    """All that was seen of one target."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    rss_idle: dict[str, int] = field(default_factory=dict)
    rss_after: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Meter:
    """Measures targets with one load generator process."""

    def __init__(self, load: subprocess.Popen[str], sim: Target, scale: float = 1.0) -> None:
        self._load = load
        self._sim = sim
        self._scale = scale
        self._expected: dict[str, str] = {}
        self.records: dict[str, Record] = {}

    def warm_up(self, target: Target, phases: Sequence[Phase]) -> None:
        """Sends each target a little of every kind, uncounted; remembers its idle memory."""
        record = self.records.setdefault(target.name, Record())
        record.rss_idle = memory_by_role(target.roles())
        for phase in phases:
            if phase.clients > 1:
                self._send(target, phase, min(phase.seconds * self._scale, _WARM_UP_SECONDS))

    def rounds(
        self,
        targets: Sequence[Target],
        phases: Sequence[Phase],
        count: int,
        tell: Callable[[str], None],
    ) -> None:
        """Measures every phase on every target, in turn, `count` times."""
        for number in range(count):
            for phase in phases:
                # Nobody shall always come first.
                first = number % len(targets)
                for target in [*targets[first:], *targets[:first]]:
                    tell(f"round {number + 1}/{count}: {phase.title}: {target.name}")
                    self.measure(target, phase)

    def measure(self, target: Target, phase: Phase) -> Sample:
        """One phase on one target."""
        time.sleep(_PAUSE_SECONDS)
        before = cpu_by_role(target.roles())
        report = self._send(target, phase, phase.seconds * self._scale)
        after = cpu_by_role(target.roles())
        sample = Sample(
            requests=report["requests"],
            rps=report["rps"],
            latency_ms=report["latency_ms"],
            ttft_ms=report["ttft_ms"],
            cpu_ns={role: after[role] - before.get(role, 0) for role in after},
            errors=report["errors"],
            generator_cpu_seconds=report["generator_cpu_seconds"],
        )
        self.records[target.name].samples.setdefault(phase.name, []).append(sample)
        return sample

    def settle(self, target: Target, phase: Phase | None) -> None:
        """Looks at a target's memory, after SETTLED_REQUESTS when given a phase to reach them."""
        record = self.records[target.name]
        missing = SETTLED_REQUESTS - record.requests
        if phase is not None and missing > 0 and self._scale >= 1:
            self._send(target, phase, _SETTLING_SECONDS, requests=missing)
        record.rss_after = memory_by_role(target.roles())

    def _send(
        self, target: Target, phase: Phase, seconds: float, requests: int | None = None
    ) -> dict[str, Any]:
        job = {
            "host": target.host,
            "port": target.port,
            "key": target.key,
            "body": phase.body(target.model(phase)),
            "clients": phase.clients,
            "seconds": seconds,
            "requests": requests,
            "expect": self._expected_text(phase),
            "stagger_ms": phase.stagger_ms,
        }
        assert self._load.stdin is not None
        assert self._load.stdout is not None
        self._load.stdin.write(json.dumps(job) + "\n")
        self._load.stdin.flush()
        line = self._load.stdout.readline()
        if not line:
            raise BenchError("the load generator ended")
        report: dict[str, Any] = json.loads(line)
        record = self.records[target.name]
        record.requests += report["requests"]
        record.errors.update(report["errors"])
        return report

    def _expected_text(self, phase: Phase) -> str:
        """The whole answer, from the simulator itself and without its pacing."""
        model = phase.model.partition(",")[0]
        if model not in self._expected:
            connection = http.client.HTTPConnection(self._sim.host, self._sim.port, timeout=10)
            body = json.dumps({**phase.body(model), "stream": False})
            connection.request("POST", "/v1/chat/completions", body)
            answer = json.loads(connection.getresponse().read())
            connection.close()
            self._expected[model] = answer["choices"][0]["message"]["content"]
        return self._expected[model]
