"""Turns samples into figures, a table and goals met or missed; pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.measure import Record, Sample
from bench.phases import GOALS, Goal, Phase

# What a request costs us; the broker works beside requests and is shown by itself.
SUMMED_ROLES = frozenset({"edge", "worker", "nats"})
ROLE_COLUMNS = ("edge", "worker", "nats", "broker")
OURS = "millrace"
_FIRST_PHASE = "unary-1"

Figures = dict[str, Any]


def figures(records: Mapping[str, Record], phases: Sequence[Phase]) -> dict[str, Figures]:
    """The medians of all targets, by target; times in ms, CPU in us, memory in MB (10^6 bytes)."""
    found = {name: _of(record, phases) for name, record in records.items()}
    for mine in found.values():
        for other, name in (("direct", "added_ms"), *_RATIOS):
            if other in found and mine is not found[other]:
                mine[name] = (
                    _added(mine, found[other]) if other == "direct" else _ratios(mine, found[other])
                )
    ours, peer = found.get(OURS), found.get("litellm")
    if ours and peer:
        rates = peer["rps"]
        ours["times_litellm_rps"] = {
            phase: rate / rates[phase] for phase, rate in ours["rps"].items() if rates.get(phase)
        }
    return found


_RATIOS = (("relay", "times_relay"), ("litellm", "times_litellm"))


def _of(record: Record, phases: Sequence[Phase]) -> Figures:
    result: Figures = {
        "rps": {},
        "latency_ms": {},
        "ttft_ms": {},
        "cpu_us_by_role": {},
        "cpu_us_per_request": {},
        "cpu_us_per_chunk": {},
    }
    for phase in phases:
        samples = [s for s in record.samples.get(phase.name, ()) if s.requests]
        if not samples:
            continue
        result["rps"][phase.name] = statistics.median(s.rps for s in samples)
        result["latency_ms"][phase.name] = _median_spread(s.latency_ms for s in samples)
        if phase.stream:
            result["ttft_ms"][phase.name] = _median_spread(s.ttft_ms for s in samples)
        summed = statistics.median(map(_summed, samples))
        result["cpu_us_per_request"][phase.name] = summed
        result["cpu_us_by_role"][phase.name] = {
            role: statistics.median(s.cpu_ns.get(role, 0) / 1000 / s.requests for s in samples)
            for role in samples[0].cpu_ns
        }
        if phase.chunks:
            result["cpu_us_per_chunk"][phase.name] = summed / phase.chunks
    result["rss_idle_mb"] = {role: size / 1e6 for role, size in record.rss_idle.items()}
    result["rss_mb"] = {role: size / 1e6 for role, size in record.rss_after.items()}
    result["largest_rss_mb"] = max(result["rss_mb"].values(), default=0.0)
    result["requests"] = record.requests
    result["errors_by_kind"] = dict(record.errors)
    result["errors"] = record.errors.total()
    return result


def _summed(sample: Sample) -> float:
    roles = SUMMED_ROLES & sample.cpu_ns.keys() or sample.cpu_ns.keys()
    return sum(sample.cpu_ns[role] for role in roles) / 1000 / sample.requests


def _median_spread(spreads: Iterable[dict[str, float] | None]) -> dict[str, float]:
    kept = [spread for spread in spreads if spread]
    return {name: statistics.median(spread[name] for spread in kept) for name in ("p50", "p99")}


def _added(mine: Figures, direct: Figures) -> dict[str, float]:
    """Latency at one client above the simulator's own."""
    ours, theirs = (each["latency_ms"].get(_FIRST_PHASE) for each in (mine, direct))
    return {name: ours[name] - theirs[name] for name in ours} if ours and theirs else {}


def _ratios(mine: Figures, other: Figures) -> dict[str, dict[str, float]]:
    """CPU and requests per second, as multiples of another target's."""
    return {
        name: {
            phase: value / other[name][phase]
            for phase, value in mine[name].items()
            if other[name].get(phase)
        }
        for name in ("cpu_us_per_request", "rps")
    }


def value_at(found: Figures, path: str) -> float | None:
    """The figure at a dotted path, None when it was not measured."""
    value: Any = found
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value if isinstance(value, (int, float)) else None


def goal_rows(ours: Figures, goals: Sequence[Goal] = GOALS) -> list[dict[str, Any]]:
    """Every goal with its figure; met is None when it was not measured."""
    rows = []
    for goal in goals:
        value = value_at(ours, goal.path)
        met = None if value is None else goal.met(value)
        rows.append({"title": goal.title, "limit": _limit(goal), "value": value, "met": met})
    return rows


def text(found: Mapping[str, Figures], phases: Sequence[Phase], rounds: int) -> str:
    """All tables, as aligned plain text."""
    parts = [f"Rounds, interleaved: {rounds}; medians of them. CPU in us per request, times in ms."]
    parts += [_phase_table(found, phases), _memory_table(found), _ratio_table(found, phases)]
    if OURS in found:
        parts.append(_goal_table(found[OURS]))
    return "\n\n".join(part for part in parts if part)


def _phase_table(found: Mapping[str, Figures], phases: Sequence[Phase]) -> str:
    head = ("phase", "target", "req/s", "p50", "p99", "ttft p50", "ttft p99", "CPU/req")
    rows: list[Sequence[str]] = [(*head, *ROLE_COLUMNS, "CPU/chunk")]
    for phase in phases:
        for name, mine in found.items():
            if phase.name not in mine["rps"]:
                continue
            latency, ttft = mine["latency_ms"][phase.name], mine["ttft_ms"].get(phase.name, {})
            roles = mine["cpu_us_by_role"][phase.name]
            rows.append(
                (
                    phase.title,
                    name,
                    _number(mine["rps"][phase.name]),
                    *(_number(latency[q]) for q in ("p50", "p99")),
                    *(_number(ttft.get(q)) for q in ("p50", "p99")),
                    _number(mine["cpu_us_per_request"][phase.name]),
                    *(_number(roles.get(role)) for role in ROLE_COLUMNS),
                    _number(mine["cpu_us_per_chunk"].get(phase.name)),
                )
            )
    return aligned(rows)


def _memory_table(found: Mapping[str, Figures]) -> str:
    rows: list[Sequence[str]] = [
        ("target", "added p50", "added p99", "requests", "errors", "RSS MB idle -> after")
    ]
    for name, mine in found.items():
        idle, after = mine["rss_idle_mb"], mine["rss_mb"]
        memory = ", ".join(f"{role} {idle.get(role, 0):.0f} -> {after[role]:.0f}" for role in after)
        added = mine.get("added_ms", {})
        errors = ", ".join(f"{count} {kind}" for kind, count in mine["errors_by_kind"].items())
        rows.append(
            (
                name,
                _number(added.get("p50")),
                _number(added.get("p99")),
                str(mine["requests"]),
                errors or "0",
                memory,
            )
        )
    return aligned(rows, last_left=True)


def _ratio_table(found: Mapping[str, Figures], phases: Sequence[Phase]) -> str:
    ours = found.get(OURS, {})
    rows: list[Sequence[str]] = []
    for peer, name in _RATIOS:
        for label, kind in (("CPU", "cpu_us_per_request"), ("req/s", "rps")):
            if ratios := ours.get(name, {}).get(kind):
                shown = (_number(ratios.get(phase.name)) for phase in phases)
                rows.append((f"{OURS} / {peer}, {label}", *shown))
    head = ("ratio", *(phase.name for phase in phases))
    return aligned([head, *rows]) if rows else ""


def _goal_table(ours: Figures) -> str:
    rows: list[Sequence[str]] = [("goal", "limit", "figure", "")]
    for row in goal_rows(ours):
        verdict = {True: "ok", False: "miss", None: "not measured"}[row["met"]]
        rows.append((row["title"], row["limit"], _number(row["value"]), verdict))
    return aligned(rows)


def _limit(goal: Goal) -> str:
    return f"{'>=' if goal.at_least else '<='} {goal.limit:g} {goal.unit}".rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def aligned(rows: Sequence[Sequence[str]], *, last_left: bool = False) -> str:
    """Columns of text: words to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    words = [_is_words(rows, column) for column in range(len(widths))]
    if last_left:
        words[-1] = True
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, words, strict=True)
        ).rstrip()
        for row in rows
    )


def _is_words(rows: Sequence[Sequence[str]], column: int) -> bool:
    return any(row[column][:1].isalpha() for row in rows[1:])
