"""The bill is the same however often, and in whatever order, its records were written."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ledger import CLASSES, Ledger, Line
from broker.v1 import event_pb2, job_pb2, record_pb2

ROUTE = job_pb2.Route(provider="openai", pool="main", model="gpt-4o")


def attempt(
    request: str, number: int, outcome: record_pb2.Outcome.ValueType = record_pb2.OUTCOME_COMPLETED
) -> record_pb2.AttemptRecord:
    return record_pb2.AttemptRecord(
        request_id=request, attempt=number, tenant="acme", route=ROUTE, outcome=outcome
    )


def charge(request: str, tenant: str = "acme", **usage: Any) -> record_pb2.Charge:
    return record_pb2.Charge(
        request_id=request, tenant=tenant, route=ROUTE, usage=event_pb2.Usage(**usage)
    )


def group(
    *records: record_pb2.AttemptRecord | record_pb2.Charge,
) -> record_pb2.RecordGroup:
    made = record_pb2.RecordGroup()
    for record in records:
        if isinstance(record, record_pb2.Charge):
            made.charges.append(record)
        else:
            made.attempts.append(record)
    return made


def test_an_attempt_is_never_a_charge() -> None:
    ledger = Ledger()
    used = attempt("r1", 1)
    used.usage.input_tokens = 1000
    ledger.apply(group(used))
    total = ledger.total()
    assert (total.attempts, total.completed, total.charges) == (1, 1, 0)
    assert not any(total.tokens.values())


def test_a_charge_adds_every_class_of_tokens() -> None:
    ledger = Ledger()
    usage = {name: 2**n for n, name in enumerate(CLASSES)}
    ledger.apply(group(charge("r1", **usage), charge("r2", **usage)))
    assert ledger.total().tokens == {name: 2 * count for name, count in usage.items()}


def test_the_classes_are_all_disjoint_ones_of_the_contract() -> None:
    fields = {f.name for f in event_pb2.Usage.DESCRIPTOR.fields if f.name.endswith("_tokens")}
    # One is a part of cache_write_tokens, the others parts of output_tokens.
    parts = {"cache_write_1h_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"}
    assert set(CLASSES) == fields - parts


OUTCOMES = [
    (record_pb2.OUTCOME_COMPLETED, Line(attempts=1, completed=1)),
    (record_pb2.OUTCOME_FAILED, Line(attempts=1, failed=1)),
    (record_pb2.OUTCOME_CANCELLED, Line(attempts=1, cancelled=1)),
    (record_pb2.OUTCOME_UNSPECIFIED, Line(attempts=1)),
]


@pytest.mark.parametrize(("outcome", "line"), OUTCOMES)
def test_an_outcome_is_counted_where_it_belongs(
    outcome: record_pb2.Outcome.ValueType, line: Line
) -> None:
    ledger = Ledger()
    ledger.apply(group(attempt("r1", 1, outcome)))
    assert ledger.total() == line


def test_two_attempts_of_one_request_and_its_charge_are_three_records() -> None:
    ledger = Ledger()
    # The ids "r1" with attempt 11 and "r11" with attempt 1 are not the same.
    ledger.apply(group(attempt("r1", 11), attempt("r11", 1), charge("r1"), charge("r11")))
    assert (ledger.total().attempts, ledger.total().charges) == (2, 2)


def test_tenants_and_models_have_their_own_lines() -> None:
    ledger = Ledger()
    ledger.apply(group(charge("r1", "acme", output_tokens=1), charge("r2", "zeta")))
    assert {key: line.charges for key, line in ledger.lines.items()} == {
        ("acme", "openai", "gpt-4o"): 1,
        ("zeta", "openai", "gpt-4o"): 1,
    }
    assert ledger.total([ledger.lines["acme", "openai", "gpt-4o"]]).charges == 1


@given(
    written=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), max_size=8),
    shuffle=st.randoms(use_true_random=False),
)
def test_records_written_again_and_in_another_order_change_nothing(
    written: list[list[int]], shuffle: random.Random
) -> None:
    groups = [
        group(
            *(charge(f"r{n}", output_tokens=n + 1) for n in ids),
            *(attempt(f"r{n}", n) for n in ids),
        )
        for ids in written
    ]
    once, often = Ledger(), Ledger()
    for one in groups:
        once.apply(one)
    again = groups * 3
    shuffle.shuffle(again)
    for one in again:
        often.apply(one)
    assert once.total() == often.total()
    assert once.total().charges == len({n for ids in written for n in ids})


def test_the_ids_that_are_remembered_have_a_bound() -> None:
    ledger = Ledger(window=3)
    for n in range(10):
        ledger.apply(group(charge(f"r{n}")))
    ledger.apply(group(charge("r9"), charge("r8"), charge("r7")))
    assert ledger.total().charges == 10
    assert len(ledger._seen) == 3


def test_a_bill_is_made_out_by_what_is_asked_for() -> None:
    ledger = Ledger(by=("key", "day"), since="2026-11-02", until="2026-11-04")
    for number in range(1, 5):
        one = charge(f"r{number}", input_tokens=number)
        one.key = f"key_{number % 2}"
        one.charged_at_ms = 1_793_491_200_000 + (number - 1) * 86_400_000  # 2026-11-01
        if number == 2:
            one.cost.nano_usd = 7
        ledger.apply(group(one, one))
    assert {place: line.charges for place, line in ledger.lines.items()} == {
        ("key_0", "2026-11-02"): 1,
        ("key_1", "2026-11-03"): 1,
    }
    total = ledger.total()
    assert (total.cost_nano, total.unpriced, total.tokens["input_tokens"]) == (7, 1, 5)
