"""What is measured, and what the figures should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# With it the whole body is 1 KB.
PROMPT = ("The quick brown fox jumps over the lazy dog. " * 22)[:900]


@dataclass(frozen=True)
class Phase:
    """One kind of load. `model` is a model of the simulator."""

    name: str
    title: str
    model: str
    clients: int
    seconds: float
    stream: bool = False
    chunks: int = 0  # content chunks per answer, as the upstream sends them
    stagger_ms: float = 0.0

    def body(self, model: str) -> dict[str, Any]:
        """The request body, with the name by which a target knows this phase's model."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
        }
        return body | {"stream": True} if self.stream else body


PHASES = (
    Phase("unary-1", "unary, 1 client", "tokens=20", 1, 1.0),
    Phase("unary-16", "unary, 16 clients", "tokens=20", 16, 1.0),
    Phase("unary-64", "unary, 64 clients", "tokens=20", 64, 2.0),
    Phase("unary-256", "unary, 256 clients", "tokens=20", 256, 1.5),
    Phase("burst-64", "20 chunks at once, 64 clients", "tokens=20,burst", 64, 1.5, True, 20),
    Phase(
        "paced-16",
        "50 chunks 20 ms apart, 16 clients",
        "tokens=50,delay_ms=20",
        16,
        2.5,
        stream=True,
        chunks=50,
        stagger_ms=20,
    ),
)


@dataclass(frozen=True)
class Goal:
    """A figure to reach: `path` is where `report.figures` puts it."""

    path: str
    title: str
    limit: float
    unit: str
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


GOALS = (
    Goal("cpu_us_per_request.unary-64", "CPU per unary request, 64 clients", 550, "us"),
    Goal("cpu_us_per_chunk.burst-64", "CPU per chunk in bursts", 25, "us"),
    Goal("cpu_us_per_chunk.paced-16", "CPU per chunk, 16 streams x 20 ms", 110, "us"),
    Goal("added_ms.p50", "added latency p50, 1 client", 2, "ms"),
    Goal("added_ms.p99", "added latency p99, 1 client", 8, "ms"),
    Goal("largest_rss_mb", "memory of the largest process", 110, "MB"),
    Goal("times_litellm_rps.unary-64", "requests/s against LiteLLM, 64 clients", 10, "x", True),
    Goal("errors", "errors", 0, ""),
)
