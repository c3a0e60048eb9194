from __future__ import annotations

from collections import Counter

import pytest

from bench.measure import Record, Sample
from bench.phases import GOALS, PHASES, Goal, Phase
from bench.report import aligned, figures, goal_rows, text, value_at

ONE = Phase("unary-1", "one client", "tokens=20", 1, 1.0)
BURST = Phase("burst-64", "bursts", "tokens=20,burst", 64, 1.0, stream=True, chunks=20)


def sample(rps: float, p50: float, cpu_us: dict[str, float], requests: int = 100) -> Sample:
    spread = {"p50": p50, "p99": 10 * p50, "max": 100.0}
    cpu_ns = {role: int(us * 1000 * requests) for role, us in cpu_us.items()}
    return Sample(requests, rps, spread, spread, cpu_ns, {}, 0.0)


def record(*samples: Sample, phase: Phase = ONE) -> Record:
    return Record(samples={phase.name: list(samples)}, requests=100 * len(samples))


def test_figures_are_medians_of_the_rounds() -> None:
    rounds = [
        sample(10, 1, {"edge": 100}),
        sample(99, 9, {"edge": 900}),
        sample(20, 2, {"edge": 200}),
    ]
    found = figures({"millrace": record(*rounds)}, [ONE])["millrace"]
    assert found["rps"]["unary-1"] == 20
    assert found["latency_ms"]["unary-1"] == {"p50": 2, "p99": 20}
    assert found["cpu_us_per_request"]["unary-1"] == 200


def test_the_sum_is_edge_worker_and_nats_and_the_broker_is_shown_beside_it() -> None:
    cpu = {"edge": 100.0, "worker": 200.0, "nats": 50.0, "broker": 7.0, "sim": 1000.0}
    mine = record(sample(1, 1, cpu), phase=BURST)
    found = figures({"millrace": mine}, [BURST])["millrace"]
    assert found["cpu_us_per_request"]["burst-64"] == 350
    assert found["cpu_us_per_chunk"]["burst-64"] == 17.5
    assert found["cpu_us_by_role"]["burst-64"]["broker"] == 7


def test_latency_is_added_to_the_simulators_own_and_ratios_are_to_the_relay() -> None:
    records = {
        "direct": record(sample(1000, 1, {"sim": 10})),
        "relay": record(sample(500, 2, {"relay": 100})),
        "millrace": record(sample(250, 3, {"edge": 300})),
        "litellm": record(sample(25, 30, {"litellm": 9000})),
    }
    ours = figures(records, [ONE])["millrace"]
    assert ours["added_ms"] == {"p50": 2, "p99": 20}
    assert ours["times_relay"]["cpu_us_per_request"]["unary-1"] == 3
    assert ours["times_relay"]["rps"]["unary-1"] == 0.5
    assert ours["times_litellm_rps"]["unary-1"] == 10
    table = text(figures(records, [ONE]), [ONE], 5)
    assert "millrace / relay, CPU" in table


def test_a_phase_without_a_whole_answer_has_no_figures_but_its_errors() -> None:
    failed = Record(
        samples={"unary-1": [Sample(0, 0.0, None, None, {"edge": 1}, {"timeout": 3}, 0.0)]},
        errors=Counter(timeout=3),
    )
    found = figures({"millrace": failed}, [ONE])
    assert found["millrace"]["rps"] == {}
    assert found["millrace"]["errors"] == 3
    assert "3 timeout" in text(found, [ONE], 1)


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(9.9, False, True), (10.1, False, False), (9.9, True, False), (10.1, True, True)],
)
def test_goals_are_met_or_missed(value: float, at_least: bool, met: bool) -> None:
    goal = Goal("a.b", "a thing", 10, "x", at_least)
    assert goal_rows({"a": {"b": value}}, [goal])[0]["met"] is met
    assert goal_rows({}, [goal])[0]["met"] is None


def test_every_goal_is_a_figure_of_a_full_run() -> None:
    cpu = {"edge": 1.0, "worker": 1.0, "nats": 1.0}
    full = {phase.name: [sample(10, 1, cpu)] for phase in PHASES}
    records = {name: Record(samples=full) for name in ("direct", "millrace", "litellm")}
    ours = figures(records, PHASES)["millrace"]
    assert [goal.path for goal in GOALS if value_at(ours, goal.path) is None] == []


def test_tables_put_words_left_and_figures_right() -> None:
    assert aligned([("name", "n"), ("a", "1"), ("bb", "100")]) == "name    n\na       1\nbb    100"
